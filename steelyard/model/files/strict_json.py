"""JSON from files that are not trusted: one object, no key twice, no text that cannot be written out again."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from steelyard.core import json_hooks
from steelyard.core.errors import ModelFileError
from steelyard.model.files.extent import ExtentFile

MOST_BYTES = 100_000_000  # the safetensors format's own bound on its header
MOST_PARTS = 2**23  # an empty list takes three bytes here and 64 in memory; the largest tokenizers have two million parts


def parse_object(data: bytes, where: str, endless: Collection[str] = ()) -> dict[str, Any]:
    """The JSON object in `data`.

    Args:
        data: UTF-8.
        where: address for errors.
        endless: keys whose lists may hold the word Infinity, which is no JSON; it becomes `{"__float__": "Infinity"}`, which is.

    Raises:
        ModelFileError: when it is not UTF-8, not JSON, nested beyond reason, not an object, or names a key twice.
    """
    if (parts := sum(data.count(mark) for mark in (b",", b"[", b"{"))) > MOST_PARTS:
        raise ModelFileError(f"{parts} values of JSON; at most {MOST_PARTS} are read", where=where, do="Download or copy the file again.")
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_reader(endless), parse_constant=_Word if endless else json_hooks.no_constant
        )
    except RecursionError:
        raise ModelFileError("JSON nested beyond reason", where=where, do="Download or copy the file again.") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, an integer of thousands of digits, and our own below
        raise ModelFileError(f"not valid JSON ({error})", where=where, do="Download or copy the file again.") from None
    if not isinstance(value, dict):
        raise ModelFileError("expected a JSON object", where=where, do="Download or copy the file again.")
    return value


def read_object(path: Path, endless: Collection[str] = ()) -> dict[str, Any]:
    """The JSON object in a file of at most 100 MB; see `parse_object`."""
    with ExtentFile(path) as file:
        if file.size > MOST_BYTES:
            raise ModelFileError(f"{file.size} bytes of JSON; at most {MOST_BYTES} are read", where=str(path))
        return parse_object(file.read(0, file.size), str(path), endless)


def _writable(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = json_hooks.unique(pairs)
    for key, value in pairs:
        for text in (key, value):
            if isinstance(text, str) and not text.isascii():
                text.encode("utf-8")  # a lone surrogate raises UnicodeEncodeError, a ValueError
    return out


class _Word(str):
    """A number that is no JSON: NaN, Infinity or -Infinity."""


def _reader(endless: Collection[str]) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """`_writable`, and where some keys may be endless a look at which words stand where."""
    if not endless:
        return _writable

    def read(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: _worded(value, key in endless) for key, value in _writable(pairs).items()}

    return read


def _worded(value: Any, endless: bool) -> Any:
    if isinstance(value, _Word):
        return {"__float__": str(value)} if endless and value == "Infinity" else json_hooks.no_constant(value)
    return [_worded(part, endless) for part in value] if isinstance(value, list) else value
