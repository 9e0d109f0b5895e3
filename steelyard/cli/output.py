"""How verbs speak: results on standard output, everything else on standard error, JSON as the last line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console(stderr: bool = False) -> Console:
    """A Rich console on the stream as it is now (tests and pipes replace it)."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=False)


def print_json(document: Any) -> None:
    """One JSON document on one line. Infinite numbers have no place in it and raise ValueError."""
    print(json.dumps(document, ensure_ascii=False, allow_nan=False, default=str))


def say_on(stream_is_error: bool) -> Callable[[str], None]:
    """A `say` for the floors below: lines for a person, on standard error where standard output is for JSON."""

    def say(line: str) -> None:
        print(line, file=sys.stderr if stream_is_error else sys.stdout, flush=True)

    return say


def size(count: float) -> str:
    """Bytes in the unit a person would choose."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
