"""Preference pairs: two answers to the same conversation, one of them preferred, perhaps with how clearly.

A row is `{"prompt": [messages], "chosen": [message], "rejected": [message]}`, the form trl reads too; each of the three may also be
a text. `"strength"` is 1 (a little better), 2 (clearly) or 3 (by far), or null where nobody said. Other keys are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steelyard.core.errors import DataError
from steelyard.core.protocols import Message
from steelyard.data.formats import BadRow, UnusableRow, parse_row, to_example


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one conversation.

    Attributes:
        prompt: what both answer.
        chosen: the better answer's text.
        rejected: the other's.
        strength: 1 to 3, or None.
        where: file and line, for errors.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    strength: int | None = None
    where: str = ""


@dataclass
class Preferences:
    """What a file gave: usable pairs, and rows that are none."""

    origin: str
    pairs: list[Preference] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


def read_preferences(path: Path) -> Preferences:
    """Reads a JSONL file of pairs. Bad rows are in the result, with the reason.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), do="Name a JSONL file, one pair a line.") from error
    found = Preferences(str(path))
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            found.pairs.append(to_preference(parse_row(line), f"{path}:{number}"))
        except UnusableRow as problem:
            found.bad.append(BadRow(number, str(problem), line.decode("utf-8", errors="replace")))
    return found


def to_preference(row: Mapping[str, Any], where: str = "") -> Preference:
    """One row as a pair.

    Raises:
        UnusableRow: it is none; the message is the reason.
    """
    if missing := [key for key in ("prompt", "chosen", "rejected") if key not in row]:
        raise UnusableRow(f"no preference pair: {', '.join(f'`{key}`' for key in missing)} missing")
    prompt, chosen = _both(row, "chosen", where)
    _, rejected = _both(row, "rejected", where)
    if chosen == rejected:
        raise UnusableRow("`chosen` and `rejected` are the same")
    strength = row.get("strength")
    if strength is not None and (type(strength) is not int or strength not in (1, 2, 3)):
        raise UnusableRow(f"`strength` is {strength!r:.40}; it is 1, 2, 3 or null")
    return Preference(prompt, chosen, rejected, strength, where)


def _both(row: Mapping[str, Any], key: str, where: str) -> tuple[tuple[Message, ...], str]:
    """The prompt and one answer, read as the prompt and completion of a training row are, so that both kinds mean the same."""
    prompt = [{"role": "user", "content": row["prompt"]}] if isinstance(row["prompt"], str) else row["prompt"]
    answer = [{"role": "assistant", "content": row[key]}] if isinstance(row[key], str) else row[key]
    try:
        turns = to_example({"prompt": prompt, "completion": answer}, "prompt_completion", where).turns
    except UnusableRow as problem:
        raise UnusableRow(str(problem).replace("`completion`", f"`{key}`")) from None
    if len(answer) != 1 or not turns[-1].learned:
        raise UnusableRow(f"`{key}` is not one answer of the assistant")
    return tuple(turn.message for turn in turns[:-1]), turns[-1].message.content
