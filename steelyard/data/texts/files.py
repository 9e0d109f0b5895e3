"""Text, Markdown, code and JSONL files as documents, streamed."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steelyard.core.errors import DataError
from steelyard.data.formats import BadRow, UnusableRow, json_name, parse_row
from steelyard.data.texts.document import PIECE, Checked, Document, pieces

CHUNK = 2**20  # bytes
LONGEST_ROW = 2**28  # bytes
MOST_BAD_ROWS = 10_000
BOM = b"\xef\xbb\xbf"


@dataclass
class Unchanged:
    """Notices a file that is not any more what was checked."""

    path: Path
    seen: tuple[int, int] | None = None

    def mark(self) -> None:
        """Takes the file as it is now. It must be a plain file: reading from a pipe might wait for ever."""
        if not self.path.is_file():
            raise FileNotFoundError(2, "not a file")
        self.seen = self._now()

    def verify(self) -> None:
        """Raises DataError where the file has changed since."""
        try:
            same = self._now() == self.seen
        except OSError:
            same = False
        if not same:
            raise DataError("the file changed after it had been checked", where=str(self.path), do="Let it rest, and start again.")

    def _now(self) -> tuple[int, int]:
        stat = self.path.stat()
        return stat.st_size, stat.st_mtime_ns


@dataclass
class FilePart:
    """A file that is watched from when it is checked to when it is read."""

    path: Path
    state: Unchanged = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.state = Unchanged(self.path)

    @property
    def where(self) -> str:
        return str(self.path)


class TextPart(FilePart):
    """A file that is one text."""

    def check(self) -> Checked:
        decoder, content, blank, done = codecs.getincrementaldecoder("utf-8")(), hashlib.sha256(), True, 0
        try:
            self.state.mark()
            with self.path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    if 0 in chunk:
                        return Checked(unusable=f"binary (byte {done + chunk.index(0) + 1} is zero)")
                    text = decoder.decode(chunk)  # also where it is known not to be blank: every byte is checked
                    blank = blank and not text.removeprefix("\ufeff").strip()
                    content.update(chunk)
                    done += len(chunk)
            decoder.decode(b"", final=True)
        except OSError as error:
            return Checked(unusable=f"cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            return Checked(unusable=f"not UTF-8 ({error.reason}, near byte {done + error.start + 1})")
        if blank:
            return Checked(unusable="nothing but white space" if done else "empty")
        return Checked(f"text:{content.hexdigest()}", 1)

    def documents(self) -> Iterator[Document]:
        self.state.verify()
        # No translation of line ends: what is learned is what the file holds.
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            yield from pieces(iter(lambda: file.read(PIECE), ""), self.where)


@dataclass
class JsonlPart(FilePart):
    """A file with one JSON object a line, one of whose keys holds a text."""

    column: str

    def check(self) -> Checked:
        content, bad, good = hashlib.sha256(), [], 0
        try:
            self.state.mark()
            for number, line in self._lines():
                try:
                    text = self._text(line)
                except UnusableRow as problem:
                    bad.append(BadRow(number, str(problem)))
                    if len(bad) == MOST_BAD_ROWS:
                        return Checked(unusable=f"more than {MOST_BAD_ROWS} rows cannot be used; line {bad[0].line}: {bad[0].reason}")
                    continue
                add(content, text)
                good += 1
        except OSError as error:
            return Checked(unusable=f"cannot be read: {error.strerror}")
        if not good and not bad:
            return Checked(unusable="empty")
        return Checked(f"rows:{content.hexdigest()}", good, tuple(bad))

    def documents(self) -> Iterator[Document]:
        self.state.verify()
        for number, line in self._lines():
            try:
                text = self._text(line)
            except UnusableRow:  # named by `check`
                continue
            yield from long_text(text, f"{self.path}:{number}")

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Lines that hold anything, with their numbers from 1; of one that is too long only the beginning."""
        with self.path.open("rb") as file:
            number, line = 0, file.readline(LONGEST_ROW + 1)
            while line:
                number += 1
                content = line.removeprefix(BOM) if number == 1 else line
                if content.strip():
                    yield number, content
                while line and not line.endswith(b"\n"):
                    line = file.readline(CHUNK)
                line = file.readline(LONGEST_ROW + 1)

    def _text(self, line: bytes) -> str:
        if len(line) > LONGEST_ROW:
            raise UnusableRow(f"longer than {LONGEST_ROW >> 20} MiB")
        row = parse_row(line)
        if self.column not in row:
            raise UnusableRow(f"no key `{self.column}` (it has {', '.join(f'`{key}`' for key in row)[:200] or 'none'})")
        return usable(row[self.column], self.column)


def usable(value: Any, column: str) -> str:
    """A row's text.

    Raises:
        UnusableRow: it is none, empty, or cannot be written as UTF-8.
    """
    if not isinstance(value, str):
        raise UnusableRow(f"`{column}` is {json_name(value)}, not text")
    if not value.strip():
        raise UnusableRow(f"`{column}` is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UnusableRow(f"`{column}` holds half a surrogate pair, which no tokenizer can read") from None
    return value


def long_text(text: str, where: str) -> Iterator[Document]:
    """A text that is here already, as documents that are not too long."""
    return pieces((text[start : start + PIECE] for start in range(0, len(text), PIECE)), where)


def add(content: Any, text: str) -> None:
    """Adds a text to a digest so that where it ends counts too."""
    raw = text.encode("utf-8")
    content.update(len(raw).to_bytes(8, "little"))
    content.update(raw)
