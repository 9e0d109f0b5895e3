"""Self-check: the share of further answers to the question that mean the same as the answer given.

    confidence = 1/N sum_i [sample_i means the same as the answer]

What a model knows it says again; what it makes up it makes up anew.
Source: P. Manakul, A. Liusie & M. Gales, SelfCheckGPT, arXiv:2303.08896 (there sentence by sentence, here answer by answer).
What means the same: see `meanings.py`. Cost: N answers more, and with a judge two questions for each that differs in words.
"""

from __future__ import annotations

from steelyard.augment.uncertainty.measure import Asked
from steelyard.augment.uncertainty.sampled import Sampled


class SelfCheck(Sampled):
    """Agreement of samples with the answer."""

    async def value(self, asked: Asked) -> float | None:
        same, samples = self.same(asked), await self.samples(asked)
        return sum([await same(asked.answer.text, sample) for sample in samples]) / self.count
