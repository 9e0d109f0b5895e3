"""Conversations of your own with what the answer should hold.

Rows: `{"messages": [...], "expected": "Paris"}` or `{"messages": [...], "check": {KIND: ...}}`. The messages end with the
user's turn; a single one may be written `"prompt": "..."`, and `answer` is the same as `expected`. What counts as right:

| row says | right when |
| --- | --- |
| `expected`: a text, or several of which one is enough | the answer names it, as whole words compared as in `data/words.py` |
| `contains`: a text, or several that must all be there | the answer holds it letter for letter, but for case and white space |
| `regex` | Python's `re.search` finds it in the answer; a pattern that needs more than two seconds does not |
| `number` | the answer's last number equals it exactly |
| `json_schema` | the answer is JSON and nothing else (a code fence is allowed) and matches |

`finished` says whether the answer ended by itself, not at `max_tokens`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, get_args

from pydantic import Field

from steelyard.core.protocols import AnswerSettings, Message, Role
from steelyard.data.checks.json_answers import find_json
from steelyard.data.checks.json_schema import matches, unsupported
from steelyard.data.checks.patterns import LONGEST_TEXT, PatternTimeout, pattern_problem, probably_endless, search_within
from steelyard.data.words import normalise
from steelyard.weigh.scorers.numbers import read_numbers, same_number
from steelyard.weigh.tasks.rows import BadValue, Row, encodable, only_keys, read_rows, take, text_of
from steelyard.weigh.tasks.task import Ask, Metric, Output, Sample, Task, Value

RIGHT = Metric("right", "quality", "share", True, margin=0.03, floor=0.0, binary=True)
FINISHED = Metric("finished", "format", "share", True, margin=0.03, binary=True)


class Chat(Task):
    """Conversations with an expected answer or a check."""

    name: ClassVar[str] = "chat"
    summary: ClassVar[str] = "Conversations from a JSONL file, with expected answers or checks."
    metrics: ClassVar[tuple[Metric, ...]] = (RIGHT, FINISHED)

    path: Path = Field(description='JSONL file of {"messages" or "prompt", "expected" or "check"}')
    limit: int | None = Field(None, ge=1, description="most rows used, count; drawn by the seed")
    max_tokens: int = Field(128, ge=1, le=32_768, description="longest answer, tokens")

    def samples(self, seed: int) -> list[Sample]:
        return [self._sample(row) for row in take(read_rows(self.path, _check), self.limit, seed, self.name)]

    def _sample(self, row: Row) -> Sample:
        value = _in_full(row.value)
        messages = tuple(Message(message["role"], message["content"], message.get("name")) for message in value["messages"])
        check = value.get("check", {"expected": value.get("expected")})
        ((kind, wanted),) = check.items()
        return Sample(
            id=row.id,
            request=Ask(messages, AnswerSettings(max_tokens=self.max_tokens)),
            reference={"expected": _in_words(kind, wanted), "kind": kind, "wanted": wanted},
            cluster=row.id.partition("-")[0],
            tags={"line": str(row.line), "check": kind},
        )

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        if output.failure is not None:
            return {"right": None, "finished": None}
        right = CHECKS[sample.reference["kind"]](output.text, sample.reference["wanted"])
        return {"right": float(right), "finished": float(output.reason in ("stop", "tool_calls")) if output.reason else None}


def _names(text: str, wanted: str | list[str]) -> bool:
    said = f" {normalise(text)} "
    return any(f" {normalise(one)} " in said if normalise(one) else one.strip() in text for one in _listed(wanted))


def _contains(text: str, wanted: str | list[str]) -> bool:
    said = " ".join(text.casefold().split())
    return all(" ".join(one.casefold().split()) in said for one in _listed(wanted))


def _found(text: str, pattern: str) -> bool:
    try:
        return search_within(pattern, text[:LONGEST_TEXT])
    except PatternTimeout:
        return False  # as the table above says: what cannot be decided has not been found


def _matches(text: str, schema: Any) -> bool:
    found = find_json(text)
    try:
        return found is not None and found.alone and matches(found.value, schema)
    except PatternTimeout:
        return False


CHECKS: Mapping[str, Callable[[str, Any], bool]] = {
    "expected": _names,
    "contains": _contains,
    "regex": _found,
    "number": same_number,
    "json_schema": _matches,
}


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _in_words(kind: str, wanted: Any) -> str:
    """What a report shows as expected."""
    if kind in ("expected", "contains"):
        return (" or " if kind == "expected" else " and ").join(_listed(wanted))
    return f"{kind}: {wanted}"


def _in_full(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row with its short forms written out: `prompt` as a single message, `answer` as `expected`."""
    full = {{"answer": "expected"}.get(key, key): value for key, value in row.items()}
    if "prompt" in full:
        full["messages"] = [{"role": "user", "content": full.pop("prompt")}]
    return full


def _check(row: Mapping[str, Any]) -> None:
    only_keys(row, ("messages", "prompt", "expected", "answer", "check", "id", "meta"), ())
    _one_of(row, "messages", "prompt")
    _one_of(row, "expected", "answer", "check")
    if "prompt" in row:
        text_of(row, "prompt")
    row = _in_full(row)
    _check_messages(row["messages"])
    if "expected" in row:
        return _check_texts(row["expected"], "expected")
    check = row["check"]
    if not isinstance(check, dict) or len(check) != 1:
        raise BadValue("`check` is not an object with one key")
    ((kind, wanted),) = check.items()
    if kind not in CHECKS or kind == "expected":
        raise BadValue(f"`check` has the unknown kind `{kind}`; known: {', '.join(sorted(set(CHECKS) - {'expected'}))}")
    if kind == "contains":
        _check_texts(wanted, "contains")
    elif kind == "regex":
        _check_pattern(wanted)
    elif kind == "number":
        _check_number(wanted)
    elif problems := unsupported(wanted):
        raise BadValue(f"`json_schema`: {'; '.join(problems)}")


def _one_of(row: Mapping[str, Any], *keys: str) -> None:
    found = [f"`{key}`" for key in keys if key in row]
    if not found:
        raise BadValue(f"lacks {' or '.join(f'`{key}`' for key in keys)}")
    if len(found) > 1:
        raise BadValue(f"has both {' and '.join(found)}: keep one")


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise BadValue("`messages` is not a list with at least one message")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or not isinstance(message.get("role"), str):
            raise BadValue(f"message {number} lacks a `role` or a `content` that is a text")
        if extra := sorted(set(message) - {"role", "content", "name"}):
            raise BadValue(f"message {number} has the unknown key `{extra[0]}`; known: role, content, name")
        if message["role"] not in get_args(Role):
            raise BadValue(f"message {number} has the unknown role `{message['role']}`; known: {', '.join(get_args(Role))}")
        if not isinstance(message.get("name", ""), str):
            raise BadValue(f"message {number}: `name` is not a text")
        encodable(message["content"], "content")
    if messages[-1]["role"] not in ("user", "tool"):
        raise BadValue(f"the last message is the {messages[-1]['role']}'s, not the user's: put the right answer under `expected`")
    if not messages[-1]["content"].strip():
        raise BadValue("the last message is empty")


def _check_texts(wanted: Any, key: str) -> None:
    texts = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise BadValue(f"`{key}` is not a text, nor a list of texts")
    for text in texts:
        encodable(text, key)


def _check_pattern(pattern: Any) -> None:
    if not isinstance(pattern, str):
        raise BadValue("`regex` is not a text")
    if problem := pattern_problem(pattern):
        raise BadValue(f"`regex`: {problem}")
    if probably_endless(pattern):
        raise BadValue("`regex` can need longer than anyone will wait (a repeat inside a repeat, such as `(a+)+`)")


def _check_number(number: Any) -> None:
    if isinstance(number, bool) or not isinstance(number, int | float | str):
        raise BadValue("`number` is not a number")
    if isinstance(number, float) and not math.isfinite(number):
        raise BadValue("`number` is not finite")
    if len(read_numbers(str(number))) != 1:
        raise BadValue(f"`number` holds no single number: {str(number)[:40]!r}")
