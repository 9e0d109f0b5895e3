"""What a cell of a table is: a number, nothing, or words. One rule, told in docs/conversations.md, kept here and in `web/src/cells.ts`.

A number is digits with at most one decimal sign, perhaps an exponent, a sign before it, a currency sign around it, a percent sign
after it (which changes nothing: 12 % is 12) and spaces at its ends. Digits may stand in groups of three. Whether a comma is a
decimal sign is decided for a whole column, because `1,234` alone cannot tell. What a double cannot hold (`1e400`) is words, as are
`NaN` and `Infinity`: nothing is ever computed with them. Page and server are held to one list of cases, `tests/cells.json`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LONGEST = 64
"""Most characters of a number; longer cells are words."""

# What JavaScript calls a space, so that page and server agree.
SPACES = "\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_EXPONENT = r"(?:[eE][+-]?[0-9]+)?"
_POINT = rf"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+){_EXPONENT}"
_POINT_GROUPED = rf"[1-9][0-9]{{0,2}}([,'\u2019{SPACES}])[0-9]{{3}}(?:\1[0-9]{{3}})*(?:\.[0-9]+)?"
_COMMA = rf"(?:[0-9]+,[0-9]+|,[0-9]+){_EXPONENT}"
_COMMA_GROUPED = rf"[1-9][0-9]{{0,2}}([.'\u2019{SPACES}])[0-9]{{3}}(?:\1[0-9]{{3}})*(?:,[0-9]+)?"
_FRAME = re.compile(rf"[{SPACES}$€£¥]*([+\-\u2212]?)[{SPACES}$€£¥]*([0-9.,](?:.*[0-9.])?)[{SPACES}$€£¥%]*", re.DOTALL)
_AS_POINT = (re.compile(_POINT), re.compile(_POINT_GROUPED))
_AS_COMMA = (re.compile(_COMMA), re.compile(_COMMA_GROUPED))
_ENDS = re.compile(rf"\A[{SPACES}]+|[{SPACES}]+\Z")
_GROUPS = re.compile(rf"['\u2019{SPACES}]")
_MISSING = frozenset({"-", "\u2013", "\u2014", "?", "na", "n/a", "#n/a", "nan", "null"})


@dataclass(frozen=True)
class Column:
    """What the cells of a column are.

    Attributes:
        values: a number for each cell that is one, else None.
        missing: for each cell whether it is empty, or, among numbers, a sign for nothing (`n/a`, `NaN`, `-`, ...).
    """

    values: tuple[float | None, ...]
    missing: tuple[bool, ...]

    @property
    def numeric(self) -> bool:
        """Whether it has numbers, and nothing but numbers and missing cells."""
        return any(value is not None for value in self.values) and all(
            gone or value is not None for value, gone in zip(self.values, self.missing, strict=True)
        )


def bare(cell: str) -> str:
    """A cell without the spaces at its ends."""
    return _ENDS.sub("", cell)


def number_of(cell: str, comma: bool = False) -> float | None:
    """A cell as a number, or None.

    Args:
        cell: as it stands in the table.
        comma: whether a comma is the decimal sign of its column; without it, a comma is one where it can be nothing else.
    """
    framed = _framed(cell)
    if framed is None:
        return None
    sign, body = framed
    for form in (*_AS_COMMA, *_AS_POINT) if comma else (*_AS_POINT, *_AS_COMMA):
        if form.fullmatch(body):
            body = _GROUPS.sub("", body)
            plain = body.replace(".", "").replace(",", ".") if form in _AS_COMMA else body.replace(",", "")
            value = float(plain)
            return (-value if sign else value) if math.isfinite(value) else None
    return None


def column_of(cells: Sequence[str], separator: str = ",") -> Column:
    """What the cells of a column are.

    Args:
        cells: of the column, without its heading.
        separator: between the cells of a row. Files with semicolons mostly have them because commas are decimal signs.
    """
    comma = decimal_comma(cells, separator)
    values = tuple(number_of(cell, comma) for cell in cells)
    trimmed = [bare(cell) for cell in cells]
    empty = tuple(cell == "" for cell in trimmed)
    signs = tuple(gone or cell.lower() in _MISSING for cell, gone in zip(trimmed, empty, strict=True))
    # `NA` between words may be a word (Namibia, sodium); between numbers it is none.
    numbers = all(gone or value is not None for value, gone in zip(values, signs, strict=True)) and any(v is not None for v in values)
    return Column(values, signs if numbers else empty)


def decimal_comma(cells: Iterable[str], separator: str) -> bool:
    """Whether a comma is the decimal sign of a column: some cell shows it and none shows a decimal point.

    In a file with semicolons a comma that might group digits is taken for a decimal sign too, unless a cell shows a decimal point.
    """
    shows = perhaps = False
    for cell in cells:
        if "," not in cell and "." not in cell:
            continue
        framed = _framed(cell)
        if framed is None:
            continue
        body = framed[1]
        point = any(form.fullmatch(body) for form in _AS_POINT)
        as_comma = any(form.fullmatch(body) for form in _AS_COMMA)
        if point and not as_comma and ("." in body or "," in body):
            return False
        shows = shows or (as_comma and not point)
        perhaps = perhaps or (as_comma and "," in body)
    return shows or (perhaps and separator == ";")


def _framed(cell: str) -> tuple[bool, str] | None:
    """Whether a minus sign stands before it, and the digits, of what may be a number."""
    if len(cell) > LONGEST:
        return None
    found = _FRAME.fullmatch(cell)
    return None if found is None else (found[1] not in ("", "+"), found[2])
