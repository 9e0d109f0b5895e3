"""Reads the text of a document, whatever kind it is: PDF, Word, Excel, PowerPoint, HTML, or text.

What a document is, its first bytes say. Its text comes in sections (pages, sheets, slides, what stands under a heading), so that a
citation can name the place. Nothing in a document is run, fetched or followed. Everything it could make grow is counted while it is
read, and a document that goes beyond a limit is refused whole: half a document that looks like a whole one misleads.

The decoders are meant to run in a process that may be killed (`steelyard.serve.reading`): limits on time and memory are that one's.
"""

from __future__ import annotations

from collections.abc import Iterable

from steelyard.core.errors import DataError
from steelyard.data.documents.html import headed
from steelyard.data.documents.office import office_kind, sections
from steelyard.data.documents.pdf import pages
from steelyard.data.documents.sections import HTML, PDF, SHEETS, SLIDES, TEXT, WORD, ReadLimits, Section, within

VERSION = 2
"""Of how files are read; a text that another version read is read again."""
_HTML_OPENINGS = ("<!doctype html", "<html", "<head", "<body")


def kind_of(content: bytes) -> str | None:
    """The kind of a document by its first bytes, None where it is none of these.

    An archive that holds no office document is none; which one it is, its content tells.
    """
    if content.startswith(b"%PDF-"):
        return PDF
    if content.startswith(b"PK\x03\x04"):
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
        found: Iterable[Section] = pages(content, name, limits, pictures)
    elif kind in (WORD, SHEETS, SLIDES):
        found = sections(content, kind, name, limits)
    elif kind == HTML:
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


def decoded(content: bytes, name: str) -> str:
    """UTF-8 text.

    Raises:
        DataError: it is something else.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text: {error.reason} at byte {error.start}", where=name, do="Save it as UTF-8.") from error
