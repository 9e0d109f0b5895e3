"""Calls are right where bfcl-eval's own checker says so: on made-up calls of every kind (bfcl_verdicts.json)."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from made_up_calls import KINDS, made_up

from steelyard.core.protocols import ToolCall
from steelyard.weigh.scorers.tool_calls import read, right

KEPT = json.loads(Path(__file__).with_name("bfcl_verdicts.json").read_text(encoding="utf-8"))


def test_calls_are_right_where_the_leaderboards_checker_says_so() -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for case, theirs in zip(made_up(KEPT["count"], KEPT["seed"]), KEPT["right"], strict=True):
        functions = {one["name"]: one["parameters"] for one in case["function"]}
        wanted = [next(iter(one.items())) for one in case["answer"]]
        calls = read([ToolCall("", name, arguments) for name, arguments in case["calls"]])
        assert right(functions, calls, wanted) == (theirs == "x"), case
        seen[case["category"], theirs] += 1
    assert all(seen[kind, said] > 50 for kind in KINDS for said in "x.")
