"""Folders as sources: every file in them that is read, and which reader it gets."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from steelyard.core.errors import DataError
from steelyard.data.texts.document import Part
from steelyard.data.texts.files import JsonlPart, TextPart
from steelyard.data.texts.tables import ParquetPart

CODE = (
    ".py .pyi .c .h .cc .cpp .hpp .cu .rs .go .java .kt .scala .swift .js .mjs .ts .tsx .jsx .rb .php .pl .lua .r .jl .hs .ml .ex .erl .clj "
    ".cs .sh .bash .sql .css .html .xml .json .yaml .yml .toml .ini .cfg .tex .cmake .diff .patch"
)
TEXT_ENDINGS = frozenset((".txt .text .md .markdown .rst .org .adoc .csv .tsv .log " + CODE).split())
"""Files of a folder that are read as text; a file named by itself is read as text whatever it is called."""


def below(path: Path, column: str) -> tuple[list[Part], list[str]]:
    """A file, or every readable one in a folder and its folders, by path; and notes about others that lie there.

    Hidden files and folders are not looked at, links to folders not followed.

    Raises:
        DataError: there is nothing of this name, or nothing in it that is read.
    """
    if not os.path.lexists(path):
        raise DataError(
            "there is no such file or folder",
            where=str(path),
            do="Name a file or folder, or `python`, `encyclopedia`, `datasets:NAME`.",
        )
    if not path.is_dir():
        return [_part(path, column) or TextPart(path)], []
    parts: list[Part] = []
    others: Counter[str] = Counter()
    for file in walk(path):
        part = _part(file, column)
        if part is None:
            others[file.suffix.lower() or "no ending"] += 1
        else:
            parts.append(part)
    left = f"left aside as neither text, .jsonl nor .parquet: {', '.join(f'{count} {ending}' for ending, count in sorted(others.items()))}"
    if not parts:
        what = "the folder holds no file to learn from"
        raise DataError(f"{what} ({left})" if others else what, where=str(path), do="Put text, .jsonl or .parquet files there.")
    return parts, [f"{path}: {left}"] if others else []


def walk(folder: Path, without: Collection[str] = ()) -> Iterator[Path]:
    """The files of a folder, then those of its folders, by name; hidden ones and folders called one of `without` are left out."""

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot be read: {error.strerror}", where=str(error.filename), do="Allow reading, or name another folder.")

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in without)
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def _part(file: Path, column: str) -> Part | None:
    match file.suffix.lower():
        case ".jsonl" | ".ndjson":
            return JsonlPart(file, column)
        case ".parquet":
            return ParquetPart(file, column)
        case ending:
            return TextPart(file) if ending in TEXT_ENDINGS else None
