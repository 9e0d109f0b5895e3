"""Builds an index file from documents so that a kill at any moment costs at most one source file's work."""

from __future__ import annotations

import os
import sqlite3
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from steelyard.augment.retrieve.documents import SUFFIXES, Document, LeftOut, documents, files_of, relative
from steelyard.augment.retrieve.passages import PASSAGE_TOKENS, passages, shortened_title
from steelyard.core.errors import DataError, SteelyardError
from steelyard.core.files import writing
from steelyard.core.fingerprint import digest, file_digest
from steelyard.core.locks import alone

FORMAT = 1
APPLICATION_ID = 0x53594958  # "SYIX"
TOKENIZER = "porter unicode61 remove_diacritics 2"
NAMED = 20  # faults named in full in an error; more are counted

_TABLES = f"""
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE files(name TEXT PRIMARY KEY);
CREATE TABLE left_out(place TEXT NOT NULL, reason TEXT NOT NULL, bad INTEGER NOT NULL);
CREATE TABLE passages(id INTEGER PRIMARY KEY, source TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(title, text, content='passages', content_rowid='id', tokenize='{TOKENIZER}');
"""

Say = Callable[[str], None]
Source = tuple[str, Callable[[], Iterable[Document | LeftOut]]]
"""A source's name, by which an index knows it, and what gives its documents when they are wanted."""


def fingerprint_of(files: Sequence[Path], root: Path) -> str:
    """Digest over the content of the sources and the way they are cut and indexed."""
    try:
        content = [[relative(file, root), file_digest(file)] for file in files]
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(error.filename), do="Make it readable, or move it away.") from error
    return digest([FORMAT, TOKENIZER, PASSAGE_TOKENS, content])


def build(source: Path, destination: Path, *, tolerate: bool = False, say: Say = lambda line: None) -> Path:
    """Indexes a file or folder into `destination`, unless that holds this very content already.

    Of several processes that ask for the same index one builds; the others wait and find it done.

    Args:
        source: a `.txt`, `.md`, `.jsonl` or `.json` file, or a folder of them.
        destination: the index file, replaced in one step at the end.
        tolerate: leave faulty files and records out (they are named in the index) instead of refusing them.
        say: receives lines for a person.

    Raises:
        DataError: naming every fault, when there are any and they are not tolerated; or when nothing is left to index.
    """
    files, left = files_of(source)
    if not files:
        raise DataError("there is nothing to index", where=str(source), do=f"Name a folder or file of {', '.join(SUFFIXES)}.")
    fingerprint = fingerprint_of(files, source)
    say(f"Indexing {len(files)} file{'s' * (len(files) != 1)} of {source.name} (once)")
    sources = ((relative(file, source), partial(documents, file, source)) for file in files)
    total = build_from(sources, destination, fingerprint, where=str(source), left=left, tolerate=tolerate)
    say(f"Indexed {total} passages")
    return destination


def build_from(
    sources: Iterable[Source],
    destination: Path,
    fingerprint: str,
    *,
    where: str,
    left: Sequence[LeftOut] = (),
    tolerate: bool = False,
    told: Callable[[str, int], None] = lambda name, passages: None,
) -> int:
    """Indexes documents from wherever they come; what stands in `destination` is replaced in one step at the end.

    Args:
        sources: those that a killed process had added to the unfinished index of the same fingerprint are passed over.
        destination: the index file.
        fingerprint: digest over all that is indexed and how.
        where: what errors call the sources.
        left: what was left out before.
        tolerate: leave out what cannot be read, and name it in the index, instead of refusing it.
        told: hears each source's name and number of passages as it is added.

    Returns:
        The number of passages.

    Raises:
        DataError: as for `build`.
    """
    part = destination.with_name(destination.name + ".part")
    with writing(destination.parent):
        destination.parent.mkdir(parents=True, exist_ok=True)
    with alone(destination.with_name(f".{destination.name}.lock")):
        if (total := _held(destination, fingerprint, tolerate)) is not None:
            return total
        try:
            with closing(_opened(part, fingerprint)) as connection:
                if not _finished(connection):
                    _fill(connection, sources, told)
                    _check(connection, left, where, tolerate, part)
                    _finish(connection, left)
                total = int(connection.execute("SELECT count(*) FROM passages").fetchone()[0])
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise SteelyardError(
                    "the disk is full", where=str(part), do="Free some space and run the same command again; it goes on where it stopped."
                ) from error
            raise SteelyardError(
                f"the index cannot be written: {error}", where=str(part), do="Check that the folder is writable."
            ) from error
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, destination)
    return total


def _held(index: Path, fingerprint: str, tolerate: bool) -> int | None:
    """How many passages a finished index of the same content holds; None where the file is none, or is damaged."""
    if not index.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"file:{urllib.parse.quote(str(index.absolute()))}?mode=ro", uri=True)) as connection:
            if not (_continues(connection, fingerprint) and _finished(connection)):
                return None
            if not tolerate and connection.execute("SELECT 1 FROM left_out WHERE bad LIMIT 1").fetchone():
                return None
            return int(connection.execute("SELECT count(*) FROM passages").fetchone()[0])
    except sqlite3.DatabaseError:
        return None


def _opened(part: Path, fingerprint: str) -> sqlite3.Connection:
    """The unfinished index: continued where it is of the same content, else begun anew."""
    if part.exists():
        with closing(sqlite3.connect(part)) as connection:
            continues = _continues(connection, fingerprint)
        if not continues:
            part.unlink()
    connection = sqlite3.connect(part, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")  # a kill loses nothing; after a power cut the check above begins anew
        if not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            connection.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; {_TABLES}"
                f"INSERT INTO meta VALUES ('fingerprint', '{fingerprint}'); COMMIT;"
            )
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def _continues(connection: sqlite3.Connection, fingerprint: str) -> bool:
    """Whether a file is a sound index of this content, or the beginning of one."""
    try:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            return False
        (known,) = connection.execute("SELECT value FROM meta WHERE key = 'fingerprint'").fetchone() or ("",)
        return known == fingerprint and connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    except sqlite3.OperationalError:  # cannot be read or written now: not its content's fault
        raise
    except sqlite3.DatabaseError:
        return False


def _finished(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM meta WHERE key = 'complete'").fetchone() is not None


def _fill(connection: sqlite3.Connection, sources: Iterable[Source], told: Callable[[str, int], None]) -> None:
    """Adds the sources that are not in yet, one transaction each."""
    done = {name for (name,) in connection.execute("SELECT name FROM files")}
    for name, items in sources:
        if name in done:
            continue
        connection.execute("BEGIN")
        added = 0
        for item in items():
            if isinstance(item, LeftOut):
                _leave_out(connection, [item])
            else:
                added += _add(connection, item)
        connection.execute("INSERT INTO files VALUES (?)", (name,))
        connection.execute("COMMIT")
        told(name, added)


def _check(connection: sqlite3.Connection, left: Sequence[LeftOut], source: str, tolerate: bool, part: Path) -> None:
    """Refuses faults that are not tolerated, and documents without a word."""
    faults = [*left, *(LeftOut(place, reason, bool(bad)) for place, reason, bad in connection.execute("SELECT * FROM left_out"))]
    try:
        if not tolerate:
            refuse_faults(faults, source)
        if connection.execute("SELECT 1 FROM passages LIMIT 1").fetchone() is None:
            raise DataError("there is no text in it to index", where=source, do=f"Name a folder or file of {', '.join(SUFFIXES)}.")
    except DataError:
        part.unlink(missing_ok=True)
        raise


def _leave_out(connection: sqlite3.Connection, items: Sequence[LeftOut]) -> None:
    connection.executemany("INSERT INTO left_out VALUES (?, ?, ?)", [(item.where, item.reason, item.bad) for item in items])


def _add(connection: sqlite3.Connection, document: Document) -> int:
    """Adds a document's passages; how many."""
    title, added = shortened_title(document.title), 0
    for text in passages(title, document.text):
        row = connection.execute("INSERT INTO passages(source, title, text) VALUES (?, ?, ?)", (document.source, title, text)).lastrowid
        connection.execute("INSERT INTO words(rowid, title, text) VALUES (?, ?, ?)", (row, title, text))
        added += 1
    return added


def _finish(connection: sqlite3.Connection, left: Sequence[LeftOut]) -> None:
    """Marks the index complete."""
    connection.execute("BEGIN")
    _leave_out(connection, left)
    connection.execute("INSERT INTO words(words) VALUES ('optimize')")
    connection.execute("INSERT INTO meta VALUES ('complete', 'yes')")
    connection.execute("COMMIT")


def refuse_faults(left_out: Sequence[LeftOut], source: str) -> None:
    """Raises a DataError that names what could not be read, if anything."""
    faults = [f"{item.where}: {item.reason}" for item in left_out if item.bad]
    if faults:
        more = f"\n  and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise DataError(
            f"{len(faults)} thing{'s' * (len(faults) != 1)} could not be read:\n  " + "\n  ".join(faults[:NAMED]) + more,
            where=source,
            do="Mend them, move them away, or build the index without them: "
            "steelyard.augment.retrieve.building.build(source, destination, tolerate=True), and name that file.",
        )
