"""The text of documents of every kind, and documents made to do harm."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import DataError
from steelyard.data.documents.reading import read
from steelyard.data.documents.sections import ReadLimits, Section, whole
from tests.written_documents import archive, docx, pdf, pptx, xlsx

BOMB = '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'


def test_a_pdf_is_read_page_by_page():
    pytest.importorskip("pypdfium2")
    assert read(pdf(["The Danube is long.", "The Rhine is shorter."]), "a.pdf") == [
        Section("page 1", "The Danube is long."),
        Section("page 2", "The Rhine is shorter."),
    ]


def test_a_pdf_without_text_or_with_too_many_pages_or_damage_is_refused_with_the_reason():
    pytest.importorskip("pypdfium2")
    with pytest.raises(DataError, match="no text; its pages may be pictures"):
        read(pdf(["", ""]), "scan.pdf")
    with pytest.raises(DataError, match="3 pages, of which 2 are allowed"):
        read(pdf(["a", "b", "c"]), "long.pdf", ReadLimits(pages=2))
    with pytest.raises(DataError, match="damaged"):
        read(b"%PDF-1.7\nnothing else", "broken.pdf")


def test_a_word_document_is_read_under_its_headings_with_its_tables():
    content = docx([("Normal", "Before."), ("Heading1", "Rivers"), ("Normal", "The Danube &amp; the Rhine.")])
    assert read(content, "a.docx") == [Section("", "Before."), Section("Rivers", "The Danube & the Rhine.")]
    cells = "".join(f"<w:tc><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:tc>" for text in ("river", "km"))
    table = archive({"word/document.xml": f'<w:document xmlns:w="u"><w:body><w:tbl><w:tr>{cells}</w:tr></w:tbl></w:body></w:document>'})
    assert read(table, "b.docx") == [Section("", "river | km")]


def test_workbooks_and_shows_are_read_sheet_by_sheet_and_slide_by_slide():
    assert read(xlsx({"Rivers": [["river", "km"], ["Danube", "2850"]], "Empty": []}), "a.xlsx") == [
        Section("sheet Rivers", "river | km\nDanube | 2850")
    ]
    assert read(pptx(["First", "Second"]), "a.pptx") == [Section("slide 1", "First"), Section("slide 2", "Second")]


def test_a_web_page_is_read_without_what_is_not_seen():
    page = "<!doctype html><head><title>Rivers</title><style>p{}</style></head><body><script>steal()</script><p>Long <b>rivers</b>.</p>"
    page += "<p hidden>secret</p><h2>Danube</h2><ul><li>2850 km</li></ul><table><tr><td>a</td><td>b</td></tr></table>"
    assert read(page.encode(), "a.txt") == [Section("Rivers", "Long rivers."), Section("Danube", "- 2850 km\n\na | b")]


def test_text_stays_as_it_is():
    assert read("a,b\n1,2\n".encode("utf-8-sig"), "a.csv") == [Section("", "a,b\n1,2\n")]
    assert read(b'{"a": "<html>"}', "a.json") == [Section("", '{"a": "<html>"}')]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (docx([("Normal", "&b;")], before=BOMB), "XML entities"),
        (docx([("Normal", "a" * 2_000_000)]), "unpacks to more than"),
        (archive({"word/document.xml": "<a>" * 5000}), "elements more than 256 deep"),
        (archive({"word/document.xml": "<a><b></a>"}), "XML is damaged"),
        (docx([("Normal", "text")])[:-30], "not read"),
        (archive({"other.txt": "x"}), "not read"),
        (xlsx({"One": [["x" * 2000] * 16_000]}), "characters of text"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"   \n ", "no text"),
        (b"<html><body>" + b"<div hidden>" * 3000, "deep"),
    ],
)
def test_harmful_and_damaged_documents_are_refused_with_the_reason(content: bytes, why: str):
    with pytest.raises(DataError, match=why):
        read(content, "file", ReadLimits(unpacked_bytes=1_000_000))


def test_a_document_is_refused_whole_rather_than_cut():
    with pytest.raises(DataError, match="more than 10 characters"):
        read(b"elf Zeichen", "a.txt", ReadLimits(characters=10))


def test_characters_that_no_text_holds_are_left_out():
    assert read("a\0b\u00ad\r\nc".encode(), "a.txt") == [Section("", "ab\nc")]


def _told(content: bytes) -> str:
    """The text of a file, which any reader may show, or why there is none, with the file's name."""
    try:
        text = whole(read(content, "file"))
    except DataError as error:
        assert error.where and "file" in error.where
        return error.what
    assert "\0" not in text and text.encode("utf-8").strip()
    return text


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_no_bytes_break_a_reader(content: bytes):
    for head in (b"", b"%PDF-1.5\n", b"PK\x03\x04", b"<html>"):
        assert _told(head + content)


@given(st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_markup_after_a_page_begins_is_read_or_refused(text: str):
    assert _told(("<html>" + text).encode("utf-8", "ignore"))
