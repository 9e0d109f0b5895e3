"""Rows of a user's JSONL file: all read and checked before anything runs, every bad one named in one error."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from steelyard.core.errors import DataError
from steelyard.core.fingerprint import digest
from steelyard.core.seeds import derive
from steelyard.data.checks.json_answers import read_json
from steelyard.data.formats import BadRow, describe
from steelyard.weigh.bad_value import BadValue

LARGEST_FILE = 512 * 2**20  # bytes
LARGEST_ROW = 2**20  # bytes
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its line (from 1), its content, and an id that is the same wherever the row stands."""

    line: int
    value: Mapping[str, Any]
    id: str


def read_file(path: Path) -> bytes:
    """A user's file, without a byte-order mark.

    Raises:
        DataError: when it is missing, a folder, empty or absurdly large.
    """
    try:
        if path.is_dir():
            raise DataError("this is a folder", where=str(path), do="Name a file.")
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise DataError(
                f"the file has {size / 2**20:.0f} MiB, the most is {LARGEST_FILE // 2**20}", where=str(path), do="Take a part of it."
            )
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        do = "Check the path. One in a recipe or in a task's file is relative to that file, others to where you run."
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path), do=do) from error
    if not content.strip():
        raise DataError("the file is empty", where=str(path), do="It should hold one JSON object a line.")
    return content


def read_rows(path: Path, check: Callable[[Mapping[str, Any]], None]) -> list[Row]:
    """Every row of a JSONL file; blank lines are passed over.

    Args:
        path: the file.
        check: raises `BadValue` for a row that cannot be used.

    Raises:
        DataError: naming the lines of all bad rows, with the reasons.
    """
    rows, bad, ids = [], [], Numbering()
    content = read_file(path)
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            value = object_of(line)
            check(value)
        except BadValue as problem:
            bad.append(BadRow(number, str(problem)))
            continue
        rows.append(Row(number, value, ids.of(value)))
    if bad:
        raise DataError(
            f"{len(bad)} of {len(bad) + len(rows)} rows cannot be used:\n{describe(bad)}",
            where=str(path),
            do="Correct them or take them out.",
        )
    return rows


class Numbering:
    """Ids of rows by what they say. A row that stands twice is two samples; both keep their id when other rows come or go."""

    def __init__(self) -> None:
        self._seen = Counter[str]()

    def of(self, value: Mapping[str, Any]) -> str:
        """The next row's id."""
        key = digest(value)
        self._seen[key] += 1
        return key if self._seen[key] == 1 else f"{key}-{self._seen[key]}"


def object_of(line: bytes) -> dict[str, Any]:
    """The JSON object of a line; raises `BadValue` for anything else."""
    if len(line) > LARGEST_ROW:
        raise BadValue(f"the row is longer than {LARGEST_ROW} bytes")
    try:
        value = read_json(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadValue(f"not UTF-8 (byte {error.start + 1} of the line)") from error
    except json.JSONDecodeError as error:
        raise BadValue(f"not JSON: {error.msg} (column {error.colno})") from error
    except ValueError as error:
        raise BadValue(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadValue("not a JSON object")
    return value


def only_keys(row: Mapping[str, Any], known: tuple[str, ...], needed: tuple[str, ...]) -> None:
    """Refuses a row that lacks a needed key or has one that nobody reads."""
    if missing := [key for key in needed if key not in row]:
        raise BadValue(f"lacks {', '.join(f'`{key}`' for key in missing)}")
    if extra := sorted(set(row) - set(known)):
        raise BadValue(
            f"has the unknown key{'s' if len(extra) > 1 else ''} {', '.join(f'`{key}`' for key in extra)}; known: {', '.join(known)}"
        )


def text_of(row: Mapping[str, Any], key: str) -> str:
    """A value that has to be a text with something in it, and encodable as UTF-8."""
    value = row[key]
    if not isinstance(value, str):
        raise BadValue(f"`{key}` is not a text")
    if not value.strip():
        raise BadValue(f"`{key}` is empty")
    return encodable(value, key)


def encodable(value: str, key: str) -> str:
    """Refuses half a surrogate pair, which JSON can spell and UTF-8 cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadValue(f"`{key}` holds half a surrogate pair") from error
    return value


def in_turns(*parts: list[T]) -> list[T]:
    """One of each part after the other as long as they last, so that the first few are of every kind."""
    return [
        one for turn in itertools.zip_longest(*([[one] for one in part] for part in parts), fillvalue=[]) for each in turn for one in each
    ]


def take(rows: list[T], limit: int | None, seed: int, name: str) -> list[T]:
    """All rows, or `limit` of them drawn by the seed, in the file's order."""
    if limit is None or limit >= len(rows):
        return rows
    chosen = random.Random(derive(seed, name, "rows")).sample(range(len(rows)), limit)
    return [rows[i] for i in sorted(chosen)]


def take_of_every_kind(parts: Sequence[list[T]], limit: int | None, seed: int, name: str) -> list[T]:
    """All rows, or `limit` of them drawn by the seed, as many of each part as of any other (one more or less), in turns."""
    shuffled = [random.Random(derive(seed, name, "rows", place)).sample(part, len(part)) for place, part in enumerate(parts)]
    return in_turns(*(parts if limit is None else shuffled))[:limit]
