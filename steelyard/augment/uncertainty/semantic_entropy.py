"""Semantic entropy: the question is answered several times, and it is counted how many different things were meant.

    H = -sum_c (n_c / N) log (n_c / N),  c over groups of N samples that mean the same;     confidence = 1 - H / log N

Groups are weighed by how many samples fell into them (the discrete form of the second paper), so no probabilities are needed.
Sources: L. Kuhn, Y. Gal & S. Farquhar, arXiv:2302.09664; S. Farquhar et al., Nature 630 (2024).
What means the same: see `meanings.py`. Cost: N answers more, and with a judge up to two questions for each pair of meanings.
"""

from __future__ import annotations

import math
from collections import Counter

from steelyard.augment.uncertainty.meanings import grouped
from steelyard.augment.uncertainty.measure import Asked, bounded
from steelyard.augment.uncertainty.sampled import Sampled


class SemanticEntropy(Sampled):
    """How little samples differ in meaning."""

    async def value(self, asked: Asked) -> float | None:
        sizes = Counter(await grouped(await self.samples(asked), self.same(asked))).values()
        return bounded(1 - entropy(list(sizes)) / math.log(self.count))


def entropy(sizes: list[int]) -> float:
    """Entropy in nats of shares given as counts."""
    total = sum(sizes)
    return -sum(size / total * math.log(size / total) for size in sizes)
