"""The text of a PDF, page by page, by PDFium: the reader of a widely used browser, which many have tried to break."""

from __future__ import annotations

from collections.abc import Iterator

from steelyard.core.errors import DataError, UnsupportedError
from steelyard.data.documents.reading import ReadLimits, Section


def pages(content: bytes, name: str, limits: ReadLimits) -> Iterator[Section]:
    """The pages with their numbers.

    Raises:
        UnsupportedError: pypdfium2 is not installed.
        DataError: the file is damaged or wants a password, or has too many pages.
    """
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
        if (count := len(document)) > limits.pages:
            raise DataError(f"{count:,} pages, of which {limits.pages:,} are allowed", where=name, do="Give a part of it.")
        for number in range(count):
            yield Section(f"page {number + 1}", _page(document, number, name))
    finally:
        document.close()


def _page(document, number: int, name: str) -> str:  # a type of a package that may not be installed
    import pypdfium2

    try:
        page = document[number]
    except pypdfium2.PdfiumError as error:
        raise DataError(f"page {number + 1} is damaged", where=name, do="Save or print it as a PDF anew.") from error
    try:
        text = page.get_textpage()
        try:
            return text.get_text_bounded()
        finally:
            text.close()
    except pypdfium2.PdfiumError as error:
        raise DataError(f"page {number + 1} is damaged", where=name, do="Save or print it as a PDF anew.") from error
    finally:
        page.close()
