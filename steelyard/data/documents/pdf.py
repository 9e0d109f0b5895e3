"""The text of a PDF, page by page, by PDFium: the reader of a widely used browser, which many have tried to break.

Pages that are pictures hold none; they are drawn, and their text is recognised as that of any picture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from steelyard.core.errors import DataError, UnsupportedError
from steelyard.data.documents.pictures import LONGEST_SIDE, Recogniser
from steelyard.data.documents.sections import ReadLimits, Section

SCALE = 200 / 72
"""Pixels per point of a page that is drawn to be recognised: 200 to the inch."""


def pages(content: bytes, name: str, limits: ReadLimits, pictures: list[int] | None = None) -> Iterator[Section]:
    """The pages with their numbers.

    Args:
        pictures: takes the numbers (from 1) of pages that show something but hold no text: scanned ones.

    Raises:
        UnsupportedError: pypdfium2 is not installed.
        DataError: the file is damaged or wants a password, or has too many pages.
    """
    with opened(content, name) as document:
        if (count := len(document)) > limits.pages:
            raise DataError(f"{count:,} pages, of which {limits.pages:,} are allowed", where=name, do="Give a part of it.")
        for number in range(count):
            with page_of(document, number, name) as page:
                text = page.get_textpage()
                try:
                    said = text.get_text_bounded()
                finally:
                    text.close()
                if pictures is not None and not said.strip() and next(iter(page.get_objects(max_depth=1)), None) is not None:
                    pictures.append(number + 1)
            yield Section(f"page {number + 1}", said)


def recognised_pages(content: bytes, name: str, numbers: Sequence[int], most: int) -> tuple[str, list[tuple[int, str]]]:
    """What read pages that are pictures, and the text of those that have any, each with its number (from 1).

    Args:
        numbers: of the pages.
        most: pages that are recognised at all; more are refused, because each takes seconds.

    Raises:
        UnsupportedError: no recognition is installed.
        DataError: there are too many, one is damaged, or there is no text on any.
    """
    if len(numbers) > most:
        what = f"{len(numbers):,} of its pages are pictures; the text of at most {most:,} is recognised"
        raise DataError(what, where=name, do="Give a part of it.")
    recogniser, found = Recogniser(name), []
    with opened(content, name) as document:
        for number in numbers:
            with page_of(document, number - 1, name) as page:
                scale = min(SCALE, LONGEST_SIDE / max(1.0, *page.get_size()))
                drawn = page.render(scale=scale)
                try:
                    text = recogniser.read(drawn.to_pil().convert("RGB"))
                finally:
                    drawn.close()
            if text:
                found.append((number, text))
    if not found:
        raise DataError("its pages are pictures, and OCR found no text in them", where=name, do="Say what they show.")
    return recogniser.name, found


@contextlib.contextmanager
def opened(content: bytes, name: str) -> Iterator[Any]:  # a type of a package that may not be installed
    """A PDF, closed at the end."""
    try:
        import pypdfium2
    except ModuleNotFoundError as error:
        raise UnsupportedError("reading a PDF needs pypdfium2", where=name, do='Install it: pip install "steelyard[documents]".') from error
    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        locked = "assword" in str(error)
        what = "it is protected by a password" if locked else "a damaged PDF"
        raise DataError(what, where=name, do="Save it without a password." if locked else "Save or print it as a PDF anew.") from error
    try:
        yield document
    finally:
        document.close()


@contextlib.contextmanager
def page_of(document: Any, number: int, name: str) -> Iterator[Any]:
    """A page by its number from 0, closed at the end.

    Raises:
        DataError: it is damaged.
    """
    import pypdfium2

    try:
        page = document[number]
        try:
            yield page
        finally:
            page.close()
    except pypdfium2.PdfiumError as error:
        raise DataError(f"page {number + 1} is damaged", where=name, do="Save or print it as a PDF anew.") from error
