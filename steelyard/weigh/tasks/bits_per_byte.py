"""How many bits a model needs per byte of a text: bits/byte = -sum(log p(token)) / ln 2 / bytes. Lower is better.

It compares models whose tokenizers differ, because bytes are the same for all of them. Every piece of text is read on its own,
from its first token, with nothing before it but the model's start token; pieces are at most `piece_bytes` long and cut at
a paragraph's, else a sentence's, else a word's end. Short pieces cost more bits per byte than long ones (less context), so
figures compare only at the same `piece_bytes`. By default the pieces are openings of encyclopedia articles that are held
out: nothing here trains on them. (Any model may still have read Wikipedia.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from steelyard.core.errors import DataError
from steelyard.core.fingerprint import digest
from steelyard.data import encyclopedia
from steelyard.weigh.tasks.rows import only_keys, read_file, read_rows, take, text_of
from steelyard.weigh.tasks.task import Metric, Output, Read, Sample, Task, Value

BITS_PER_BYTE = Metric("bits_per_byte", "quality", "bits/byte", False, margin=0.01, relative=True, kind="ratio", reach=(0.0, math.inf))

_ENDS = (re.compile(r"\n\s*\n"), re.compile(r"\n|[.!?][\"'”’)]*(?=\s)"), re.compile(r"\s"))
_WORD_START = re.compile(r"\S")


class BitsPerByte(Task):
    """Compression of a text."""

    name: ClassVar[str] = "bits_per_byte"
    summary: ClassVar[str] = "Bits a model needs per byte of any text."
    metrics: ClassVar[tuple[Metric, ...]] = (BITS_PER_BYTE,)

    path: Path | None = Field(None, description='a .txt, .md or .jsonl file ({"text": ...}); by default held-out encyclopedia articles')
    pieces: int = Field(40, ge=1, le=100_000, description="most pieces read, count; drawn by the seed where there are more")
    piece_bytes: int = Field(600, ge=16, le=65_536, description="longest piece, bytes of UTF-8")

    def samples(self, seed: int) -> list[Sample]:
        documents = self._articles(seed) if self.path is None else self._file(self.path)
        pieces = [(name, number, piece) for name, text in documents for number, piece in enumerate(cut(text, self.piece_bytes))]
        if not pieces:
            raise DataError("there is no text in it", where=str(self.path), do="Give a file with text.")
        samples, seen = [], set[str]()
        for name, number, piece in take(pieces, self.pieces, seed, self.name):
            key = digest([name, number, piece])
            if key not in seen:
                seen.add(key)
                request = self.request(piece)
                tags = {"document": name, "piece": str(number)}
                samples.append(Sample(key, request, reference={"bytes": len(request.text.encode())}, cluster=f"document {name}", tags=tags))
        return samples

    def request(self, piece: str) -> Read:
        """What is asked of a piece: the text whose bits are counted, and what is read before it."""
        return Read(piece)

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        (metric,) = self.metrics
        if output.failure is not None or not output.scores:
            return {metric.name: None}
        # The text's own bytes, not what a tokenizer made of them: every arm is divided by the same number.
        return {metric.name: (-output.scores[0].logprob / math.log(2), float(sample.reference["bytes"]))}

    def _articles(self, seed: int) -> Iterator[tuple[str, str]]:
        """Held-out articles long enough to fill most of a piece, each cut down to one."""
        kept = [article for article in encyclopedia.read().values() if encyclopedia.held_out(article.title)]
        long = [article for article in kept if len(article.extract.encode()) >= self.piece_bytes * 0.7]
        chosen = take(long or kept, self.pieces, seed, "articles")
        for article in chosen:
            yield article.title, next(cut(article.extract, self.piece_bytes))

    def _file(self, path: Path) -> list[tuple[str, str]]:
        if path.suffix.lower() == ".jsonl":
            return [(f"{path.name}:{row.line}", row.value["text"]) for row in read_rows(path, _check)]
        if path.suffix.lower() not in (".txt", ".md"):
            raise DataError("not a .txt, .md or .jsonl file", where=str(path), do="Rename it, or write its text to a .txt file.")
        try:
            return [(path.name, read_file(path).decode("utf-8"))]
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 (byte {error.start + 1})", where=str(path), do=f"Convert it: iconv -t utf-8 {path.name}") from error


def _check(row: Mapping[str, Any]) -> None:
    only_keys(row, ("text", "id", "meta"), ("text",))
    text_of(row, "text")


def cut(text: str, most: int) -> Iterator[str]:
    """Pieces of at most `most` bytes of UTF-8, in order, none empty; white space around a piece is left out.

    A piece ends at the last paragraph's end in its second half, else at a sentence's, else between two words, else (one
    word longer than a piece) between two characters.
    """
    at = 0
    while match := _WORD_START.search(text, at):
        start = match.start()
        head = text[start : start + most]
        if len(head.encode()) > most:
            head = head.encode()[:most].decode("utf-8", errors="ignore")
        if start + len(head) < len(text):
            head = head[: _end(text[start : start + len(head) + 1])]  # the next character tells whether a word ends here
        at = start + len(head)
        yield head.rstrip()


def _end(head: str) -> int:
    """Where to cut a text so that no word is cut in two, as far as possible."""
    for pattern in _ENDS:
        if ends := [match.end() for match in pattern.finditer(head, len(head) // 2)]:
            return ends[-1]
    return len(head)
