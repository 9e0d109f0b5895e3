"""Verbalized confidence: the model is asked how sure it is, and its number is taken.

    p = (the first number from 0 to 100 that it says) / 100

Source: S. Lin, J. Hilton & O. Evans, Teaching models to express their uncertainty in words, arXiv:2205.14334. Models that were not taught
to say it choose a few round numbers, whatever they know; an answer without such a number has no confidence.
Cost: one more short answer. Needs no probabilities, so endpoints can be asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from steelyard.augment.uncertainty.measure import Asked
from steelyard.data.words import words

QUESTION = "How sure are you that this answer is right, from 0 (a guess) to 100 (certain)? Say the number alone."
LONGEST = 8


@dataclass(frozen=True)
class Verbalized:
    """What the model says of its own certainty."""

    needs: ClassVar[frozenset[str]] = frozenset()
    tokens: ClassVar[bool] = False
    alternatives: ClassVar[int] = 0

    async def value(self, asked: Asked) -> float | None:
        return stated(await asked.again(asked.with_answer(QUESTION), asked.brief(LONGEST)))


def stated(text: str) -> float | None:
    """The first whole number from 0 to 100 in a text, as a share; None where there is none."""
    found = [int(word) for word in words(text) if word.isascii() and word.isdigit() and len(word) <= 3]
    return next((number / 100 for number in found if number <= 100), None)
