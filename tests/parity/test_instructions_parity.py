"""Checkers of instructions say what lm-eval's say: on made-up answers of every kind, strict and loose (lm_eval_instructions.json)."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from made_up_answers import made_up

from steelyard.weigh.scorers.instructions import CHECKERS, loose, read_arguments, strict

KEPT = json.loads(Path(__file__).with_name("lm_eval_instructions.json").read_text(encoding="utf-8"))


def test_every_checker_says_what_lm_evals_says() -> None:
    for package in ("langdetect", "punkt"):
        pytest.importorskip(package, reason="the extra `ifeval` is not installed")
    cases, theirs = made_up(KEPT["count"], KEPT["seed"]), KEPT["strict_and_loose"].split()
    seen: Counter[tuple[str, bool]] = Counter()
    for case, kept in zip(cases, theirs, strict=True):
        arguments = read_arguments(case["kind"], case["args"])
        both = [check(case["kind"], arguments, case["answer"]) for check in (strict, loose)]
        assert both == [letter == "x" for letter in kept], case
        seen[case["kind"], both[1]] += 1
    assert {kind for kind, _ in seen} == set(CHECKERS) and len(CHECKERS) == 25
    assert all(seen[kind, said] for kind in CHECKERS for said in (True, False))
