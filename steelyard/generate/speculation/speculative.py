"""Speculative decoding: a small model guesses the next tokens, the answering model verifies them in one pass.

A pass over k + 1 tokens costs little more than one over a single token where memory is what limits, so every right guess is a pass
saved. With p of the answering model, q of the draft, both after the same processors and filters:

    rejection: accept d ~ q with probability min(1, p(d) / q(d)); at the first rejection say a token of max(0, p - q), scaled
    coupled:   d = draw(q, u), t = draw(p, u) with the same noise u(seed, position); accept d while d = t

`rejection` keeps the distribution and accepts with probability sum_i min(p_i, q_i), the most there can be; `coupled` keeps the very
text of plain decoding and accepts less often. At temperature 0 both say what greedy decoding says.
Sources: Y. Leviathan, M. Kalman, Y. Matias, Fast Inference from Transformers via Speculative Decoding, arXiv:2211.17192; C. Chen et al.,
Accelerating Large Language Model Decoding with Speculative Sampling, arXiv:2302.01318. One noise for both sides:
M. Daliri, C. Musco, A. T. Suresh, arXiv:2408.07978.
Cost: the draft's weights and its memory of every slot; `tokens` passes of the draft for each of the answering model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from steelyard.core.errors import UnsupportedError
from steelyard.core.levers import Lever
from steelyard.core.references import ModelRef
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.drafting import Drafter, Verify

COMPANION = "draft"


class Speculative(Lever):
    """Speculation by a draft model."""

    name: ClassVar[str] = "speculative"
    idea: ClassVar[str] = (
        "A small model that shares the tokenizer guesses several tokens, and the answering model verifies them in one pass. What is said is "
        "distributed as without it (`rejection`), or is the same to the letter (`coupled`)."
    )
    equation: ClassVar[str] = "accept d ~ q with probability min(1, p(d)/q(d)); else draw from max(0, p - q), scaled to sum to 1"
    paper: ClassVar[str] = "arXiv:2211.17192, arXiv:2302.01318; coupled: arXiv:2408.07978"
    cost: ClassVar[str] = (
        "The draft's weights and its keys and values; `tokens` passes of the draft and a pass over up to tokens + 1 positions instead of one. "
        "Pays where the draft is much faster and mostly right."
    )
    main: ClassVar[str] = "draft"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    conflicts: ClassVar[frozenset[str]] = frozenset({"speculation"})
    provides: ClassVar[frozenset[str]] = frozenset({"speculation"})
    identity: ClassVar[dict] = {"tokens": 0}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "mechanism"
    per_request: ClassVar[bool] = True

    draft: ModelRef = Field(description="the model that guesses: a name, a directory, a .gguf file; same tokenizer as the answering model")
    tokens: int = Field(4, ge=0, le=32, description="longest guess, in tokens; 0 turns it off")
    verify: Verify = Field("rejection", description="`rejection` keeps the distribution, `coupled` the very text of plain decoding")

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """Adds the draft to the engine.

        Raises:
            UnsupportedError: the draft has another tokenizer than the answering model.
        """
        if not self.tokens:
            return spec
        draft = self.draft.value
        theirs, ours = (model.tokenizer and model.tokenizer.fingerprint for model in (draft, spec.model))
        if theirs != ours:
            raise UnsupportedError(
                f"the draft {self.draft.name} has another tokenizer than {spec.model.name}",
                where="speculative",
                do="Its guesses would mean other text. Use a smaller model of the same family, or `self_speculative` without a draft.",
            )
        return replace(spec, speculation=Drafter(self.tokens, COMPANION, self.verify), companions={**spec.companions, COMPANION: draft})
