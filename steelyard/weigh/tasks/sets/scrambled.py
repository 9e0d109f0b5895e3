"""A control for sets that compare sentences: does the model know a sentence from its own words in another order?

Who does not, has no preference between two sentences for want of language, not for want of prejudice.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from steelyard.core.seeds import derive
from steelyard.weigh.tasks.task import Metric, Value

INTACT = Metric("intact_likelier", "quality", "share", True, margin=0.03, floor=0.5, binary=True)


def with_control(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The sentences, and the first with its words in another order behind them, where there is another."""
    scrambled = _scrambled(texts[0])
    return (*texts, scrambled) if scrambled else texts


def intact_likelier(sums: Sequence[float]) -> Value:
    """Whether the first sentence is likelier than the control, which stands last of three; None where there is none."""
    return float(sums[0] > sums[2]) if len(sums) == 3 else None


def _scrambled(text: str) -> str | None:
    """The words in another order, always the same one for a text; the last word, with the full stop, stays. None for short texts."""
    *words, last = text.split()
    if len(set(words)) < 3:
        return None
    rng, mixed = random.Random(derive("scrambled", text)), list(words)
    while mixed == words:
        rng.shuffle(mixed)
    return " ".join((*mixed, last))
