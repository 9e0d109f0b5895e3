"""What readers of documents share: the kinds they tell apart, the sections they give, and how much a document may be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pydantic
from pydantic import Field

from steelyard.core.errors import DataError
from steelyard.core.numbers import Numbers

MEBIBYTE = 1024 * 1024
PDF = "application/pdf"
HTML = "text/html"
TEXT = "text/plain"
OFFICE = "application/vnd.openxmlformats-officedocument."
WORD, SHEETS, SLIDES = f"{OFFICE}wordprocessingml.document", f"{OFFICE}spreadsheetml.sheet", f"{OFFICE}presentationml.presentation"


class ReadLimits(Numbers):
    """How much a document may be. What goes beyond is refused, never cut."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    pages: int = Field(default=3000, ge=1, description="most pages, slides or sheets")
    characters: int = Field(default=8_000_000, ge=1, description="most characters of text")
    unpacked_bytes: int = Field(
        default=256 * MEBIBYTE, ge=1, description="most bytes that a document's archive may unpack to, counted while it does"
    )
    scanned_pages: int = Field(default=50, ge=0, description="most pages whose text is recognised because they are pictures")
    depth: int = Field(default=256, ge=1, description="most elements within one another")


@dataclass(frozen=True)
class Section:
    """A part of a document: `title` says where it stands (`page 3`, a heading), or is empty."""

    title: str
    text: str


def within(found: Iterable[Section], name: str, limits: ReadLimits) -> Iterable[Section]:
    """The sections that hold text, counted as they come.

    Raises:
        DataError: more sections or characters than the limits allow.
    """
    total = 0
    for number, section in enumerate(found, 1):
        total += len(section.text)
        if number > limits.pages or total > limits.characters:
            over = f"more than {limits.pages:,} pages" if number > limits.pages else f"more than {limits.characters:,} characters of text"
            raise DataError(over, where=name, do="Give a part of it.")
        text = plain(section.text)
        if text.strip():
            yield Section(" ".join(plain(section.title).split())[:300], text)


def plain(text: str) -> str:
    """A text without the characters that no text holds (zero bytes, half surrogate pairs, marks of decoders), lines ended alike."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufffe", "").replace("\u00ad", "")
    return "".join(c for c in text if (c >= " " or c in "\n\t") and c != "\x7f" and not "\ud800" <= c <= "\udfff")


def whole(sections: Iterable[Section]) -> str:
    """The sections as one text, each below its title."""
    return "\n\n".join(f"[{section.title}]\n{section.text.strip()}" if section.title else section.text.strip() for section in sections)
