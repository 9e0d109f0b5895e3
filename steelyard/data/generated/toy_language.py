"""A toy language to translate into: another word for each word, in the same order, all of four letters.

Whoever translates it letter by letter needs a dictionary of twelve words and has to look at the right place of the sentence, nothing
else; so models of some hundred thousand weights learn it in minutes, and where they look shows in every letter.
"""

from __future__ import annotations

import random

WORDS = {
    "moon": "amil", "lake": "ukor", "rock": "betu", "bird": "fenn", "tree": "guda", "rain": "hosi",
    "wind": "jarm", "fire": "kipo", "snow": "luma", "road": "mezu", "star": "novi", "hill": "olpe",
}  # fmt: skip
LEAST, MOST = 1, 6
"""Words of a sentence."""


def translated(sentence: str) -> str:
    """A sentence of known words in the toy language.

    Raises:
        KeyError: a word that is in no dictionary.
    """
    return " ".join(WORDS[word] for word in sentence.split())


def training_pair(draw: random.Random) -> tuple[str, str]:
    """A sentence and its translation."""
    sentence = " ".join(draw.choices(list(WORDS), k=draw.randint(LEAST, MOST)))
    return sentence, translated(sentence)
