"""Token entropy and margin: how open the model's choice was at each token.

    entropy: exp(-1/T sum_t H_t),  H_t = -sum_v p_t(v) log p_t(v)       margin: 1/T sum_t (p_t(first) - p_t(second))

exp(-H) is one over the number of equally likely tokens the model might have chosen from. Many ways to say the same thing count as doubt
here; semantic entropy is the answer to that.
Source: A. Malinin & M. Gales, Uncertainty estimation in autoregressive structured prediction, arXiv:2002.07650.
Cost: none; the margin asks for two alternatives of each token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from steelyard.augment.uncertainty.measure import Asked, bounded


@dataclass(frozen=True)
class TokenEntropy:
    """The inverse of how many tokens the model hesitated between, on average."""

    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "entropies"})
    tokens: ClassVar[bool] = True
    alternatives: ClassVar[int] = 0

    async def value(self, asked: Asked) -> float | None:
        entropies = [token.entropy for token in asked.answer.tokens]
        if not entropies or not all(map(math.isfinite, entropies)):
            return None
        return bounded(math.exp(-sum(entropies) / len(entropies)))


@dataclass(frozen=True)
class TokenMargin:
    """How far the likeliest token was ahead of the second."""

    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    tokens: ClassVar[bool] = True
    alternatives: ClassVar[int] = 2

    async def value(self, asked: Asked) -> float | None:
        found = [token.alternatives for token in asked.answer.tokens]
        if not found or any(len(others) < 2 or math.isnan(others[0][1] + others[1][1]) for others in found):
            return None
        return bounded(sum(math.exp(others[0][1]) - math.exp(others[1][1]) for others in found) / len(found))
