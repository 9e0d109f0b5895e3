"""Budgets of samples and seconds, and reports written from records alone: what is there is compared, and asking goes on from there."""

from __future__ import annotations

import re

import pytest

from steelyard.core import recipe as recipes
from steelyard.core.errors import SteelyardError
from steelyard.weigh.asking.budget import Budget
from steelyard.weigh.cells import costs
from steelyard.weigh.cells.costs import Measured
from steelyard.weigh.records import Records
from steelyard.weigh.report.json import quality_part
from steelyard.weigh.runner import rescore, weigh
from tests.weigh.simple_arms import Bench, recipe

ARMS = {"better": "skill-90", "twin": "skill-70"}


class Clock:
    """Tells the time that a test says it is."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Unhurried(Bench):
    """Arms of which every answer takes a second of a clock."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def open(self, arm, seed=None, **options):
        opened = super().open(arm, seed, **options)
        answer = opened.answerer.answer

        async def slowly(conversation, settings):
            self.clock.now += 1
            async for event in answer(conversation, settings):
                yield event

        opened.answerer.answer = slowly
        return opened


def quiet(given, directory, opener, **options):
    return weigh(given, directory, say=lambda line: None, progress=lambda *told: None, opener=opener, **options)


def test_a_part_gets_its_share_of_the_time_and_leaves_the_rest_to_the_others():
    clock = Clock()
    budget = Budget(90.0, clock)
    with budget.share(3):
        with budget.share(2):
            clock.now += 14
            assert not budget.over()
            clock.now += 1
            assert budget.over()
        assert not budget.over(), "the first task's time is over, the arm's is not"
        clock.now += 5
    with budget.share(2):  # 70 seconds are left for two
        clock.now += 34
        assert not budget.over()
        clock.now += 1
        assert budget.over()


def test_loading_a_model_takes_nothing_from_the_time_for_asking():
    clock = Clock()
    budget = Budget(10.0, clock)
    with budget.paused():
        clock.now += 1000
    clock.now += 9
    assert not budget.over()
    clock.now += 1
    assert budget.over()


def test_without_a_budget_it_is_never_over_and_a_budget_of_nothing_always_is():
    clock = Clock()
    with Budget(None, clock).share(2):
        assert not Budget(None, clock).over()
    assert Budget(0.0, clock).over()


def test_when_the_seconds_are_over_both_sides_are_compared_on_what_both_answered_and_the_next_run_goes_on(tmp_path):
    given, clock = recipe(arms={"better": "skill-90"}, problems=30), Clock()
    whole = quiet(given, tmp_path / "whole", Bench())
    few = quiet(given, tmp_path / "few", Unhurried(clock), budget=Budget(60.0, clock))
    (note,) = [note for note in few.notes if note.startswith("Asking stopped early")]
    assert "asking was allowed to take 60 s" in note
    asked = {arm: int(count) for arm, count in re.findall(r"(\w+): arithmetic (\d+) of", note)}
    assert 8 < asked["base"] < 30
    cells = {cell.arm: cell for cell in few.cells if cell.metric == "right"}
    assert all(8 < cell.n == asked.get(arm, asked["base"]) and cell.value is not None for arm, cell in cells.items()), note
    assert clock.now < 100 + 60 + 40, "answers under way are waited for, and nothing more is asked"
    assert quality_part(quiet(given, tmp_path / "few", Bench())) == quality_part(whole)
    with Records(tmp_path / "few" / "records.sqlite") as few_records, Records(tmp_path / "whole" / "records.sqlite") as all_records:
        assert [address for address, _ in few_records] == [address for address, _ in all_records]


def test_where_nothing_could_be_asked_that_is_why_no_defect_was_planted(tmp_path):
    given = recipe(arms=ARMS, tasks=[{"json_forms": {"forms": 10}}])
    quiet(given, tmp_path, Bench())
    (tmp_path / "records.sqlite").unlink()  # what the plan asks is kept as well
    report = quiet(given, tmp_path, Bench(), budget=Budget(1e-9))
    (note,) = [note for note in report.notes if "No planted defect" in note]
    assert "json_forms: not asked: the time or money for asking had ended" in note and "floor" not in note


def test_more_or_fewer_seconds_are_no_other_recipe_and_zero_are_none(tmp_path):
    quiet(recipe(arms=ARMS, problems=20, seconds=100), tmp_path, Bench())
    report = quiet(recipe(arms=ARMS, problems=20, seconds=50.5), tmp_path, Bench())
    assert report.recipe["seconds"] == 50.5 and not any("stopped early" in note for note in report.notes)
    for wrong in (0, -1, True, "soon"):
        with pytest.raises(SteelyardError, match="seconds"):
            recipes.from_mapping({"base": "a", "seconds": wrong})


def test_a_report_is_written_anew_from_records_without_opening_a_model(tmp_path):
    bench = Bench()
    first = quiet(recipe(arms=ARMS | {"quiet": "silent-70"}, problems=20), tmp_path, bench)
    anew = rescore(tmp_path, say=lambda line: None)
    assert (anew.started, anew.seconds) == (first.started, first.seconds)  # of the asking, not of the scoring
    (tmp_path / "report.json").unlink()
    again = rescore(tmp_path, say=lambda line: None)
    assert quality_part(again) == quality_part(first) and (again.started, again.seconds) == ("", None)
    assert (tmp_path / "report.json").exists() and not any("Only what was recorded" in note for note in again.notes)


def test_what_was_timed_is_told_again_and_what_was_not_says_so(tmp_path):
    block = {"answers": [{"tokens": 3, "first_token": 0.1}], "reading": {"energy_source": "modelled", "money_low": None}}
    sides = (Measured((block, block), 1000, 0.5), Measured(failure="it would not start"))
    costs.keep(tmp_path, {("base", "int8"): sides})
    found = costs.read(tmp_path, ["base", "int8", "later"])
    assert found["base", "int8"] == sides
    assert {side.failure for side in found["base", "later"]} == {"not measured in this run"}
    (tmp_path / "measured.json").write_text('[[["base", "int8"], [{"blocks": 3}, {}]]]')
    with pytest.raises(SteelyardError, match="does not say what was measured"):
        costs.read(tmp_path, ["base", "int8"])


def test_a_report_from_records_names_the_samples_that_have_none_and_asks_nothing(tmp_path):
    quiet(recipe(arms=ARMS, problems=20), tmp_path, Bench())
    with Records(tmp_path / "records.sqlite") as records:
        before = len(records)
    text = (tmp_path / "recipe.resolved.yaml").read_text()
    (tmp_path / "recipe.resolved.yaml").write_text(text.replace("problems: 20", "problems: 30"))
    report = rescore(tmp_path, say=lambda line: None)
    (note,) = [note for note in report.notes if note.startswith("Only what was recorded")]
    assert "base: arithmetic 20 of 30" in note
    assert all(cell.n == 20 for cell in report.cells if cell.axis == "quality")
    with Records(tmp_path / "records.sqlite") as records:
        assert len(records) == before


def test_a_directory_without_a_run_or_without_its_arms_cannot_be_rescored(tmp_path):
    with pytest.raises(SteelyardError, match=r"no recipe.resolved.yaml"):
        rescore(tmp_path)
    quiet(recipe(arms=ARMS, problems=8), tmp_path, Bench())
    for damage in ("{", '{"base": 3}', '{"base": {"": {}}}'):
        (tmp_path / "arms.json").write_text(damage)
        with pytest.raises(SteelyardError, match="does not say who answered"):
            rescore(tmp_path)
    (tmp_path / "arms.json").unlink()
    with pytest.raises(SteelyardError, match="nothing is asked twice"):
        rescore(tmp_path)
