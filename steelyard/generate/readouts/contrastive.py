"""Contrastive decoding: say what an expert finds likelier than an amateur does.

What a weak model also says (repetition, the commonest word) is subtracted; what only the strong one knows is left:

    plausible = {x: p_expert(x) >= alpha max p_expert}
    score(x) = log p_expert(x) - strength log p_amateur(x), x in plausible;  p_amateur = softmax(z_amateur / temperature)

Source: X. L. Li, A. Holtzman, D. Fried et al., Contrastive Decoding, arXiv:2210.15097, whose strength is 1 and alpha 0.1. What
becomes of tokens that are not plausible: see `plausible.py`.
The amateur is any model of the same tokenizer. Where none is named it is the expert without the middle fifth of its blocks, whose
loss is least (arXiv:2403.03853): it still writes, but knows less. On SmolLM2-135M that takes encyclopedia text from 2.8 to 3.7
nats a token; without the upper fifth it is 14.7, and a contrast with noise helps nobody.
Cost: the amateur reads and writes every token too, with a cache of its own and weights of its own (a shortened expert's are a
second copy), and its head is applied as often as the expert's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.core.references import ModelRef
from steelyard.generate.host import Passage
from steelyard.generate.readouts.plausible import Tail, contrasted
from steelyard.generate.spec import EngineSpec
from steelyard.model.depth.shortened import shortened
from steelyard.model.model import Model

AMATEUR = "amateur"


class Contrastive(Lever):
    """Expert minus amateur."""

    name: ClassVar[str] = "contrastive"
    idea: ClassVar[str] = (
        "Among the tokens an expert finds plausible, prefer those an amateur finds less likely: what both say out of habit is subtracted, "
        "what only the expert knows is left. The amateur is a smaller model of the same tokenizer, or the expert without some of its blocks."
    )
    equation: ClassVar[str] = "score(x) = log p_expert(x) - strength log p_amateur(x) for x with p_expert(x) >= alpha max p_expert"
    paper: ClassVar[str] = "arXiv:2210.15097; the shortened amateur after arXiv:2403.03853"
    cost: ClassVar[str] = "The amateur reads and writes every token too; its weights and its cache are held beside the expert's."
    main: ClassVar[str] = "strength"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    conflicts: ClassVar[frozenset[str]] = frozenset({"contrastive"})
    identity: ClassVar[dict] = {"strength": 0.0}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "mechanism"
    per_request: ClassVar[bool] = True

    amateur: ModelRef | None = Field(None, description="model of the same tokenizer; unset: the expert without some of its blocks")
    without: float = Field(0.2, gt=0, lt=1, description="share of the expert's blocks, its middle ones, that its amateur lacks")
    strength: float = Field(1.0, ge=0, le=10, allow_inf_nan=False, description="weight of the amateur's log-probability; 0 turns it off")
    alpha: float = Field(0.1, gt=0, le=1, description="least probability of a plausible token, as a share of the likeliest one's")
    temperature: float = Field(1.0, gt=0, le=100, description="softmax temperature of the amateur")
    tail: Tail = Field(
        "kept", description="tokens that are not plausible: kept (with the expert's probability) or excluded (the paper's; scores are then "
        "infinitely low where a text holds one)"
    )  # fmt: skip

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """Puts the amateur beside the expert.

        Raises:
            UnsupportedError: an expert with too few blocks to do without some.
            SteelyardError: an engine that has an amateur already.
        """
        if not self.strength:
            return spec
        if AMATEUR in spec.companions:
            raise SteelyardError("the engine has an amateur already", where=self.name, do="Use one contrast at a time.")
        amateur = self.amateur.value if self.amateur is not None else self._shortened(spec.model)
        readout = Contrast(self.strength, self.alpha, self.temperature, self.tail)
        return replace(spec, companions={**spec.companions, AMATEUR: amateur}, readouts=(*spec.readouts, readout))

    def _shortened(self, expert: Model) -> Model:
        blocks = len(expert.trunk.plan.depth.blocks)
        missing = middle(blocks, self.without)
        if not missing or len(missing) == blocks:
            raise UnsupportedError(
                f"{expert.name} has {blocks} blocks and cannot do without a share of {self.without:g} of them",
                where=self.name,
                do="Name a smaller model of the same tokenizer as `amateur`.",
            )
        return replace(
            expert, trunk=shortened(expert.trunk, missing), name=f"{expert.name} without blocks {missing.start}-{missing.stop - 1}"
        )


def middle(blocks: int, share: float) -> range:
    """The middle blocks that make up a share of all."""
    count = round(blocks * share)
    start = (blocks - count) // 2
    return range(start, start + count)


@dataclass(frozen=True)
class Contrast:
    """The readout: looks at the amateur that reads along."""

    strength: float
    alpha: float
    temperature: float
    tail: Tail
    sites: ClassVar[frozenset[str]] = frozenset()
    beside: ClassVar[frozenset[str]] = frozenset({AMATEUR})

    @property
    def fingerprint(self) -> str:
        return digest(["contrastive", self.strength, self.alpha, self.temperature, self.tail])

    def __call__(self, logits: Tensor, passage: Passage) -> Tensor:
        amateur = passage.companion(AMATEUR)
        own, other = torch.log_softmax(logits, -1), torch.log_softmax(amateur / self.temperature, -1)
        return contrasted(own, other, self.strength, self.alpha, self.tail)
