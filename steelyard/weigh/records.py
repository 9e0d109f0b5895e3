"""Records: what one arm gave for one sample, kept in one SQLite file so that nothing is generated twice.

A record's key is a digest over the arm's fingerprint, the task's name, the sample's id and request, the seed and the trial.
What judges an answer is not in the key: scoring reads records and may be repeated, and raising a task's number of samples
keeps those already answered. Every record is a transaction of its own in the write-ahead log, so a process killed at any moment
loses none that was kept, and the file stays whole. (Power that fails may cost the last ones: the log is not forced to disk.) Of a
file that something else damaged, what can be read is saved (`salvage.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import itertools
import json
import os
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import Citation, Confidence, Score, Token, ToolCall, Usage
from steelyard.core.sqlite import log_ahead
from steelyard.weigh import salvage
from steelyard.weigh.tasks.task import Ask, Choose, Continue, Output, Read, Sample

FORMAT = 1
APPLICATION_ID = 0x53595243  # "SYRC"
LARGEST = 1 << 30  # bytes a record may claim to unpack to; no answer is that long, a damaged file may say so

_TABLE = """
CREATE TABLE IF NOT EXISTS records(
    key TEXT PRIMARY KEY, arm TEXT NOT NULL, task TEXT NOT NULL, sample TEXT NOT NULL,
    seed INTEGER NOT NULL, trial INTEGER NOT NULL, failed INTEGER NOT NULL, output BLOB NOT NULL
) WITHOUT ROWID
"""
_COLUMNS = "key, arm, task, sample, seed, trial, failed, output"
_KINDS = (str, str, str, str, int, int, int, bytes)  # of the columns
_PATIENCE = 60.0  # seconds to wait for another process that writes


@dataclass(frozen=True)
class Key:
    """What a record belongs to.

    Attributes:
        arm: fingerprint of what answered.
        task: the task's name.
        sample: the sample's id.
        content: digest of what was put to the arm.
        seed: of the recipe.
        trial: 0, or the number of the repetition.
    """

    arm: str
    task: str
    sample: str
    content: str
    seed: int
    trial: int = 0

    @functools.cached_property
    def text(self) -> str:
        """32 hex digits; equal keys, equal text."""
        value = json.dumps([self.arm, self.task, self.sample, self.content, self.seed, self.trial])
        return hashlib.sha256(value.encode()).hexdigest()[:32]


LATER = {"constraint": None, "seconds": None, "tenant": "", "logit_bias": (), "tools": ()}
"""Settings that answers got later, and their usual values: records from before there were any still count."""


def content_digest(request: Ask | Choose | Continue | Read) -> str:
    """Digest of what is put to an arm: conversation and settings, continuations, or text."""
    content = dataclasses.asdict(request)
    for name, usual in LATER.items():
        if "settings" in content and content["settings"][name] == usual:
            del content["settings"][name]
    if content.get("before") == "":  # of texts that are read from their beginning, as all were once
        del content["before"]
    for name in ("rolling", "raw"):  # both came later
        if content.get(name) is False:
            del content[name]
    return digest([type(request).__name__, content])


def key_of(arm: str, task: str, sample: Sample, seed: int, trial: int = 0) -> Key:
    """The key of an arm's record for a sample."""
    return Key(arm, task, sample.id, content_digest(sample.request), seed, trial)


class NoRecordsError(SteelyardError):
    """There is no store to read, or nothing was ever kept in it."""


class _DamagedError(SteelyardError):
    """A store, or a record in it, that cannot be read."""


class Records:
    """An open store. Use as a context manager.

    A damaged file is read as far as it can be. Opened for writing, what was read becomes the store, and the damaged file stays beside it
    under another name; for reading, the file is left as it is. A record that cannot be read counts as missing.

    Args:
        path: the file; made where there is none.
        reading: only read what is there. Then the file may lie where nothing can be written, such as a mounted archive.
        say: told what could not be read, if anything: of the file at once, of single records when the store is closed.

    Raises:
        NoRecordsError: for reading, there is none.
        SteelyardError: nothing in the file can be read, it is something else, comes from a newer version, or the disk is full.
    """

    def __init__(self, path: Path, reading: bool = False, say: Callable[[str], None] = lambda line: None):
        self.path, self._copy, self._say = path, None, say
        self._unread: set[str] = set()  # keys of records that cannot be read
        if reading and not path.is_file():
            raise NoRecordsError("there are no records", where=str(path), do="Name the directory of a weighing: runs/NAME.")
        try:
            try:
                self._open(reading)
            except _DamagedError as error:
                self._salvage(reading, error)
        except BaseException:
            self._clear()
            raise

    def _open(self, reading: bool) -> None:
        with self._explained():
            if not reading:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            place = self._place() if reading else str(self.path)
            self._database = sqlite3.connect(place, timeout=_PATIENCE, isolation_level=None, check_same_thread=False, uri=reading)
        try:
            with self._explained():
                self._prepare(reading)
        except BaseException:
            self._database.close()
            raise

    def _salvage(self, reading: bool, damage: _DamagedError) -> None:
        """Makes a store of what can be read of a damaged one, and opens it."""
        damaged, saved = self.path, self.path.with_name(self.path.name + ".saved")
        if reading and self._copy is not None:
            damaged = Path(self._copy.name) / self.path.name
        elif reading:
            self._copy = tempfile.TemporaryDirectory(prefix="steelyard-records-")
        if self._copy is not None:
            saved = Path(self._copy.name) / saved.name
        saved.unlink(missing_ok=True)  # of a process that was killed at this
        with Records(saved) as store, self._explained():
            count = store._take(filter(_is_whole, salvage.rows(damaged, len(_KINDS))))
            store._database.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        if not count:
            saved.unlink()
            do = "Move the file away or delete it (with its -wal and -shm neighbours) and run again; all of it will be answered anew."
            raise SteelyardError(f"{damage.what}; no record in it can be read", where=damage.where, do=do)
        told = f"{damage.where}: {damage.what}. {count} record{'s' * (count != 1)} could be read, the others count as missing"
        if reading:
            self._say(f"{told}.")
            self._database = sqlite3.connect(f"{saved.as_uri()}?mode=rw", isolation_level=None, check_same_thread=False, uri=True)
            return
        with self._explained():
            kept = _free_name(self.path)
            for ending in ("", "-wal", "-shm"):  # a log that stayed would be taken for the new file's
                if (part := self.path.with_name(self.path.name + ending)).exists():
                    part.replace(kept.with_name(kept.name + ending))
            saved.replace(self.path)
        self._say(f"{told}. The damaged file is kept as {kept}.")
        self._open(reading)

    def _place(self) -> str:
        """A URI to read the file by. SQLite's log wants a file beside the store even of those who only read; where none can be made, a store
        that was closed is read as one that nobody changes, and one that was not (there is a log) is copied together with its log."""
        path, log = self.path.absolute(), self.path.with_name(self.path.name + "-wal")
        if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
            return f"{path.as_uri()}?mode=rw"
        if not log.is_file() or not log.stat().st_size:
            return f"{path.as_uri()}?immutable=1"
        self._copy = tempfile.TemporaryDirectory(prefix="steelyard-records-")
        for part in (path, log):
            shutil.copyfile(part, Path(self._copy.name) / part.name)
        return f"{(Path(self._copy.name) / path.name).as_uri()}?mode=rw"

    def _prepare(self, reading: bool) -> None:
        with self._moment("BEGIN"):
            self._check(reading)
        if reading:
            return
        log_ahead(self._database, _PATIENCE)
        self._database.execute("PRAGMA synchronous = NORMAL")
        with self._moment("BEGIN IMMEDIATE"):  # whoever opens the store meanwhile sees all of this, or nothing
            for statement in (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {FORMAT}", _TABLE):
                self._database.execute(statement)

    def _check(self, reading: bool) -> None:
        """Sees that the file is a store of this version, or (for writing) nothing yet."""
        ask = self._database.execute
        kind, form = ask("PRAGMA application_id").fetchone()[0], ask("PRAGMA user_version").fetchone()[0]
        if kind not in (0, APPLICATION_ID) or (kind == 0 and ask("SELECT count(*) FROM sqlite_master").fetchone()[0]):
            raise SteelyardError("this SQLite file holds something else than records", where=str(self.path), do="Choose another directory.")
        if form > FORMAT:
            raise SteelyardError(
                f"the records have form {form}, this version reads up to {FORMAT}",
                where=str(self.path),
                do="Use a newer Steelyard, or move the file away.",
            )
        if (found := ask("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found.removeprefix("*** in database main ***"))
        if reading and kind != APPLICATION_ID:
            raise NoRecordsError("there are no records in this file", where=str(self.path), do="Weigh in the directory first.")

    @contextmanager
    def _moment(self, begin: str) -> Iterator[None]:
        """A transaction, undone where its block raises."""
        self._database.execute(begin)
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def get(self, key: Key) -> Output | None:
        """The output recorded for a key, or None where there is none that can be read."""
        with self._explained():
            row = self._database.execute("SELECT output FROM records WHERE key = ?", (key.text,)).fetchone()
        try:
            return None if row is None else _unpack(row[0])
        except _DamagedError:
            self._unread.add(key.text)
            return None

    def put(self, key: Key, output: Output) -> None:
        """Keeps an output; one already kept under this key is replaced."""
        row = (key.text, key.arm, key.task, key.sample, key.seed, key.trial, output.failure is not None, _pack(output))
        self._insert([row])

    def _insert(self, rows: Iterable[tuple[Any, ...]]) -> None:
        with self._explained(), self._moment("BEGIN IMMEDIATE"):
            self._database.executemany(f"INSERT OR REPLACE INTO records({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def merge(self, other: Path) -> int:
        """Takes over what another store has and this one lacks, or has only as a failure.

        Where both have an answer (or both a failure), the one whose packed bytes come first is kept: whichever order stores are
        merged in, and however often, the same records come out.

        Args:
            other: another store's file; its records are only read.

        Returns:
            The number of records taken over.
        """
        if not other.is_file():
            raise SteelyardError("there are no records to merge", where=str(other))
        with Records(other, reading=True, say=self._say) as theirs:
            return self._take(theirs._whole(f"SELECT {_COLUMNS} FROM records"))

    def _take(self, rows: Iterable[tuple[Any, ...]]) -> int:
        """Keeps rows that are better than what is there; returns how many records were."""
        taken, batch = 0, dict[str, tuple[Any, ...]]()
        for row in rows:
            with self._explained():
                mine = self._database.execute(f"SELECT {_COLUMNS} FROM records WHERE key = ?", (row[0],)).fetchone()
            mine = batch.get(row[0], mine)
            if mine is None or not _is_whole(mine) or (bool(row[-2]), row[-1]) < (bool(mine[-2]), mine[-1]):
                taken += row[0] not in batch
                batch[row[0]] = row
            if len(batch) >= 500:
                self._insert(batch.values())
                batch = {}
        self._insert(batch.values())
        return taken

    def _rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        with self._explained():
            cursor = self._database.execute(query)
        while True:
            with self._explained():
                rows = cursor.fetchmany(200)
            if not rows:
                return
            yield from rows

    def _whole(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Rows with all columns, of the records that can be read."""
        for row in self._rows(query):
            if _is_whole(row):
                yield row
            else:
                self._unread.add(row[0])

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Output]]:
        """Every record that can be read: what it belongs to, and the output."""
        for key, arm, task, sample, seed, trial, _, packed in self._whole(
            f"SELECT {_COLUMNS} FROM records ORDER BY task, sample, trial, arm"
        ):
            yield {"key": key, "arm": arm, "task": task, "sample": sample, "seed": seed, "trial": trial}, _unpack(packed)

    def __len__(self) -> int:
        with self._explained():
            return self._database.execute("SELECT count(*) FROM records").fetchone()[0]

    def keys(self) -> frozenset[str]:
        """The keys of all records."""
        return frozenset(key for (key,) in self._rows("SELECT key FROM records"))

    def answered(self) -> frozenset[str]:
        """The keys of all answers that are there and did not fail."""
        return frozenset(key for (key,) in self._rows("SELECT key FROM records WHERE failed = 0"))

    def export_parquet(self, path: Path) -> int:
        """Writes all records as Parquet, one row each; returns their number.

        Raises:
            UnsupportedError: pyarrow is not installed.
        """
        try:
            arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise UnsupportedError("Parquet needs pyarrow", do="Install it: pip install 'steelyard[parquet]'.") from None
        rows = [address | dataclasses.asdict(output) for address, output in self]
        for row in rows:
            for name in (
                "tokens",
                "scores",
                "citations",
                "usage",
                "confidence",
                "calls",
            ):  # nested and often empty: as JSON text their type is always known
                row[name] = json.dumps(row[name], ensure_ascii=False)
        parquet.write_table(arrow.Table.from_pylist(rows), path)
        return len(rows)

    def close(self) -> None:
        """Closes the file. Closing twice is fine."""
        self._database.close()
        if self._unread:
            count = len(self._unread)
            self._say(
                f"{self.path}: {count} damaged record{'s' * (count != 1)} could not be read, and count{'s' * (count == 1)} as missing."
            )
            self._unread = set()
        self._clear()

    def _clear(self) -> None:
        if self._copy is not None:
            self._copy.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors as what a person can do about them."""
        where = str(self.path)
        try:
            yield
        except sqlite3.DatabaseError as error:
            text = str(error)
            if "full" in text:
                raise SteelyardError(
                    "the disk is full", where=where, do="Free some space and run the same command again; what was recorded stays."
                ) from error
            if isinstance(error, sqlite3.OperationalError) and ("locked" in text or "busy" in text):
                raise SteelyardError(
                    "another process writes these records", where=where, do="Wait for it, or use another directory."
                ) from error
            if isinstance(error, sqlite3.OperationalError) and ("readonly" in text or "unable to open" in text):
                raise SteelyardError(
                    f"the records cannot be written: {text}", where=where, do="Choose a directory you may write to."
                ) from error
            if isinstance(error, sqlite3.OperationalError) and "I/O error" in text:
                # A disk or quota without room for SQLite's shared memory, a limit on a file's size, a network folder that went away.
                raise SteelyardError(
                    f"the disk did not read or write the records: {text}",
                    where=where,
                    do="See that the disk, its quota and the limit on a file's size (`ulimit -f`) leave room, then run the same command "
                    "again; what was recorded stays.",
                ) from error
            raise _DamagedError(
                f"the records are damaged: {' '.join(text.split())}",
                where=where,
                do="Run the same command again: it saves what can be read.",
            ) from error
        except OSError as error:
            raise SteelyardError(
                f"the records cannot be opened: {error.strerror}", where=where, do="Choose a directory you may write to."
            ) from error


def _is_whole(row: tuple[Any, ...]) -> bool:
    """Whether a row is a record that can be read."""
    try:
        return tuple(map(type, row)) == _KINDS and _unpack(row[-1]) is not None
    except _DamagedError:
        return False


def _free_name(path: Path) -> Path:
    """Where a damaged file can be kept."""
    names = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    return next(kept for name in names if not (kept := path.with_name(f"{path.stem}.damaged{name}{path.suffix}")).exists())


def _pack(output: Output) -> bytes:
    """An output as compressed JSON; a token is a list, because there are many."""
    value = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    value["tokens"] = [
        [t.id, t.text, t.logprob, t.entropy, t.sampled_logprob, *([list(map(list, t.alternatives))] if t.alternatives else [])]
        for t in output.tokens
    ]
    value["scores"] = [[s.logprob, s.greedy, s.tokens, s.bytes, *([s.cut] if s.cut else [])] for s in output.scores]
    value["citations"] = [dataclasses.asdict(citation) for citation in output.citations]
    value["usage"] = dataclasses.asdict(output.usage) if output.usage else None
    if not output.model:  # as in the records of versions that knew of none
        del value["model"]
    if output.calls:
        value["calls"] = [[call.name, call.arguments] for call in output.calls]
    else:
        del value["calls"]
    if output.confidence is None:
        del value["confidence"]
    else:
        value["confidence"] = [output.confidence.value, output.confidence.kind]
    # surrogatepass: half a surrogate pair may come out of an endpoint's JSON, and is what it said
    return zlib.compress(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"), 3)


def _unpack(packed: bytes) -> Output:
    try:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(packed, LARGEST)
        if not unpacker.eof:
            raise ValueError("cut off")
        value = json.loads(raw.decode("utf-8", "surrogatepass"))
        value["tokens"] = tuple(_token(*row) for row in value["tokens"])
        value["scores"] = tuple(Score(*row) for row in value["scores"])
        value["citations"] = tuple(Citation(**row) for row in value["citations"])
        value["usage"] = Usage(**value["usage"]) if value["usage"] else None
        value["confidence"] = Confidence(*value["confidence"]) if value.get("confidence") else None
        value["calls"] = tuple(ToolCall("", *call) for call in value.get("calls", ()))
        return Output(**value)
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _DamagedError(f"a record is damaged: {type(error).__name__}: {error}") from error


def _token(id: int, text: str, logprob: float, entropy: float, sampled: float, alternatives: Sequence[Sequence[Any]] = ()) -> Token:
    return Token(id, text, logprob, entropy, sampled, tuple((int(other), chance) for other, chance in alternatives))
