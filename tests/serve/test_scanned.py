"""PDFs whose pages are pictures: read by OCR where it is installed, and with a plain word about it where it is not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("PIL", reason="Pillow is not installed")
pytest.importorskip("pypdfium2", reason="the extra `documents` is not installed")

from steelyard.core.errors import DataError
from steelyard.data.documents.pdf import recognised_pages
from steelyard.data.documents.reading import read
from steelyard.data.documents.sections import ReadLimits, Section
from steelyard.serve import reading
from steelyard.serve.reading import NOT_INSTALLED, UNSEEN, Readers, Reading, ReadingLimits, current
from steelyard.serve.store.attachments import Attached
from steelyard.serve.store.rendering import rendered
from steelyard.serve.store.tree import Node
from tests.serve.drawn import picture
from tests.written_documents import pdf, scanned

BILL = picture([(20, 20, "Invoice from Orvia"), (20, 150, "Total: 128.50 EUR")])
MIXED = scanned(["The Danube is long.", BILL, picture([])])


def read_by_server(content: bytes, limits: ReadingLimits | None = None) -> Reading:
    async def one() -> Reading:
        return await Readers(limits).read("document", content, "scan.pdf")

    return asyncio.run(one())


def test_scanned_pages_are_told_apart_from_empty_ones() -> None:
    pictures: list[int] = []
    assert read(MIXED, "a.pdf", None, pictures) == [Section("page 1", "The Danube is long.")]
    assert pictures == [2, 3]
    with pytest.raises(DataError, match="no text"):
        read(pdf(["", ""]), "empty.pdf", None, [])
    with pytest.raises(DataError, match="2 of its pages are pictures; the text of at most 1"):
        recognised_pages(MIXED, "a.pdf", pictures, 1)


def test_scanned_pages_are_read_by_ocr_between_the_others_and_called_so() -> None:
    pytest.importorskip("rapidocr_onnxruntime", reason="the extra `ocr` is not installed")
    found = read_by_server(MIXED)
    assert [section.title for section in found.sections] == ["page 1", "page 2, by OCR"] and found.reason is None and found.lasting
    assert "128.50" in found.sections[1].text and found.reader.startswith("rapidocr-onnxruntime ") and current(found.reader)
    attached = Attached("scan.pdf", "application/pdf", MIXED, "", found)
    node = Node("n", None, 0, "user", False, False)
    (message,) = rendered([(node, [{"type": "file", "attachment": "x", "name": "scan.pdf"}])], lambda id: attached).messages
    assert message.content.startswith("File scan.pdf; its pages that are pictures were read by rapidocr-onnxruntime ")
    assert "[page 2, by OCR]" in message.content


@pytest.mark.parametrize("content", [MIXED, scanned([BILL])])
def test_without_ocr_the_document_says_which_pages_were_not_read_and_is_read_again_once_it_is_there(
    monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(reading, "installed", lambda: False)
    found = read_by_server(content)
    assert found.reader == UNSEEN and found.lasting and current(found.reader)
    if content is MIXED:
        assert [section.title for section in found.sections] == ["page 1", "page 2", "page 3"]
        assert found.sections[1].text == f"(This page is a picture. Its text was not read: {NOT_INSTALLED}.)" and found.reason is None
    else:
        assert found.sections == () and found.reason == f"its pages are pictures: {NOT_INSTALLED}"
    monkeypatch.setattr(reading, "installed", lambda: True)
    assert not current(found.reader)


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (ReadingLimits(document=ReadLimits(scanned_pages=1)), "2 of its pages are pictures; the text of at most 1 is recognised"),
        (ReadingLimits(picture_seconds=0.05), "reading it took longer than 0.05 s"),
    ],
)
def test_what_cannot_be_recognised_takes_no_text_away(monkeypatch: pytest.MonkeyPatch, limits: ReadingLimits, why: Any) -> None:
    pytest.importorskip("rapidocr_onnxruntime", reason="the extra `ocr` is not installed")
    found = read_by_server(MIXED, limits)
    assert found.sections[0] == Section("page 1", "The Danube is long.") and why in found.sections[1].text and found.reason is None
