"""Exact match and F1 of words between an answer and the accepted ones, as reading-comprehension sets score them (SQuAD, 1606.05250).

Both texts are lowered, stripped of punctuation and of the articles a, an, the, and split at white space. Of several accepted answers
the best counts. F1 is 2 P R / (P + R) over words with their counts; it is 1 where both have no words left.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(text: str) -> list[str]:
    """The words that count."""
    kept = "".join(letter for letter in text.lower() if not unicodedata.category(letter).startswith("P"))
    return _ARTICLES.sub(" ", kept).split()


def exact_match(text: str, accepted: Iterable[str]) -> bool:
    """Whether the answer is an accepted one, up to case, punctuation and articles."""
    said = normalised(text)
    return any(said == normalised(one) for one in accepted)


def contains(text: str, accepted: Iterable[str]) -> bool:
    """Whether an accepted answer stands in the text, as whole words."""
    said = f" {' '.join(normalised(text))} "
    return any(f" {' '.join(words)} " in said for one in accepted if (words := normalised(one)))


def f1(text: str, accepted: Sequence[str]) -> float:
    """The best F1 of words over the accepted answers; 0 where there are none."""
    return max((_f1(normalised(text), normalised(one)) for one in accepted), default=0.0)


def _f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))
