"""The text of Office Open XML: paragraphs of Word, cells of Excel, slides of PowerPoint.

Such a document is a ZIP archive of XML files. Archives and XML have each their bombs, so nothing an archive says of its sizes is
believed: what comes out of it is counted as it comes. XML is read as a stream, and a document type, which entities would need and no
office program writes, is refused.
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from xml.parsers import expat

from steelyard.core.errors import DataError
from steelyard.data.documents.sections import SHEETS, SLIDES, WORD, ReadLimits, Section

_FOLDERS = {"word/": WORD, "xl/": SHEETS, "ppt/": SLIDES}
_PIECE = 64 * 1024
_ENTRIES = 20_000
_ANEW = "Save the document anew, or give its text."

Start = Callable[[str, dict[str, str]], None]


def office_kind(content: bytes) -> str | None:
    """Which office document an archive is, None where it is none or damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError):
        return None
    if "[Content_Types].xml" not in names:
        return None
    return next((kind for folder, kind in _FOLDERS.items() if any(name.startswith(folder) for name in names)), None)


def sections(content: bytes, kind: str, name: str, limits: ReadLimits) -> Iterator[Section]:
    """The sections of an office document: what stands under a heading, a sheet, a slide.

    Raises:
        DataError: damaged, locked, or unpacking to more than is allowed.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if len(archive.infolist()) > _ENTRIES:
                raise DataError(f"an archive of {len(archive.infolist()):,} files", where=name, do=_ANEW)
            yield from {WORD: _word, SHEETS: _sheets, SLIDES: _slides}[kind](Archive(archive, name, limits))
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, OSError, EOFError, RuntimeError) as error:
        raise DataError(f"a damaged or locked document: {' '.join(str(error).split())[:200]}", where=name, do=_ANEW) from error


class Archive:
    """The files of a document, unpacked as a stream that is counted."""

    def __init__(self, archive: zipfile.ZipFile, name: str, limits: ReadLimits):
        self.archive, self.name, self.limits, self.left = archive, name, limits, limits.unpacked_bytes
        self.names = set(archive.namelist())

    def parse(self, path: str, start: Start, end: Callable[[str], None] | None = None, text: Callable[[str], None] | None = None) -> None:
        """Reads one XML file; names come without their namespaces. A file that is not there holds nothing."""
        if path not in self.names:
            return
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        depth = 0

        def opened(tag: str, attributes: dict[str, str]) -> None:
            nonlocal depth
            depth += 1
            if depth > self.limits.depth:
                raise DataError(f"elements more than {self.limits.depth} deep", where=self.name, do=_ANEW)
            # Where two names differ by their namespace alone (a slide's `id` and `r:id`) the one that has a namespace is meant.
            known = sorted(attributes.items(), key=lambda item: " " in item[0])
            start(_local(tag), {_local(key): value for key, value in known})

        def closed(tag: str) -> None:
            nonlocal depth
            depth -= 1
            if end is not None:
                end(_local(tag))

        def refused(*_: object) -> None:
            raise DataError("it declares XML entities, which no office program writes", where=self.name, do=_ANEW)

        parser.StartElementHandler, parser.EndElementHandler = opened, closed
        parser.StartDoctypeDeclHandler = refused
        if text is not None:
            parser.CharacterDataHandler = text
        try:
            with self.archive.open(path) as stream:
                while piece := stream.read(_PIECE):
                    self.left -= len(piece)
                    if self.left < 0:
                        what = f"it unpacks to more than {self.limits.unpacked_bytes:,} bytes"
                        raise DataError(what, where=self.name, do="Give its text instead.")
                    parser.Parse(piece)
                parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise DataError(f"its XML is damaged: {error}", where=self.name, do=_ANEW) from error

    def related(self, path: str) -> dict[str, str]:
        """The files that one file names, by the ids it gives them."""
        folder, file = posixpath.split(path)
        found: dict[str, str] = {}

        def start(tag: str, attributes: dict[str, str]) -> None:
            if tag == "Relationship" and attributes.get("TargetMode") != "External":
                target = attributes.get("Target", "")
                found[attributes.get("Id", "")] = target.lstrip("/") if target.startswith("/") else posixpath.normpath(f"{folder}/{target}")

        self.parse(f"{folder}/_rels/{file}.rels", start)
        return found


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


def _word(archive: Archive) -> Iterator[Section]:
    """Paragraphs, tables as lines of cells; a heading begins a section of its name. Deleted text of tracked changes is no text."""
    found: list[Section] = []
    lines: list[str] = []
    said: list[str] = []
    cells: list[list[str]] = []  # of each table within another, the cells of its present row
    title = ""
    heading = within = False

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal heading, within
        if tag == "t":
            within = True
        elif tag == "tab":
            said.append("\t")
        elif tag in ("br", "cr"):
            said.append("\n")
        elif tag == "pStyle":
            heading = re.match(r"(heading|title|überschrift|titre|título)", attributes.get("val", ""), re.IGNORECASE) is not None
        elif tag == "outlineLvl":
            heading = True
        elif tag == "tr":
            cells.append([])
        elif tag == "tc" and cells:
            cells[-1].append("")

    def end(tag: str) -> None:
        nonlocal heading, within, title
        if tag == "t":
            within = False
        elif tag == "p":
            text = "".join(said).strip()
            said.clear()
            if cells and cells[-1]:
                cells[-1][-1] = " ".join(filter(None, [cells[-1][-1], " ".join(text.split())]))
            elif heading and text:
                found.append(Section(title, "\n".join(lines)))
                lines.clear()
                title = text
            else:
                lines.append(text)
            heading = False
        elif tag == "tr" and cells:
            row = cells.pop()
            if cells and cells[-1]:
                cells[-1][-1] = " ".join(filter(None, [cells[-1][-1], *row]))
            else:
                lines.append(" | ".join(row))

    def text(piece: str) -> None:
        if within:
            said.append(piece)

    for path in ("word/document.xml", "word/footnotes.xml", "word/endnotes.xml", "word/comments.xml"):
        archive.parse(path, start, end, text)
        found.append(Section(title, "\n".join(lines)))
        lines.clear()
        title = {"word/document.xml": "footnotes", "word/footnotes.xml": "endnotes", "word/endnotes.xml": "comments"}.get(path, "")
    for section in found:  # a heading without text below it still says something
        yield section if section.text.strip() else Section("", section.title if section.title not in _NOTES else "")


_NOTES = ("footnotes", "endnotes", "comments")


def _sheets(archive: Archive) -> Iterator[Section]:
    """Each sheet as lines of its cells' values, separated by ` | `, as they were computed last."""
    shared = _shared_strings(archive)
    sheets: list[tuple[str, str]] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "sheet":
            sheets.append((attributes.get("name", ""), attributes.get("id", "")))

    archive.parse("xl/workbook.xml", start)
    paths = archive.related("xl/workbook.xml")
    for title, id in sheets:
        yield Section(f"sheet {title}", _sheet(archive, paths.get(id, ""), shared))


def _shared_strings(archive: Archive) -> list[str]:
    found: list[str] = []
    said: list[str] = []
    within = False

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal within
        within = tag == "t"

    def end(tag: str) -> None:
        nonlocal within
        within = False
        if tag == "si":
            found.append("".join(said))
            said.clear()

    archive.parse("xl/sharedStrings.xml", start, end, lambda piece: said.append(piece) if within else None)
    return found


def _sheet(archive: Archive, path: str, shared: list[str]) -> str:
    lines: list[str] = []
    row: list[str] = []
    said: list[str] = []
    kind, column, within, size = "", 0, False, 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal kind, column, within
        if tag == "c":
            kind, column = attributes.get("t", ""), _column(attributes.get("r", ""), len(row))
        within = tag in ("v", "t")

    def end(tag: str) -> None:
        nonlocal within, size
        within = False
        if tag == "c":
            value = "".join(said).strip()
            said.clear()
            if kind == "s":
                value = shared[int(value)] if value.isdecimal() and int(value) < len(shared) else ""
            if value:
                row.extend([""] * (column - len(row)))
                row.append(" ".join(value.split()))
        elif tag == "row":
            if any(row):
                lines.append(" | ".join(row))
                size += len(lines[-1])  # one long shared string in a million cells is a bomb too
                if size > archive.limits.characters:
                    what = f"more than {archive.limits.characters:,} characters of text"
                    raise DataError(what, where=archive.name, do="Give a part of it.")
            row.clear()

    archive.parse(path, start, end, lambda piece: said.append(piece) if within else None)
    return "\n".join(lines)


_MOST_COLUMNS = 16_384  # Excel's own


def _column(reference: str, otherwise: int) -> int:
    """The number of a cell's column, from 0: `C7` is in column 2."""
    letters = re.match(r"[A-Z]{1,3}(?=\d)", reference)
    if letters is None:
        return otherwise
    number = 0
    for letter in letters[0]:
        number = number * 26 + ord(letter) - 64
    return min(max(number - 1, otherwise), _MOST_COLUMNS)


def _slides(archive: Archive) -> Iterator[Section]:
    """Each slide in the order of the show, with its notes."""
    ids: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "sldId":
            ids.append(attributes.get("id", ""))

    archive.parse("ppt/presentation.xml", start)
    paths = archive.related("ppt/presentation.xml")
    for number, id in enumerate(ids, 1):
        path = paths.get(id, "")
        notes = [file for file in archive.related(path).values() if "/notesSlides/" in file]
        texts = [_drawn(archive, file) for file in (path, *notes)]
        yield Section(f"slide {number}", "\n\n".join(filter(None, texts)))


def _drawn(archive: Archive, path: str) -> str:
    """The paragraphs of a drawing."""
    lines: list[str] = []
    said: list[str] = []
    within = False

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal within
        within = tag == "t"
        if tag == "br":
            said.append("\n")

    def end(tag: str) -> None:
        nonlocal within
        within = False
        if tag == "p":
            lines.append("".join(said).strip())
            said.clear()

    archive.parse(path, start, end, lambda piece: said.append(piece) if within else None)
    return "\n".join(line for line in lines if line)
