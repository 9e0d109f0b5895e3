"""Self-check: the share of further answers to the question that mean the same as the answer given.

    confidence = 1/N sum_i [sample_i means the same as the answer]

What a model knows it says again; what it makes up it makes up anew.
Source: P. Manakul, A. Liusie & M. Gales, SelfCheckGPT, arXiv:2303.08896 (there sentence by sentence, here answer by answer).
What means the same: see `meanings.py`. Cost: N answers more, and with a judge two questions for each that differs in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from steelyard.augment.uncertainty.measure import Asked
from steelyard.augment.uncertainty.semantic_entropy import meaning
from steelyard.core.protocols import Answerer


@dataclass(frozen=True)
class SelfCheck:
    """Agreement of samples with the answer.

    Attributes:
        count: samples, N.
        temperature: they are drawn at.
        judge: asked whether a sample means the same; None: equal words do.
    """

    count: int = 5
    temperature: float = 1.0
    judge: Answerer | None = None
    needs: ClassVar[frozenset[str]] = frozenset()
    tokens: ClassVar[bool] = False
    alternatives: ClassVar[int] = 0

    async def value(self, asked: Asked) -> float | None:
        same = meaning(self.judge, asked)
        samples = await asked.samples(self.count, self.temperature)
        return sum([await same(asked.answer.text, sample) for sample in samples]) / self.count
