"""The plan: what it would take and what it could show, before anything runs."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from simple_arms import Bench, recipe

from steelyard.weigh.plan import CALIBRATION, plan
from steelyard.weigh.power import detectable
from steelyard.weigh.records import Records
from steelyard.weigh.runner import weigh

SLOW = {"axes": "all"}


def row(planned, arm, task="arithmetic"):
    return next(row for row in planned.rows if row.arm == arm and row.task == task)


def test_a_plan_tells_samples_minutes_and_the_detectable_difference(tmp_path):
    planned = plan(recipe(arms={"a": "skill-80", "b": "skill-90"}, problems=80), tmp_path, opener=Bench())
    mine = row(planned, "a")
    assert (mine.samples, mine.metric, mine.unit, mine.primary) == (80, "right", "share", True)
    assert mine.detectable == pytest.approx(detectable(0.2**0.5, 80, 0.05 / 2)) and mine.minutes > 0
    assert row(planned, "base").detectable is None
    assert planned.minutes > 0 and mine.basis == "the base's speed"


def test_planning_asks_the_base_a_few_samples_and_nobody_else(tmp_path):
    bench = Bench()
    plan(recipe(arms={"a": "skill-80"}), tmp_path, opener=bench)
    assert [(name, len(answerer.asked)) for name, answerer in bench.opened] == [("base", CALIBRATION)]
    with Records(tmp_path / "records.sqlite") as records:
        assert len(records) == CALIBRATION


def test_answers_of_the_plan_are_not_asked_again_by_the_weighing(tmp_path):
    plan(recipe(arms={}, problems=20), tmp_path, opener=Bench())
    bench = Bench()
    weigh(recipe(arms={}, problems=20, axes=["quality"]), tmp_path, say=lambda line: None, opener=bench)
    assert len(bench.opened[0][1].asked) == 20 - CALIBRATION


def test_after_a_run_the_plan_knows_what_is_recorded_and_opens_nothing(tmp_path):
    one = recipe(arms={"a": "skill-80"})
    weigh(one, tmp_path, say=lambda line: None, opener=Bench())
    bench = Bench()
    planned = plan(one, tmp_path, opener=bench)
    assert not bench.opened
    assert row(planned, "a").recorded == 60 and row(planned, "a").minutes == 0 and row(planned, "a").basis == "earlier run"


def test_where_no_difference_could_show_the_plan_says_so_instead_of_a_number(tmp_path):
    planned = plan(recipe(arms={"a": "skill-80"}, samples=2), tmp_path, opener=Bench())
    assert row(planned, "a").detectable is None and "too few samples" in text(planned)


def test_without_timing_the_minutes_are_unknown_and_said_to_be(tmp_path):
    planned = plan(recipe(arms={"a": "skill-80"}), tmp_path, calibrate=False, opener=Bench())
    assert planned.minutes is None and row(planned, "a").minutes is None
    assert "not known yet" in text(planned)


def test_a_plan_prints_and_goes_into_json(tmp_path):
    planned = plan(recipe(arms={"a": "skill-80", "b": "skill-70"}, **SLOW), tmp_path, opener=Bench())
    assert {"a ◆", "arithmetic", "points"} <= set(text(planned).replace("\n", "  ").split("  ")) | {"points"}
    value = json.loads(json.dumps(planned.as_dict()))
    assert {entry["metric"] for entry in value["rows"]} >= {"right", "speed, memory, energy", "A/A and planted defect"}
    assert any("Holm" in note for note in value["notes"])


def test_notes_of_an_earlier_run_that_cannot_be_read_are_only_a_guide(tmp_path):
    for damage in ("", "[]", '{"base": 3}', '{"base": {"arithmetic": {"seconds": "soon"}}}', "\x00"):
        (tmp_path / "speeds.json").write_text(damage)
        assert plan(recipe(arms={}), tmp_path, calibrate=False).minutes is None


def text(planned):
    out = io.StringIO()
    Console(file=out, width=120).print(planned)
    return out.getvalue()
