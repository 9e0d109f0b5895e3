"""Reads documents from files: `.txt`, `.md`, `.jsonl` and `.json`.

A record of `.jsonl` or `.json` is `{"text": ..., "title": ..., "description": ...}`, the last two optional (`extract` is read as
`text`, the word of Wikipedia's summaries); a `.json` file holds a list of records or an object of them, keyed by title. A Markdown
file gives one document per heading. Everything read is plain text: nothing in a document is ever executed or fetched.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIXES = (".txt", ".md", ".jsonl", ".json")
LARGEST_FILE = 256 * 1024 * 1024  # bytes of a file read in one piece; .jsonl is read by lines and has no limit of its own
LARGEST_LINE = 16 * 1024 * 1024  # bytes


@dataclass(frozen=True)
class Document:
    """A titled text. `source` is its file, relative to what was indexed, with the record or heading after `#`."""

    source: str
    title: str
    text: str


@dataclass(frozen=True)
class LeftOut:
    """Something that was not read. `bad` tells a fault (unreadable, malformed) from a kind of file that is simply not read."""

    where: str
    reason: str
    bad: bool


def files_of(path: Path) -> tuple[list[Path], list[LeftOut]]:
    """The files to read under a path, sorted by name, and those that are left out with the reason.

    Hidden files and folders are not looked into, and links to folders are not followed.
    """
    if path.is_file():
        return [path], []
    found: list[Path] = []
    left: list[LeftOut] = []

    def unreadable(error: OSError) -> None:
        left.append(LeftOut(relative(Path(error.filename or path), path), error.strerror or "not readable", bad=True))

    for folder, names, files in os.walk(path, onerror=unreadable):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in names:
            if Path(folder, name).is_symlink():
                left.append(LeftOut(relative(Path(folder, name), path), "a link to a folder", bad=False))
        for name in sorted(files):
            if name.startswith("."):
                continue
            file = Path(folder, name)
            if file.suffix.lower() not in SUFFIXES:
                kind = file.suffix or "without suffix"
                left.append(LeftOut(relative(file, path), f"files {kind} are not read, only {' '.join(SUFFIXES)}", bad=False))
            elif not file.is_file():
                left.append(LeftOut(relative(file, path), "not a regular file", bad=True))
            else:
                found.append(file)
    return sorted(found), left


def relative(file: Path, root: Path) -> str:
    """A file's name as citations give it: its path under what was indexed."""
    return file.relative_to(root).as_posix() if file != root and root in file.parents else file.name


def documents(file: Path, root: Path) -> Iterator[Document | LeftOut]:
    """The documents of one file, and what in it could not be read."""
    name = relative(file, root)
    suffix = file.suffix.lower()
    try:
        if suffix == ".jsonl":
            yield from _lines(file, name)
            return
        if (size := file.stat().st_size) > LARGEST_FILE:
            yield LeftOut(name, f"{size / 2**20:.0f} MB is more than the {LARGEST_FILE / 2**20:.0f} MB read in one piece", bad=True)
            return
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        yield LeftOut(name, error.strerror or "not readable", bad=True)
        return
    except UnicodeDecodeError as error:
        yield LeftOut(name, f"not UTF-8 text: {error.reason} at byte {error.start}", bad=True)
        return
    if "\0" in text:
        yield LeftOut(name, "binary: it holds zero bytes", bad=True)
    elif suffix == ".json":
        yield from of_json(text, name)
    elif suffix == ".md":
        yield from of_markdown(text, name, file.stem)
    elif text.strip():
        yield Document(name, spaced(file.stem), text)


def spaced(stem: str) -> str:
    """A file's name as a title."""
    return " ".join(stem.replace("_", " ").replace("-", " ").split()) or stem


def _lines(file: Path, name: str) -> Iterator[Document | LeftOut]:
    with file.open("rb") as stream:
        number = 0
        while line := stream.readline(LARGEST_LINE + 1):
            number += 1
            where = f"{name}:{number}"
            if len(line) > LARGEST_LINE:
                yield LeftOut(where, f"a line longer than {LARGEST_LINE >> 20} MB", bad=True)
                while not line.endswith(b"\n") and (line := stream.readline(LARGEST_LINE)):
                    pass
                continue
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield LeftOut(where, f"not JSON: {error}", bad=True)
                continue
            yield of_record(record, f"{name}#{number}", None, where)


def of_json(text: str, name: str) -> Iterator[Document | LeftOut]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        yield LeftOut(name, f"not JSON: {error}", bad=True)
        return
    if isinstance(value, list):
        for number, record in enumerate(value, 1):
            yield of_record(record, f"{name}#{number}", None, f"{name}#{number}")
    elif isinstance(value, dict) and any(isinstance(value.get(key), str) for key in ("text", "extract")):
        yield of_record(value, name, None, name)
    elif isinstance(value, dict):
        for key, record in value.items():
            yield of_record(record, f"{name}#{key}", key, f"{name}#{key}")
    else:
        yield LeftOut(name, f"expected a list or an object of records, not {type(value).__name__}", bad=True)


def of_record(record: Any, source: str, key: str | None, where: str) -> Document | LeftOut:
    if isinstance(record, str) and key is not None:
        record = {"title": key, "text": record}
    if not isinstance(record, dict):
        return LeftOut(where, f'expected {{"title": ..., "text": ...}}, not {type(record).__name__}', bad=True)
    text = record.get("text", record.get("extract"))
    if not isinstance(text, str) or not text.strip():
        return LeftOut(where, "`text` is missing, empty or not a string", bad=True)
    title, description = record.get("title", key or ""), record.get("description") or ""
    if not isinstance(title, str) or not isinstance(description, str):
        return LeftOut(where, "`title` and `description` must be strings", bad=True)
    if description := " ".join(description.split()):
        text = f"{description}{'' if description[-1] in '.!?' else '.'}\n{text}"
    return Document(source, " ".join(title.split()), text)


_HEADING = re.compile(r"(#{1,6})\s")
_FENCE = re.compile(r"\s*(```+|~~~+)")


def of_markdown(text: str, name: str, stem: str) -> Iterator[Document]:
    """One document per heading; its title is the trail of headings above it."""
    trail: list[tuple[int, str]] = []
    body: list[str] = []
    fence = ""

    def section() -> Iterator[Document]:
        if any(line.strip() for line in body):
            title = " · ".join(heading for _, heading in trail) or spaced(stem)
            yield Document(f"{name}#{trail[-1][1]}" if trail else name, title, "\n".join(body).strip())

    for line in text.splitlines():
        if mark := _FENCE.match(line):
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        mark = None if fence else _HEADING.match(line)
        heading = "" if mark is None else line[mark.end() :].strip().rstrip("#").rstrip()
        if mark is None or not heading:
            body.append(line)
            continue
        yield from section()
        body = []
        trail = [entry for entry in trail if entry[0] < len(mark[1])] + [(len(mark[1]), heading)]
    yield from section()
