"""Four kinds of training rows, read into one form: a conversation that says which of its turns are learned.

| kind | a row |
| --- | --- |
| `messages` | `{"messages": [{"role": "user", "content": "..."}, ...]}`; `"weight": 0` on an answer: shown, not learned |
| `prompt_completion` | `{"prompt": "...", "completion": "..."}`, each text or a list of messages |
| `alpaca` | `{"instruction": "...", "input": "...", "output": "..."}`, also `system` and `history` |
| `sharegpt` | `{"conversations": [{"from": "human", "value": "..."}, ...]}`, also `system` |

A file holds one kind, declared or recognised by its keys. Rows that cannot be used are collected, never dropped unsaid.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from steelyard.core.errors import DataError
from steelyard.core.files import atomic
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import Message, Role, ToolCall

Kind = Literal["messages", "prompt_completion", "alpaca", "sharegpt"]
KEYS: Mapping[Kind, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
}
_ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_SHAREGPT_ROLES: Mapping[str, Role] = {**_ROLES, "human": "user", "gpt": "assistant", "model": "assistant", "observation": "tool"}


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn, and whether a model is trained to say it."""

    message: Message
    learned: bool


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation to learn from.

    Attributes:
        turns: in order; at least one is learned, and learned turns are the assistant's.
        where: file and line (or generator and number), for errors.
        tools: tool descriptions handed to the chat template, as the row had them.
    """

    turns: tuple[Turn, ...]
    where: str = ""
    tools: tuple[Any, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Digest of the content alone: the same row from elsewhere is the same example."""
        return digest([[(turn.message.as_dict(), turn.learned) for turn in self.turns], self.tools])


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: its line (from 1), the reason, and its text for the quarantine."""

    line: int
    reason: str
    text: str = ""


@dataclass
class Rows:
    """What a file or generator gave: usable examples, and rows that are not."""

    origin: str
    examples: list[Example] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


class UnusableRow(ValueError):
    """Why one row cannot be used; becomes a `BadRow`."""


def read_jsonl(path: Path, kind: Kind | Literal["auto"] = "auto") -> Rows:
    """Reads a JSONL file. Bad rows are in the result; see `settle` for what becomes of them.

    Raises:
        DataError: when the file cannot be read, is empty, or is one JSON array instead of one object a line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), do="Name a JSONL file, one object a line.") from error
    if not content.strip():
        raise DataError("the file is empty", where=str(path), do="It should hold one JSON object a line.")
    if content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        raise DataError(
            "this is a JSON array, not JSONL", where=str(path), do=f"Write one object a line: jq -c '.[]' {path.name} > {path.stem}.jsonl"
        )
    rows = Rows(str(path))
    parsed: list[tuple[int, dict[str, Any], str]] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not line.strip():
            continue
        text = line.decode("utf-8", errors="replace").rstrip("\r")
        try:
            parsed.append((number, parse_row(line), text))
        except UnusableRow as problem:
            rows.bad.append(BadRow(number, str(problem), text))
    chosen = _common_kind(row for _, row, _ in parsed) if kind == "auto" else kind
    for number, row, text in parsed:
        try:
            rows.examples.append(to_example(row, chosen, f"{path}:{number}", declared=kind != "auto"))
        except UnusableRow as problem:
            rows.bad.append(BadRow(number, str(problem), text))
    rows.bad.sort(key=lambda bad: bad.line)
    return rows


def settle(rows: Rows, policy: Literal["stop", "skip"], quarantine: Path | None = None) -> list[str]:
    """Writes bad rows to the quarantine; stops, naming them all, unless told to skip them.

    Returns:
        Lines for a person about what was left out (none when every row was good).

    Raises:
        DataError: bad rows and `policy` is "stop", or no row is left.
    """
    if not rows.bad:
        return []
    kept = "" if quarantine is None else f"They are in {quarantine}. "
    if quarantine is not None:
        with atomic(quarantine) as file:
            for bad in rows.bad:
                file.write(json.dumps({"file": rows.origin, "line": bad.line, "reason": bad.reason, "row": bad.text}) + "\n")
    total = len(rows.examples) + len(rows.bad)
    what = f"{len(rows.bad)} of {total} rows cannot be used:\n{describe(rows.bad)}"
    if policy == "stop":
        raise DataError(what, where=rows.origin, do=f"{kept}Correct them, or set `bad_rows: skip` to go on without them.")
    if not rows.examples:
        raise DataError(what, where=rows.origin, do=f"{kept}No usable row is left.")
    return [f"{rows.origin}: {what}", *([kept.strip()] if kept else [])]


def describe(bad: Iterable[BadRow]) -> str:
    """Every bad row's line number, rows with the same reason together: `lines 3, 7-9: not JSON`."""
    lines: dict[str, list[int]] = {}
    for row in bad:
        lines.setdefault(row.reason, []).append(row.line)
    return "\n".join(f"    line{'s' if len(numbers) > 1 else ''} {_ranges(numbers)}: {reason}" for reason, numbers in lines.items())


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def parse_row(line: bytes) -> dict[str, Any]:
    """One line of JSONL as an object.

    Raises:
        UnusableRow: it is none; the message is the reason.
    """
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UnusableRow(f"not UTF-8 (byte {error.start + 1} of the line)") from error
    except json.JSONDecodeError as error:
        raise UnusableRow(f"not JSON: {error.msg} (column {error.colno})") from error
    except RecursionError as error:
        raise UnusableRow("JSON nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise UnusableRow("JSON with a number too long to read") from error
    if not isinstance(row, dict):
        raise UnusableRow(f"{json_name(row)}, not an object")
    return row


def _kinds(row: Mapping[str, Any]) -> list[Kind]:
    return [kind for kind, keys in KEYS.items() if all(key in row for key in keys)]


def _common_kind(rows: Iterable[Mapping[str, Any]]) -> Kind | None:
    counts: Counter[Kind] = Counter(kinds[0] for row in rows if len(kinds := _kinds(row)) == 1)
    return counts.most_common(1)[0][0] if counts else None


def to_example(row: Mapping[str, Any], kind: Kind | None, where: str, *, declared: bool = True) -> Example:
    """One row as an example.

    Args:
        row: the parsed JSON object.
        kind: the file's kind, None where nothing was recognised.
        where: the row's address.
        declared: whether the kind was declared; if not, a row that looks like another kind, or several, is refused.

    Raises:
        ValueError: the row cannot be used; the message is the reason.
    """
    found = _kinds(row)
    if not found or kind is None:
        keys = ", ".join(f"`{key}`" for key in row) or "no keys"
        raise UnusableRow(
            f"none of the forms messages, prompt/completion, alpaca, sharegpt (it has {keys[:200]})" if not found else _several(found)
        )
    if not declared and len(found) > 1:
        raise UnusableRow(_several(found))
    if kind not in found:
        raise UnusableRow(f"of the kind {found[0]}, but this file is {kind}")
    parse: Mapping[Kind, Callable[[Mapping[str, Any]], list[Turn]]] = {
        "messages": lambda row: _turns(row["messages"], "messages", "role", "content", _ROLES),
        "prompt_completion": _prompt_completion,
        "alpaca": _alpaca,
        "sharegpt": _sharegpt,
    }
    turns = parse[kind](row)
    if not any(turn.learned for turn in turns):
        raise UnusableRow("no assistant turn to learn from")
    for index, turn in enumerate(turns):
        if turn.message.role == "system" and index:
            raise UnusableRow(f"turn {index + 1} is a system turn; only the first may be")
        if turn.learned and not turn.message.content.strip() and not turn.message.tool_calls:
            raise UnusableRow(f"turn {index + 1} is an empty answer")
    return Example(tuple(turns), where, _tools(row.get("tools")))


def _several(found: list[Kind]) -> str:
    return f"could be {' or '.join(found)}; declare it with `format`"


def _prompt_completion(row: Mapping[str, Any]) -> list[Turn]:
    if isinstance(row["prompt"], list) or isinstance(row["completion"], list):
        before = _turns(row["prompt"], "prompt", "role", "content", _ROLES)
        answers = _turns(row["completion"], "completion", "role", "content", _ROLES)
        return [Turn(turn.message, learned=False) for turn in before] + answers
    return [_said("user", row, "prompt"), _said("assistant", row, "completion")]


def _alpaca(row: Mapping[str, Any]) -> list[Turn]:
    turns = [_said("system", row, "system")] if row.get("system") else []
    history = row.get("history") or []
    if not isinstance(history, list):
        raise UnusableRow(f"`history` is {json_name(history)}, not a list of [question, answer] pairs")
    for index, pair in enumerate(history):
        if not (isinstance(pair, list) and len(pair) == 2):
            raise UnusableRow(f"`history` item {index + 1} is not a [question, answer] pair")
        turns += [_said("user", dict(enumerate(pair)), 0), Turn(_said("assistant", dict(enumerate(pair)), 1).message, learned=False)]
    asked = _said("user", row, "instruction").message.content
    extra = _said("user", row, "input").message.content if row.get("input") else ""
    question = f"{asked}\n\n{extra}" if extra else asked
    return [*turns, Turn(Message("user", question), learned=False), _said("assistant", row, "output")]


def _sharegpt(row: Mapping[str, Any]) -> list[Turn]:
    turns = [_said("system", row, "system")] if row.get("system") else []
    listed = row["conversations"]
    # Half of what is called ShareGPT uses role/content inside `conversations`.
    spelled = isinstance(listed, list) and bool(listed) and all(isinstance(turn, dict) and "role" in turn for turn in listed)
    keys = ("role", "content") if spelled else ("from", "value")
    return turns + _turns(listed, "conversations", *keys, _SHAREGPT_ROLES)


def _turns(listed: Any, key: str, speaker: str, said: str, roles: Mapping[str, Role]) -> list[Turn]:
    if not isinstance(listed, list) or not listed:
        raise UnusableRow(f"`{key}` is {'empty' if listed == [] else json_name(listed)}, not a list of turns")
    turns = []
    for index, turn in enumerate(listed, start=1):
        if not isinstance(turn, dict):
            raise UnusableRow(f"turn {index} of `{key}` is {json_name(turn)}, not an object")
        role = turn.get(speaker)
        if not isinstance(role, str) or role not in roles:
            raise UnusableRow(f"turn {index} of `{key}` has the {speaker} {role!r:.40}; known: {', '.join(roles)}")
        calls = _tool_calls(turn.get("tool_calls"), index)
        content = "" if calls and turn.get(said) is None else _text(turn.get(said), f"`{said}` of turn {index}")
        weight = turn.get("weight", 1)
        if isinstance(weight, bool) or weight not in (0, 1):
            raise UnusableRow(f"`weight` of turn {index} is {weight!r:.40}; it is 0 (not learned) or 1")
        name = turn.get("name")
        if name is not None:
            name = _text(name, f"`name` of turn {index}")
        learned = roles[role] == "assistant" and weight == 1
        turns.append(Turn(Message(roles[role], content, name, calls), learned))
    return turns


def _said(role: Role, row: Mapping[Any, Any], key: Any) -> Turn:
    return Turn(Message(role, _text(row[key], f"`{key}`")), learned=role == "assistant")


def _text(value: Any, what: str) -> str:
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        if others := sorted(
            {str(part.get("type")) for part in value if part.get("type") != "text" or not isinstance(part.get("text"), str)}
        ):
            raise UnusableRow(f"{what} has parts of type {', '.join(others)[:80]}; only text can be learned")
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise UnusableRow(f"{what} is {json_name(value)}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnusableRow(f"{what} holds half a surrogate pair (character {error.start + 1}), which no tokenizer can read") from error
    return value


def _tool_calls(value: Any, index: int) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    try:
        calls = [(call.get("id", ""), call["function"]["name"], call["function"]["arguments"]) for call in value]
    except (TypeError, KeyError, AttributeError) as error:
        raise UnusableRow(f"`tool_calls` of turn {index} do not have the form of the OpenAI API") from error
    return tuple(
        ToolCall(
            _text(id, "a tool call's id"), _text(name, "a tool's name"), arguments if isinstance(arguments, str) else json.dumps(arguments)
        )
        for id, name, arguments in calls
    )


def _tools(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise UnusableRow(f"`tools` is {json_name(value)}, not a list")
    return tuple(value)


def json_name(value: Any) -> str:
    """What a JSON value is, for a reason."""
    names = {
        type(None): "null or missing",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)
