"""Numbers as people write them: signs, thousands separators, decimals, fractions, powers of ten; compared exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# More digits than this are no answer to anything asked here, and would be slow to compare.
MOST_DIGITS = 400

_NUMBER = re.compile(
    r"""
    (?<!\w)(?<!\d\.)                                # not inside a word, nor behind a decimal point
    (?P<sign>[-+])?
    [$€£¥]?
    (?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)
    (?:\.(?P<decimals>\d+))?
    (?:[eE](?P<power>[-+]?\d{1,3})(?!\w))?
    (?:\s?/\s?(?P<under>\d+)(?![\d/]))?
    """,
    re.VERBOSE,
)
_MINUS = str.maketrans({"−": "-", "–": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-", "\u00a0": " ", "\u202f": " "})


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a text: its exact value and where it stands."""

    value: Fraction
    start: int
    end: int


def read_numbers(text: str) -> list[Number]:
    """Every number of a text, from left to right. A hyphen between two words or numbers is no sign."""
    text = text.translate(_MINUS)
    found = []
    for match in _NUMBER.finditer(text):
        whole, decimals, under = match["whole"].replace(",", ""), match["decimals"] or "", match["under"] or ""
        if max(len(whole), len(decimals), len(under)) > MOST_DIGITS:
            continue
        value = Fraction(int(whole + decimals), 10 ** len(decimals))
        if match["power"]:
            value *= Fraction(10) ** int(match["power"])
        if under and int(under):
            value /= int(under)
        found.append(Number(-value if match["sign"] == "-" else value, match.start(), match.end()))
    return found


def same_number(text: str, expected: float | int | str, tolerance: float = 0.0) -> bool:
    """Whether the last number of a text is the expected one, where reasoning may come before the answer.

    Args:
        text: the answer.
        expected: the number, as a number or as written.
        tolerance: largest accepted absolute difference.
    """
    found, wanted = read_numbers(text), read_numbers(str(expected))
    return bool(found and wanted) and abs(found[-1].value - wanted[0].value) <= Fraction(tolerance)
