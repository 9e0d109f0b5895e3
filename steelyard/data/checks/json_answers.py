"""JSON in an answer: whether the answer is JSON and nothing else, and the first object in it where it is not."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from typing import Any

from steelyard.core.json_hooks import no_constant, unique


@dataclass(frozen=True, slots=True)
class Found:
    """JSON found in an answer.

    Attributes:
        value: what it says.
        alone: whether the answer is this JSON and nothing else (a code fence around it is allowed).
    """

    value: Any
    alone: bool


_DECODER = json.JSONDecoder(parse_constant=no_constant, object_pairs_hook=unique)


def read_json(text: str) -> Any:
    """Strict JSON: no NaN, no repeated keys, nothing around it.

    Raises:
        ValueError: for anything else, also for nesting too deep and numbers too long to read.
    """
    try:
        value, end = _DECODER.raw_decode(text.strip())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if end != len(text.strip()):
        raise ValueError("something follows the JSON")
    return value


def _unfenced(text: str) -> str:
    """What stands inside a code fence that is the whole text; else the text itself."""
    opening, line_end, rest = text.partition("\n")
    if line_end and re.fullmatch(r"```[\w-]*\s*", opening) and rest.endswith("```"):
        return rest.removesuffix("```")
    return text


def find_json(text: str) -> Found | None:
    """The answer as JSON, or the first object or array in it; None where there is none."""
    text = text.strip()
    with contextlib.suppress(ValueError):  # it does not stand alone: what is inside is looked through below
        return Found(read_json(_unfenced(text)), alone=True)
    for match in list(re.finditer(r"[{\[]", text))[:50]:
        try:
            value, _ = _DECODER.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        return Found(value, alone=False)
    return None
