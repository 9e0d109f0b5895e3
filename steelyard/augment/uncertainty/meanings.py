"""Whether two answers mean the same: by their words, by their numbers, or because a judge says that each follows from the other.

The canonicaliser is exact and asks nobody: letters' case, accents, articles and punctuation do not count (`data/words.py`), and of an
answer its first sentence. A judge is asked both ways, and both must hold: "Paris, in France" entails "Paris", not the other way round.
Source of the two-way test: L. Kuhn, Y. Gal & S. Farquhar, arXiv:2302.09664.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from steelyard.core.protocols import Answerer, Message, ScoringAnswerer
from steelyard.data.words import normalise, sentences

Same = Callable[[str, str], Awaitable[bool]]
"""Whether two answers mean the same."""

QUESTION = (
    "Question: {question}\nPossible answer 1: {one}\nPossible answer 2: {other}\n"
    "Does possible answer 1 imply possible answer 2? Say Yes or No."
)


def canonical(text: str) -> str:
    """The comparable words of the first sentence that has any; of a text without a word, the text."""
    found = (normalise(sentence) for line in text.splitlines() for sentence in sentences(line))
    return next((said for said in found if said), text.strip())


async def equal_words(one: str, other: str) -> bool:
    """Whether two answers' first sentences have the same comparable words."""
    return canonical(one) == canonical(other)


def judged_by(judge: Answerer, question: str) -> Same:
    """Asks a judge whether each of two answers to a question implies the other; equal words are not asked about."""

    async def implies(one: str, other: str) -> bool:
        asked = [Message("user", QUESTION.format(question=question, one=one.strip(), other=other.strip()))]
        yes, no = await cast(ScoringAnswerer, judge).score(asked, ["Yes", "No"])
        return yes.logprob > no.logprob

    async def same(one: str, other: str) -> bool:
        return await equal_words(one, other) or all(await asyncio.gather(implies(one, other), implies(other, one)))

    return same


async def grouped(answers: Sequence[str], same: Same) -> list[int]:
    """For each answer the number of its meaning: the first group whose first member means the same."""
    firsts: list[str] = []
    numbers: list[int] = []
    for answer in answers:
        alike = [number for number, first in enumerate(firsts) if await same(first, answer)]
        numbers.append(alike[0] if alike else len(firsts))
        if not alike:
            firsts.append(answer)
    return numbers
