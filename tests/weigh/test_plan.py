"""The plan: what it would take and what it could show, before anything runs."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from steelyard.augment.retrieve.retrieve import Retrieve
from steelyard.core.errors import SteelyardError
from steelyard.core.run import Run
from steelyard.weigh.asking.arms import ArmOpener
from steelyard.weigh.plan import CALIBRATION, plan
from steelyard.weigh.records import Records
from steelyard.weigh.runner import weigh
from steelyard.weigh.statistics.power import detectable
from tests.weigh.simple_arms import Bench, recipe

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


def test_a_base_that_has_to_be_trained_is_not_trained_for_a_plan(tmp_path):
    steps = [{"pretrain": {"data": "encyclopedia", "steps": 10}}]
    bench = Bench()
    planned = plan(recipe(arms={"a": "skill-80"}, steps=steps), tmp_path, opener=bench)
    assert not bench.opened and planned.minutes is None and "has to be trained first" in text(planned)
    weigh(recipe(arms={"a": "skill-80"}, steps=steps), tmp_path, say=lambda line: None, opener=bench)
    assert "has to be trained first" not in text(plan(recipe(arms={"a": "skill-80"}, steps=steps), tmp_path, opener=bench))


def test_a_plan_prints_and_goes_into_json(tmp_path):
    planned = plan(recipe(arms={"a": "skill-80", "b": "skill-70"}, **SLOW), tmp_path, opener=Bench())
    assert {"a ◆", "arithmetic", "points"} <= set(text(planned).replace("\n", "  ").split("  ")) | {"points"}
    value = json.loads(json.dumps(planned.as_dict()))
    assert {entry["metric"] for entry in value["rows"]} >= {"right", "speed, memory, energy", "A/A and planted defect"}
    assert any("Holm" in note for note in value["notes"])


def test_notes_of_an_earlier_run_that_cannot_be_read_are_only_a_guide(tmp_path):
    for damage in ("", "[]", '{"base": 3}', '{"base": {"arithmetic": {"seconds": "soon"}}}', "\x00"):
        (tmp_path / "speeds.json").write_text(damage)
        assert plan(recipe(arms={}), tmp_path, calibrate=False, opener=Bench()).minutes is None


def test_what_is_not_there_cannot_be_planned_even_where_another_plan_was(tmp_path):
    plan(recipe(arms={"a": "skill-80"}), tmp_path, opener=Bench())
    for other in (recipe(base="nowhere"), recipe(arms={"a": "nowhere"})):
        with pytest.raises(SteelyardError, match="nothing is called"):
            plan(other, tmp_path, opener=Bench())


def test_documents_that_are_not_there_are_told_before_anything_runs(tmp_path):
    opener = ArmOpener(Run(tmp_path))
    arm = recipe(base=str(tmp_path), arms={}).arms["base"]
    opener.find(arm)
    with pytest.raises(SteelyardError, match="arm `base`: there are no documents called `no-such-folder`"):
        opener.find(arm.model_copy(update={"levers": (Retrieve.model_validate({"documents": "no-such-folder"}),)}))


def test_a_plan_takes_nothing_from_the_plan_of_another_base_in_the_same_directory(tmp_path):
    plan(recipe(arms={"a": "skill-80"}), tmp_path, opener=Bench())
    other = plan(recipe(base="skill-60", arms={"a": "skill-80"}), tmp_path, calibrate=False, opener=Bench())
    assert row(other, "base").recorded == 0 and other.minutes is None


def test_only_answers_to_these_very_samples_count_as_recorded(tmp_path):
    plan(recipe(arms={}, problems=20), tmp_path, opener=Bench())
    changed = plan(recipe(arms={}, problems=20, seed=8), tmp_path, opener=Bench())
    assert row(changed, "base").recorded == 0
    more = plan(recipe(arms={}, problems=20, samples=4), tmp_path, opener=Bench())
    assert row(more, "base").recorded == 4


def test_where_even_all_outcomes_turned_over_convince_no_exact_test_no_difference_is_promised(tmp_path):
    for samples, found in ((5, False), (6, True)):
        planned = plan(recipe(arms={"a": "skill-80"}, samples=samples), tmp_path / str(samples), opener=Bench())
        assert (row(planned, "a").detectable is not None) is found


def test_a_base_that_answers_nothing_ends_the_weighing_with_its_reason(tmp_path):
    for entry in (plan, weigh):
        with pytest.raises(SteelyardError, match="none of the first 8 samples; the first failure: nobody is there"):
            entry(recipe(base="absent-0", arms={"a": "skill-80"}), tmp_path, say=lambda line: None, opener=Bench())


def text(planned):
    out = io.StringIO()
    Console(file=out, width=120).print(planned)
    return out.getvalue()
