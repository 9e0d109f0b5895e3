"""Word-level differences between two answers."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

# A word, one character of a script written without spaces, a run of white space, or one other character.
_SPACELESS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORDS = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+|\s+|[^\w\s]")
# The exact comparison is quadratic in the words; beyond this many pairs of words the heuristic of difflib that skips very
# frequent words keeps a page of hostile answers from taking minutes.
_EXACT_PAIRS = 400 * 400


@dataclass(frozen=True)
class Piece:
    """A stretch of text that both share, or that only the base (`gone`) or only the arm (`new`) has."""

    kind: Literal["same", "gone", "new"]
    text: str


def compare(base: str, arm: str) -> list[Piece]:
    """Pieces in reading order: same + gone spells the base's text, same + new the arm's."""
    a, b = _WORDS.findall(base), _WORDS.findall(arm)
    pieces: list[Piece] = []
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=len(a) * len(b) > _EXACT_PAIRS).get_opcodes():
        if kind == "equal":
            pieces.append(Piece("same", "".join(a[a0:a1])))
            continue
        if a0 < a1:
            pieces.append(Piece("gone", "".join(a[a0:a1])))
        if b0 < b1:
            pieces.append(Piece("new", "".join(b[b0:b1])))
    return pieces
