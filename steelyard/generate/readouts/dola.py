"""DoLa: decoding by contrasting layers. What the last layers add to an earlier one's view is taken for knowledge.

At each token the earlier layer whose view differs most from the final one's is subtracted from it:

    q_j = softmax(head(norm(stream after j blocks)));  M = argmax_j JSD(q_N, q_j) over the candidates j
    plausible = {x: q_N(x) >= alpha max q_N};  score(x) = log q_N(x) - strength log q_M(x), x in plausible

Source: Y.-S. Chuang, Y. Xie, H. Luo et al., DoLa, arXiv:2309.03883: strength 1, alpha 0.1, every other layer of the lower or the upper
half, and a repetition penalty of 1.2, which is a setting of every answer here. What becomes of tokens that are not plausible: see
`plausible.py`. The stream passes the final norm on its way to the head, which was trained to read it so; the authors' program leaves
the norm out.
Small models' layers are hardly of use to read early: on SmolLM2-135M the view after 28 of 30 blocks has the final one's likeliest token
half of the time, after 14 blocks a tenth, so the layer that differs most is close to noise.
Cost: the head is applied once more for every candidate layer, and C++ steps do not report layers, so the trunk goes its own way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from steelyard.core.errors import SteelyardError
from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.generate.host import Passage
from steelyard.generate.readouts.plausible import Tail, contrasted
from steelyard.generate.spec import EngineSpec

MOST = 20
"""Blocks that a half spans at most; the authors' rule for models of more than 40."""


class Dola(Lever):
    """Final layer minus an earlier one."""

    name: ClassVar[str] = "dola"
    idea: ClassVar[str] = (
        "Facts enter a model's view of the next token in its later layers, so the view of an earlier layer is subtracted from the final "
        "one. Which earlier layer is chosen at each token: the one that differs most."
    )
    equation: ClassVar[str] = "M = argmax_j JSD(q_N, q_j); score(x) = log q_N(x) - strength log q_M(x) for x with q_N(x) >= alpha max q_N"
    paper: ClassVar[str] = "arXiv:2309.03883"
    cost: ClassVar[str] = "The head is applied once more for every candidate layer; steps take the trunk's own way instead of C++'s."
    main: ClassVar[str] = "layers"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    identity: ClassVar[dict] = {"strength": 0.0}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "mechanism"
    per_request: ClassVar[bool] = True

    layers: Literal["low", "high"] | tuple[Annotated[int, Field(ge=0)], ...] = Field(
        "high", description="candidates: every other layer of the lower or the upper half, or a list of numbers of blocks (0 = none yet)"
    )
    strength: float = Field(
        1.0, ge=0, le=10, allow_inf_nan=False, description="weight of the earlier layer's log-probability; 0 turns it off"
    )
    alpha: float = Field(0.1, gt=0, le=1, description="least probability of a plausible token, as a share of the likeliest one's")
    tail: Tail = Field(
        "kept", description="tokens that are not plausible: kept (with the model's probability) or excluded (the paper's; scores are then "
        "infinitely low where a text holds one)"
    )  # fmt: skip

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """Adds the contrast to the engine.

        Raises:
            SteelyardError: a layer the model does not have, or none at all.
        """
        if not self.strength:
            return spec
        blocks = len(spec.model.trunk.plan.depth.blocks)
        tied = "lm" in spec.model.trunk.heads and bool(getattr(spec.model.trunk.plan.heads["lm"], "tied", False))
        layers = candidates(self.layers, blocks, tied)
        return replace(spec, readouts=(*spec.readouts, Layers(layers, self.strength, self.alpha, self.tail)))


def candidates(layers: Literal["low", "high"] | tuple[int, ...], blocks: int, tied: bool) -> tuple[int, ...]:
    """How many blocks stand below each candidate view.

    With a tied head the first views say the token just read again, so the lower half starts after two blocks.
    """
    half = blocks // 2 if blocks <= 2 * MOST else MOST
    if layers == "low":
        layers = tuple(range(2 if tied else 0, half, 2))
    elif layers == "high":
        layers = tuple(range(half if blocks <= 2 * MOST else blocks - MOST, blocks, 2))
    if wrong := [layer for layer in layers if layer >= blocks]:
        raise SteelyardError(f"layer {wrong[0]} of a model of {blocks} blocks", where="dola: layers", do=f"Name some of 0-{blocks - 1}.")
    if not layers or len(set(layers)) < len(layers):
        what = "a layer named twice" if layers else f"no candidate layer in a model of {blocks} blocks"
        raise SteelyardError(what, where="dola: layers", do=f"Name some of 0-{blocks - 1}, each once.")
    return layers


@dataclass(frozen=True)
class Layers:
    """The readout: looks at the stream before each of some blocks."""

    layers: tuple[int, ...]
    strength: float
    alpha: float
    tail: Tail
    beside: ClassVar[frozenset[str]] = frozenset()

    @property
    def sites(self) -> frozenset[str]:
        return frozenset(map(site, self.layers))

    @property
    def fingerprint(self) -> str:
        return digest(["dola", self.layers, self.strength, self.alpha, self.tail])

    def __call__(self, logits: Tensor, passage: Passage) -> Tensor:
        own = torch.log_softmax(logits, -1)
        views = (torch.log_softmax(passage.early(site(layer)), -1) for layer in self.layers)
        return contrasted(own, furthest(own, views)[0], self.strength, self.alpha, self.tail)


def site(layer: int) -> str:
    """Where the stream after so many blocks can be read."""
    return f"blocks.{layer}.input"


def furthest(own: Tensor, views: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """For each row the view that differs most from `own`, and its number; the first of equals.

    All are log-probabilities float32 [n, v]; only two views are held at a time.
    """
    entropy, chosen, number, most = entropies(own), None, None, None
    for place, view in enumerate(views):
        middle = torch.logaddexp(own, view) - math.log(2)
        divergence = entropies(middle) - (entropy + entropies(view)) / 2
        if chosen is None or number is None or most is None:
            chosen, number, most = view, torch.zeros(len(own), dtype=torch.int64, device=own.device), divergence
            continue
        more = divergence > most
        chosen = torch.where(more[:, None], view, chosen)
        number, most = number.masked_fill(more, place), torch.maximum(most, divergence)
    if chosen is None or number is None:
        raise SteelyardError("no view to choose from", where="dola")
    return chosen, number


def entropies(logprobs: Tensor) -> Tensor:
    """Entropy in nats of each row, float32 [n]. Row by row: PyTorch splits the sum of a lone row among threads, that of one among
    many not."""
    return torch.stack([torch.special.entr(row.exp()).sum() for row in logprobs])
