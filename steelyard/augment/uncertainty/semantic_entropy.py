"""Semantic entropy: the question is answered several times, and it is counted how many different things were meant.

    H = -sum_c (n_c / N) log (n_c / N),  c over groups of N samples that mean the same;     confidence = 1 - H / log N

Groups are weighed by how many samples fell into them (the discrete form of the second paper), so no probabilities are needed.
Sources: L. Kuhn, Y. Gal & S. Farquhar, arXiv:2302.09664; S. Farquhar et al., Nature 630 (2024).
What means the same: see `meanings.py`. Cost: N answers more, and with a judge up to two questions for each pair of meanings.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from steelyard.augment.uncertainty.meanings import Same, equal_words, grouped, judged_by
from steelyard.augment.uncertainty.measure import Asked, bounded
from steelyard.core.protocols import Answerer


@dataclass(frozen=True)
class SemanticEntropy:
    """How little samples differ in meaning.

    Attributes:
        count: samples, N.
        temperature: they are drawn at.
        judge: asked whether two samples mean the same; None: equal words do.
    """

    count: int = 5
    temperature: float = 1.0
    judge: Answerer | None = None
    needs: ClassVar[frozenset[str]] = frozenset()
    tokens: ClassVar[bool] = False
    alternatives: ClassVar[int] = 0

    async def value(self, asked: Asked) -> float | None:
        samples = await asked.samples(self.count, self.temperature)
        sizes = Counter(await grouped(samples, meaning(self.judge, asked))).values()
        return bounded(1 - entropy(list(sizes)) / math.log(self.count))


def entropy(sizes: list[int]) -> float:
    """Entropy in nats of shares given as counts."""
    total = sum(sizes)
    return -sum(size / total * math.log(size / total) for size in sizes)


def meaning(judge: Answerer | None, asked: Asked) -> Same:
    """How answers to what is asked are compared."""
    question = next((message.content for message in reversed(asked.conversation) if message.role == "user"), "")
    return equal_words if judge is None else judged_by(judge, question)
