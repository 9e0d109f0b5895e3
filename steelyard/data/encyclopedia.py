"""The encyclopedia: ten thousand article openings (English Wikipedia's vital articles), got as the corpus `encyclopedia`.

Each article is a title, an extract of a few sentences, a short description and a topic. A tenth of them is held out: what
measures text (`bits_per_byte`) reads only these, and whatever trains on the encyclopedia leaves them alone.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from steelyard.core.errors import DataError
from steelyard.core.fingerprint import file_digest
from steelyard.core.get import locate
from steelyard.core.seeds import derive

FILE = "summaries_en-us.json"
HELD_OUT_SHARE = 10  # one article in ten


@dataclass(frozen=True, slots=True)
class Article:
    """One article's opening. `description` may be empty."""

    title: str
    extract: str
    description: str
    topic: str


def find(path: Path | None = None) -> Path:
    """The encyclopedia's JSON file: under `path`, or wherever `steelyard get encyclopedia` put it."""
    root = locate("encyclopedia") if path is None else path
    if root.is_file():
        return root
    found = sorted(root.rglob(FILE))
    if not found:
        raise DataError(f"no {FILE} is in it", where=str(root), do="Get it again: steelyard get encyclopedia")
    return found[0]


def read(path: Path | None = None) -> dict[str, Article]:
    """Articles by title, sorted by title.

    Raises:
        DataError: when the file is not the JSON it should be.
    """
    file = find(path)
    stat = file.stat()
    return dict(_parsed(file, stat.st_mtime_ns, stat.st_size))


@functools.lru_cache(maxsize=1)
def _parsed(file: Path, modified: int, size: int) -> dict[str, Article]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError("not the encyclopedia's JSON", where=str(file), do="Get it again: steelyard get encyclopedia") from error
    if not isinstance(rows, dict) or not rows:
        raise DataError(
            "the encyclopedia should be a JSON object of articles", where=str(file), do="Get it again: steelyard get encyclopedia"
        )
    articles = {}
    for title in sorted(rows):
        row = rows[title]
        if not isinstance(row, dict) or not isinstance(row.get("extract"), str):
            raise DataError("an article without an extract", where=f"{file}: {title}", do="Get it again: steelyard get encyclopedia")
        articles[title] = Article(title, row["extract"], row.get("description") or "", row.get("topic") or "")
    return articles


def held_out(title: str) -> bool:
    """Whether an article is kept for measuring only; decided by its title alone, so every run agrees."""
    return derive("encyclopedia held out", title) % HELD_OUT_SHARE == 0


def version(path: Path | None = None) -> str:
    """The first 16 hex digits of the file's SHA-256."""
    return file_digest(find(path))[:16]
