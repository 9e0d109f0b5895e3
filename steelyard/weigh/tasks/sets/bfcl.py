"""BFCL: questions with functions that a model may call (S. Patil et al., The Berkeley Function Calling Leaderboard, ICML 2025; Apache-2.0,
the data of the package `bfcl-eval`).

Rows: `{"id", "question": [[messages]], "function": [{"name", "description", "parameters"}]}`, and in `possible_answer` the calls that are
right. The model is told of the functions by its own chat template, or in words where that has no place for them; an endpoint by `tools`.
Its calls are read in the forms that its template teaches (`steelyard/model/tools`), and judged as the leaderboard judges them
(`scorers/tool_calls.py`). Names of functions have `_` for `.`, as the leaderboard has it for models that allow no dots: one text for all.

`right` is about questions that want calls, `declined` about those that no function answers: a model that never calls has all of the
second and none of the first. `function` asks for the names alone, and is off the floor before arguments are right.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field

from steelyard.core.errors import UnsupportedError
from steelyard.core.protocols import AnswerSettings, Message
from steelyard.weigh.scorers import tool_calls
from steelyard.weigh.scorers.tool_calls import KINDS
from steelyard.weigh.tasks.chat import FINISHED, RIGHT
from steelyard.weigh.tasks.rows import BadValue, Row, in_turns, take
from steelyard.weigh.tasks.sets.asked import text_at
from steelyard.weigh.tasks.tables import read_table
from steelyard.weigh.tasks.task import Ask, Metric, Output, Sample, Task, Value

Category = Literal[
    "simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance", "live_simple", "live_multiple", "live_parallel",
    "live_parallel_multiple", "live_relevance", "live_irrelevance",
]  # fmt: skip
USUAL: tuple[Category, ...] = ("simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance")
PACKAGE = "bfcl_eval"
FILE = "BFCL_v4_{}.json"
FUNCTION = Metric("function", "quality", "share", True, margin=0.03, floor=0.0, binary=True)
DECLINED = Metric("declined", "truthfulness", "share", True, margin=0.03, binary=True)
CALLED = Metric("called", "format", "share", True, margin=0.03, binary=True)
JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}


class Bfcl(Task):
    """Questions that are answered by calling functions."""

    name: ClassVar[str] = "bfcl"
    summary: ClassVar[str] = "BFCL: functions to call, judged by names and arguments; questions that want none."
    metrics: ClassVar[tuple[Metric, ...]] = (RIGHT, FUNCTION, DECLINED, CALLED, FINISHED)
    perturbable: ClassVar[bool] = False  # the right arguments are words of the question

    path: Path | None = Field(None, description=f"folder with {FILE.format('*')}; by default that of the installed package `bfcl-eval`")
    categories: tuple[Category, ...] = Field(USUAL, min_length=1, description=f"parts of the set, of {', '.join(get_args(Category))}")
    limit: int | None = Field(None, ge=1, description="most questions of each category, count; drawn by the seed")
    max_tokens: int = Field(256, ge=1, le=32_768, description="longest answer, tokens")

    def samples(self, seed: int) -> list[Sample]:
        folder = self.path or installed()
        return in_turns(*(self._of(folder, category, seed) for category in dict.fromkeys(self.categories)))

    def _of(self, folder: Path, category: Category, seed: int) -> list[Sample]:
        name, answers = FILE.format(category), {}
        if not category.endswith("relevance"):  # `irrelevance` too
            path = folder / "possible_answer" / name
            answers = {row.value["id"]: row.value["ground_truth"] for row in read_table(path, _is_answer, form="jsonl")}

        def sample(row: Row) -> Sample:
            return self._sample(row, category, answers)

        rows = read_table(folder / name, lambda value: sample(Row(0, value, "")) and None, form="jsonl")
        return [sample(row) for row in take(rows, self.limit, seed, f"{self.name}-{category}")]

    def _sample(self, row: Row, category: Category, answers: Mapping[str, Any]) -> Sample:
        number, functions, wanted = text_at(row.value, "id"), _functions(row.value.get("function")), None
        if not functions and not category.endswith("irrelevance"):  # some live questions offer none
            raise BadValue("`function` is empty")
        if answers:
            if number not in answers:
                raise BadValue(f"`{number}` has no answer in the folder `possible_answer`")
            wanted = [_wanted(one, functions) for one in answers[number]]
        tools = tuple(json.dumps(_tool(name, *about), ensure_ascii=False) for name, about in functions.items())
        kind = "declined" if category.endswith("irrelevance") else "called" if wanted is None else "calls"
        return Sample(
            f"{category}-{row.id}",
            Ask(_turns(row.value.get("question")), AnswerSettings(max_tokens=self.max_tokens, tools=tools)),
            reference={
                "expected": _told(wanted) if wanted else "no call" if kind == "declined" else "a call",
                "kind": kind,
                "wanted": wanted,
                "functions": {name: parameters for name, (_, parameters) in functions.items()},
            },
            tags={"category": category, "row": number},
        )

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        scores: dict[str, Value] = dict.fromkeys(metric.name for metric in self.metrics)
        if output.failure is not None:
            return scores
        kind, wanted, functions = (sample.reference[key] for key in ("kind", "wanted", "functions"))
        called = float(bool(output.calls))
        scores["finished"] = float(output.reason in ("stop", "tool_calls")) if output.reason else None
        if kind == "declined":
            return scores | {"declined": 1.0 - called}
        if kind == "called":
            return scores | {"right": called, "called": called}
        names = Counter(call.name for call in output.calls) == Counter(name for name, _ in wanted)
        found = tool_calls.right(functions, tool_calls.read(output.calls), wanted)
        return scores | {"right": float(found), "function": float(names), "called": called}


def installed() -> Path:
    """The data of the installed package, which is not imported: it wants old versions of much else.

    Raises:
        UnsupportedError: it is not installed.
    """
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise UnsupportedError(
            "BFCL's data is in the package bfcl-eval, which is not installed",
            where="task `bfcl`",
            do="pip install --no-deps bfcl-eval, or give its folder `bfcl_eval/data` as `path`.",
        )
    return Path(found.origin).parent / "data"


def _is_answer(value: Mapping[str, Any]) -> None:
    text_at(value, "id")
    calls = value.get("ground_truth")
    if not isinstance(calls, list) or not calls or not all(_is_call(call) for call in calls):
        raise BadValue('`ground_truth` is not a list of {"name": {"argument": [value, ...]}}')


def _is_call(call: Any) -> bool:
    return isinstance(call, dict) and len(call) == 1 and all(
        isinstance(values, dict) and all(isinstance(one, list) for one in values.values()) for values in call.values()
    )  # fmt: skip


def _wanted(call: Mapping[str, Any], functions: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    ((name, allowed),) = call.items()
    if (name := _undotted(name)) not in functions:
        raise BadValue(f"its answer calls `{name}`, which is not offered")
    return name, allowed


def _told(wanted: list[tuple[str, Mapping[str, Any]]]) -> str:
    """The wanted calls for a reader: each argument with its first right value."""
    return "; ".join(
        f"{name}({', '.join(f'{key}={values[0]!r}' for key, values in allowed.items() if values)})" for name, allowed in wanted
    )


def _turns(question: Any) -> tuple[Message, ...]:
    turns = question[0] if isinstance(question, list) and len(question) == 1 else None
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise BadValue("`question` is not a list that holds one list of messages")
    if unknown := {str(turn.get("role")) for turn in turns} - {"system", "user", "assistant"}:
        raise BadValue(f"`question` has messages of {', '.join(sorted(unknown))}")
    return tuple(Message(turn["role"], text_at(turn, "content")) for turn in turns)


def _functions(value: Any) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Name -> (description, parameters as declared)."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise BadValue("`function` is not a list of objects")
    out = {}
    for one in value:
        parameters = one.get("parameters")
        if not isinstance(parameters, dict) or not isinstance(parameters.get("properties"), dict):
            raise BadValue("a function's `parameters` have no `properties`")
        _json_schema(parameters)
        out[_undotted(text_at(one, "name"))] = (str(one.get("description", "")), parameters)
    if len(out) < len(value):
        raise BadValue("two functions have one name")
    return out


def _tool(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A function in OpenAI's form."""
    return {"type": "function", "function": {"name": name, "description": description, "parameters": _json_schema(parameters)}}


def _json_schema(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with JSON schema's words for types."""
    out = dict(declared)
    if "type" in declared:
        if declared["type"] not in KINDS:
            raise BadValue(f"the type `{declared['type']}` is none of {', '.join(KINDS)}")
        out["type"] = JSON_TYPES[KINDS[declared["type"]]]
    if isinstance(declared.get("properties"), dict):
        out["properties"] = {key: _json_schema(value) for key, value in declared["properties"].items()}
    if isinstance(declared.get("items"), dict):
        out["items"] = _json_schema(declared["items"])
    return out


def _undotted(name: str) -> str:
    """A name as OpenAI's API allows it."""
    return name.replace(".", "_")
