"""Documents to learn from: plain texts in a fixed order, from files, folders, corpora and data sets by name.

| name | documents |
| --- | --- |
| a file, or a folder with all below it | one for each text, Markdown or code file; one for each row of `.jsonl` and `.parquet` |
| `python` | the standard library of the Python that runs this |
| `encyclopedia` | the article openings that are not held out for measuring |
| `datasets:NAME`, `datasets:NAME:SPLIT`, `datasets:NAME:CONFIG:SPLIT` | rows of a Hugging Face data set (extra `datasets`) |

Opening reads every source once, a piece at a time: what cannot be used is named before anything is trained on it, and the
fingerprint is of the content. After that a corpus is streamed; nothing of it stays in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steelyard.core.errors import DataError
from steelyard.core.fingerprint import digest
from steelyard.data.formats import describe
from steelyard.data.texts.corpora import EncyclopediaPart, standard_library
from steelyard.data.texts.document import Checked, Document, Part
from steelyard.data.texts.folders import below
from steelyard.data.texts.tables import DATASETS, DatasetPart

SHOWN = 50
"""Bad files that an error lists one by one; of more it says how many."""
BadFiles = Literal["stop", "skip"]


@dataclass(frozen=True)
class Texts:
    """Documents that can be gone through again and again.

    Attributes:
        name: as the recipe names it.
        parts: in order.
        fingerprint: digest of the content; the same texts from elsewhere have the same one.
        notes: lines for a person about what was left out.
        limit: at most so many documents, or None.
    """

    name: str
    parts: tuple[Part, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    limit: int | None = None

    def __iter__(self) -> Iterator[Document]:
        left = self.limit
        for part in self.parts:
            for document in part.documents():
                if left == 0:
                    return
                yield document
                if left is not None and not document.continues:
                    left -= 1


def look_for(name: str) -> None:
    """Raises DataError where there are no such documents; none is read, and a data set's rows are not looked for."""
    _parts(name, None, "text")


def open_texts(
    name: str, *, base: Path | None = None, column: str = "text", bad_files: BadFiles = "stop", limit: int | None = None
) -> Texts:
    """Finds, checks and fingerprints documents.

    Args:
        name: see the table above. A known name wins over a file of that name: write `./python`.
        base: folder that relative paths start from; None is the current one.
        column: key of JSONL rows, column of tables, that holds the text.
        bad_files: whether files and rows that cannot be used (empty, binary, not UTF-8, not JSON, without the column) stop it or
            are left out; either way all are named, in the error or in `notes`.
        limit: at most so many documents, the first ones.

    Raises:
        DataError: nothing to read, or bad files under "stop".
    """
    if limit is not None and limit < 1:
        raise DataError(f"`limit` is {limit}", where=name, do="Ask for at least one document, or leave it out.")
    parts, notes, lenient = _parts(name, base, column)
    kept: list[tuple[Part, Checked]] = []
    bad: list[str] = []
    found = 0
    for part in parts:
        if limit is not None and found >= limit:
            break
        checked = part.check()
        if checked.unusable:
            bad.append(f"{part.where}: {checked.unusable}")
        elif checked.bad:
            bad.append(f"{part.where}: {len(checked.bad)} rows\n{describe(checked.bad)}")
        if checked.documents:
            kept.append((part, checked))
            found += checked.documents
    if bad and bad_files == "stop" and not lenient:
        raise DataError(
            f"{_count(len(bad), 'file')} cannot be used:\n{_listed(bad)}",
            where=name,
            do="Mend them or take them away, or set `bad_files: skip` to go on without them.",
        )
    if bad:
        notes.append(f"{name}: went on without {_count(len(bad), 'file')}:\n{_listed(bad)}")
    if not kept:
        raise DataError("there is no text to learn from" + (f":\n{_listed(bad)}" if bad else ""), where=name)
    fingerprint = digest([[checked.fingerprint for _, checked in kept], limit])
    return Texts(name, tuple(part for part, _ in kept), fingerprint, tuple(notes), limit)


def _parts(name: str, base: Path | None, column: str) -> tuple[list[Part], list[str], bool]:
    """The sources a name stands for, notes about them, and whether bad ones are left out unasked (nobody could mend them)."""
    if name.startswith(DATASETS):
        return [DatasetPart.named(name, column)], [], False
    if name == "encyclopedia":
        return [EncyclopediaPart()], [], False
    if name == "python":
        return list(standard_library()), [], True
    path = Path(name).expanduser()
    parts, notes = below(base / path if base is not None else path, column)
    return parts, notes, False


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _listed(lines: Sequence[str]) -> str:
    more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([*(f"  {line}" for line in lines[:SHOWN]), *more])
