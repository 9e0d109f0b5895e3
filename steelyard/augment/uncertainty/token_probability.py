"""Token probability: how likely the model found its own words.

    joint = exp(sum_t log p_t)        mean = exp(1/T sum_t log p_t)        least = min_t p_t

The probabilities are the model's own, before any sampling filter. Joint falls with length, mean and least do not: compare answers of one
length by joint, of many lengths by mean. A likely wording is no true statement: what is often said wrongly is likely too.
Source: S. Kadavath et al., arXiv:2207.05221 (as a baseline); length normalisation: A. Malinin & M. Gales, arXiv:2002.07650.
Cost: none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from steelyard.augment.uncertainty.measure import Asked, bounded


@dataclass(frozen=True)
class TokenProbability:
    """The product, the geometric mean or the least of the tokens' probabilities."""

    over: Literal["joint", "mean", "least"] = "mean"
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    tokens: ClassVar[bool] = True
    alternatives: ClassVar[int] = 0

    async def value(self, asked: Asked) -> float | None:
        logprobs = [token.logprob for token in asked.answer.tokens]
        if not logprobs or any(math.isnan(one) for one in logprobs):
            return None
        total = {"joint": sum(logprobs), "mean": sum(logprobs) / len(logprobs), "least": min(logprobs)}[self.over]
        return bounded(math.exp(total))
