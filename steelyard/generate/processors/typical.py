"""Locally typical sampling: draw only tokens about as surprising as the model expects its next token to be.

People seldom say what is far likelier, or far less likely, than the average continuation. The expected surprise is the entropy H
of the next token; tokens are ranked by how far their own surprise lies from H, and the first whose probabilities reach `mass`
are kept:

    H = -sum_i p_i log p_i
    keep the smallest set of tokens i, in order of |-log p_i - H|, with sum p_i >= mass; ties at its edge are all kept

Source: C. Meister, T. Pimentel, G. Wiher, R. Cotterell, Locally Typical Sampling, arXiv:2202.00666, section 4; mass 0.95 and 0.2
are its settings for stories and summaries.
The set is found at the request's temperature, after constraints and penalties and before top-k, top-p and min-p, which go on to
cut what is left. Unlike theirs it may leave out the likeliest token, where that is far likelier than expected. At temperature 0
the distribution is one token, whose surprise is exactly the entropy: greedy answers do not change.
Cost: a softmax and a search among the nearest tokens for each token drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.processor import SHAPE, View
from steelyard.generate.sampling import COLDEST, cutoff
from steelyard.generate.spec import EngineSpec


class Typical(Lever):
    """Sampling from the locally typical set."""

    name: ClassVar[str] = "typical"
    idea: ClassVar[str] = (
        "People seldom say what is far likelier or far less likely than the average continuation, so only tokens whose surprise is near the "
        "entropy are drawn. Sampled answers change; greedy ones do not."
    )
    equation: ClassVar[str] = "H = -sum_i p_i log p_i; keep the tokens i with the smallest |-log p_i - H| until their p_i sum to mass"
    paper: ClassVar[str] = "arXiv:2202.00666"
    cost: ClassVar[str] = "A softmax over the vocabulary and a search among the tokens nearest the entropy, for each token drawn."
    main: ClassVar[str] = "mass"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    identity: ClassVar[dict] = {"mass": 1.0}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"
    per_request: ClassVar[bool] = True

    mass: float = Field(
        0.95, gt=0, le=1, allow_inf_nan=False, description="probability that the kept tokens reach, a share; 1 turns it off"
    )

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """Adds the filter to the engine."""
        return replace(spec, processors=(*spec.processors, TypicalSet(self.mass))) if self.mass < 1 else spec


@dataclass(frozen=True)
class TypicalSet:
    """Filters every sampled request; greedy ones get no session."""

    mass: float
    order: ClassVar[int] = SHAPE

    @property
    def fingerprint(self) -> str:
        return digest(["typical", self.mass])

    def start(self, settings: AnswerSettings) -> TypicalSession | None:
        return TypicalSession(self.mass, max(settings.temperature, COLDEST)) if settings.temperature else None


@dataclass(frozen=True)
class TypicalSession:
    """One request's filter. It looks at nothing but the logits, so there is nothing to remember."""

    mass: float
    temperature: float

    def __call__(self, logits: Tensor, view: View) -> Tensor:
        return typical(logits, self.mass, self.temperature)

    def advance(self, token: int) -> None:
        """Nothing to remember."""

    def rewind(self, count: int) -> None:
        """Nothing to forget."""


def typical(logits: Tensor, mass: float, temperature: float = 1.0) -> Tensor:
    """float32 [vocabulary] -> the same, with -infinity for tokens outside the typical set.

    Tokens already ruled out (-infinity) stay so and have no part in the entropy. A row holding NaN or +infinity loses every
    token, which the draw then refuses.
    """
    logprobs = torch.log_softmax((logits - logits.max()) / temperature, -1)
    probabilities = logprobs.exp()
    entropy = torch.special.entr(probabilities).sum()
    nearness = -(logprobs + entropy).abs()
    return torch.where(nearness >= cutoff(nearness, probabilities, mass), logits, float("-inf"))
