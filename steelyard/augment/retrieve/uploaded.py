"""Documents that came as sections of text (pages, sheets, what stands under a heading), ready to be indexed.

A citation names the place: `manual.pdf#page 3`, `prices.csv#row 12`. A table is indexed row by row, each cell beside its column's name,
because a row without its heading says nothing.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from steelyard.augment.retrieve.documents import Document, LeftOut, of_json, of_markdown, of_record, spaced
from steelyard.data.documents.sections import Section

ROWS = 200_000


def documents_in(name: str, sections: Sequence[Section]) -> Iterator[Document | LeftOut]:
    """The documents of one file. Its name says how plain text is read; whatever it says, the text is indexed."""
    stem = spaced(PurePath(name).stem)
    if len(sections) == 1 and not sections[0].title:
        yield from _plain(name, stem, sections[0].text)
        return
    for number, section in enumerate(sections, 1):
        place = section.title or f"part {number}"
        yield Document(f"{name}#{place}", f"{stem} · {section.title}" if section.title else stem, section.text)


def _plain(name: str, stem: str, text: str) -> Iterator[Document | LeftOut]:
    suffix = PurePath(name).suffix.lower()
    records = of_json(text, name) if suffix == ".json" else _lines(text, name) if suffix == ".jsonl" else ()
    found = list(records)
    if found and not any(isinstance(one, LeftOut) for one in found):
        yield from found
    elif suffix == ".md":
        yield from of_markdown(text, name, PurePath(name).stem)
    elif suffix in (".csv", ".tsv") and (rows := _rows(text, suffix)):
        yield from (Document(f"{name}#row {number}", f"{stem} · {row[0][1]}", _said(row)) for number, row in enumerate(rows, 1))
    else:
        yield Document(name, stem, text)


def _lines(text: str, name: str) -> list[Document]:
    """Lines that are all records of documents; none where one is not, for then the file is something else."""
    found: list[Document] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            one = of_record(json.loads(line), f"{name}#{number}", None, f"{name}:{number}")
        except (ValueError, RecursionError):
            return []
        if isinstance(one, LeftOut):
            return []
        found.append(one)
    return found


def _rows(text: str, suffix: str) -> list[list[tuple[str, str]]]:
    """The rows of a table as pairs of column and cell; none where it has no heading or too many rows."""
    try:
        dialect = csv.excel_tab if suffix == ".tsv" else csv.Sniffer().sniff(text[:8192], ",;\t|")
    except csv.Error:
        dialect = csv.excel
    try:
        heading, *rows = csv.reader(io.StringIO(text), dialect)
    except (csv.Error, ValueError):
        return []
    if len(rows) > ROWS or len(heading) < 2:  # too many documents, or no table
        return []
    pairs = [[(column.strip(), cell.strip()) for column, cell in zip(heading, row, strict=False) if cell.strip()] for row in rows]
    return [row for row in pairs if row]


def _said(row: Sequence[tuple[str, str]]) -> str:
    return "; ".join(f"{column}: {cell}" if column else cell for column, cell in row) + "."
