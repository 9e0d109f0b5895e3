"""Reads the text of a document, whatever kind it is: PDF, Word, Excel, PowerPoint, HTML, or text.

What a document is, its first bytes say. Its text comes in sections (pages, sheets, slides, what stands under a heading), so that a
citation can name the place. Nothing in a document is run, fetched or followed. Everything it could make grow is counted while it is
read, and a document that goes beyond a limit is refused whole: half a document that looks like a whole one misleads.

The decoders are meant to run in a process that may be killed (`steelyard.serve.reading`): limits on time and memory are that one's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pydantic
from pydantic import Field

from steelyard.core.errors import DataError

MEBIBYTE = 1024 * 1024
PDF = "application/pdf"
HTML = "text/html"
TEXT = "text/plain"
OFFICE = "application/vnd.openxmlformats-officedocument."
WORD, SHEETS, SLIDES = f"{OFFICE}wordprocessingml.document", f"{OFFICE}spreadsheetml.sheet", f"{OFFICE}presentationml.presentation"
VERSION = 2
"""Of how files are read; a text that another version read is read again."""
_HTML_OPENINGS = ("<!doctype html", "<html", "<head", "<body")


class ReadLimits(pydantic.BaseModel):
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


def kind_of(content: bytes) -> str | None:
    """The kind of a document by its first bytes, None where it is none of these.

    An archive that holds no office document is none; which one it is, its content tells.
    """
    if content.startswith(b"%PDF-"):
        return PDF
    if content.startswith(b"PK\x03\x04"):
        from steelyard.data.documents.office import office_kind

        return office_kind(content)
    return HTML if is_html(content[:2048].decode("utf-8", "ignore")) else TEXT


def is_html(text: str) -> bool:
    """Whether a text begins as a web page does; comments and an XML line before that are passed over."""
    opening = text[:2048].lstrip("\ufeff \t\r\n").lower()
    while opening.startswith(("<!--", "<?xml")):
        end = opening.find("-->" if opening.startswith("<!--") else "?>")
        if end < 0:
            return False
        opening = opening[end + (3 if opening.startswith("<!--") else 2) :].lstrip()
    return opening.startswith(_HTML_OPENINGS)


def read(content: bytes, name: str, limits: ReadLimits | None = None, pictures: list[int] | None = None) -> list[Section]:
    """The sections of a document that hold text, in order.

    Args:
        pictures: takes the numbers of a PDF's pages that are pictures. Where there are any the document may hold no text.

    Raises:
        DataError: it is of no kind that is read, damaged, protected by a password, without text, or beyond a limit; `name` is where.
    """
    limits = limits or ReadLimits()
    kind = kind_of(content)
    if kind == PDF:
        from steelyard.data.documents.pdf import pages

        found: Iterable[Section] = pages(content, name, limits, pictures)
    elif kind in (WORD, SHEETS, SLIDES):
        from steelyard.data.documents.office import sections

        found = sections(content, kind, name, limits)
    elif kind == HTML:
        from steelyard.data.documents.html import headed

        found = headed(decoded(content, name), name, limits)
    elif kind == TEXT:
        found = [Section("", decoded(content, name))]
    else:
        raise DataError("a kind of file that is not read", where=name, do="Give a PDF, an office document, a web page, or text.")
    kept = list(within(found, name, limits))
    if not kept and not pictures:
        if kind == PDF:
            raise DataError("it holds no text; its pages may be pictures", where=name, do="Give a PDF whose text can be selected.")
        raise DataError("it holds no text", where=name, do="Give it with its text.")
    return kept


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


def decoded(content: bytes, name: str) -> str:
    """UTF-8 text.

    Raises:
        DataError: it is something else.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text: {error.reason} at byte {error.start}", where=name, do="Save it as UTF-8.") from error


def plain(text: str) -> str:
    """A text without the characters that no text holds (zero bytes, half surrogate pairs, marks of decoders), lines ended alike."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufffe", "").replace("\u00ad", "")
    return "".join(c for c in text if (c >= " " or c in "\n\t") and c != "\x7f" and not "\ud800" <= c <= "\udfff")


def whole(sections: Iterable[Section]) -> str:
    """The sections as one text, each below its title."""
    return "\n\n".join(f"[{section.title}]\n{section.text.strip()}" if section.title else section.text.strip() for section in sections)
