"""What each verdict looks like and means: one place for terminal, page and log."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from steelyard.weigh.report.report import Verdict


@dataclass(frozen=True)
class Mark:
    """How a verdict is shown.

    Attributes:
        glyph: one character; never the only carrier of the meaning where there is room for the word.
        plain: the same in ASCII.
        slug: name for style sheets.
        style: Rich style of the terminal.
        meaning: one sentence for a person who has not read the documentation.
    """

    glyph: str
    plain: str
    slug: str
    style: str
    meaning: str


# Only a difference that was shown has a hue, blue or orange, which colour-blind readers tell apart
# (cyan and red in a terminal); all else is neutral.
MARKS: dict[Verdict, Mark] = {
    "better": Mark("✔", "+", "better", "bold cyan", "The interval of the difference lies wholly on the good side of zero."),
    "worse": Mark("✘", "x", "worse", "bold bright_red", "The interval of the difference lies wholly on the bad side of zero."),
    "equivalent": Mark(
        "≈", "~", "equivalent", "default", "The whole interval lies inside the margin: any difference is too small to matter."
    ),
    "identical": Mark("=", "=", "identical", "default", "Every record equals the base's record."),
    "underpowered": Mark("?", "?", "underpowered", "yellow", "Too few samples: neither a difference nor equivalence is shown."),
    "floor": Mark(
        "⊥",
        "_",
        "floor",
        "dim",
        "Nothing can be compared: neither side is shown to do better than chance (or zero), or one is not shown to do at all what the "
        "metric needs; the cell's remark says which.",
    ),
    "not measurable": Mark("–", "-", "not-measurable", "dim", "One side has no value to compare; the remark says why."),
}


def legend(plain: bool = False, used: Collection[str] = tuple(MARKS)) -> str:
    """The glyphs of the verdicts in use with their words, on one line."""
    return "  ".join(f"{mark.plain if plain else mark.glyph} {verdict}" for verdict, mark in MARKS.items() if verdict in used)
