"""Two runs of different days: compared by sample, refused where they did not ask the same."""

from __future__ import annotations

import json
import shutil

import pytest

from steelyard.core.errors import SteelyardError
from steelyard.weigh.kept.between import between
from steelyard.weigh.kept.likeness import refuse_unlike, shared_tasks
from steelyard.weigh.report.html import page
from steelyard.weigh.report.json import plain
from steelyard.weigh.runner import weigh
from tests.weigh.simple_arms import Bench, recipe

ARMS = {"good": "skill-90", "same": "skill-70"}


def asked(arms=ARMS, **changes):
    return recipe(arms=arms, **{"problems": 40, "axes": ["quality", "format"], **changes})


def weighed(directory, recipe, **options):
    weigh(recipe, directory, opener=Bench(**options), say=lambda line: None, progress=lambda *told: None)
    return directory


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, the same again with one arm made worse and one added, on the same 40 questions."""
    place = tmp_path_factory.mktemp("runs")
    weighed(place / "first", asked())
    weighed(place / "second", asked({**ARMS, "good": "skill-40", "new": "skill-95"}))
    return place


def test_each_arm_is_compared_with_its_namesake_sample_by_sample(runs):
    found = between(runs / "first", runs / "second")
    assert found.pairs == (("base", "base"), ("good", "good"), ("same", "same"))
    cells = {cell.arm: cell for cell in found.cells if cell.metric == "right"}
    assert cells["base"].verdict == "identical" and cells["same"].verdict == "identical"
    assert cells["same"].difference == 0 and cells["same"].low is None and cells["same"].high is None
    good = cells["good"]
    assert good.verdict == "worse" and good.n == 40 and good.primary
    first = json.loads((runs / "first" / "report.json").read_text())
    own = next(cell for cell in first["cells"] if cell["arm"] == "good" and cell["metric"] == "right")
    assert plain(good.base) == own["value"]
    assert {flip.arm for flip in found.flips} == {"good"}
    assert all((flip.base_value, flip.arm_value) == (1, 0) for flip in found.flips if flip.metric == "right")


def test_what_differs_is_said_and_what_only_one_run_has_too(runs):
    found = between(runs / "first", runs / "second")
    assert "arm base: the same model, levers and numerics (equal fingerprints)" in found.differences
    assert any(line.startswith("arm good: base was ") and line.endswith("skill-40") for line in found.differences)
    assert not any(line.startswith(("versions", "machine")) for line in found.differences)
    assert found.notes == ["Only the second run has new; --arm NAME=OTHER compares arms of different names."]


def test_another_day_may_have_another_machine_and_versions(runs, tmp_path):
    shutil.copytree(runs / "second", tmp_path / "later")
    told = json.loads((tmp_path / "later" / "report.json").read_text())
    told["versions"]["torch"], told["machine"]["cores"] = "99.0", 4096
    (tmp_path / "later" / "report.json").write_text(json.dumps(told))
    lines = between(runs / "first", tmp_path / "later").differences
    assert any(line.startswith("versions.torch was ") and line.endswith(" and is 99.0") for line in lines)
    assert any(line.startswith("machine.cores was ") and line.endswith(" and is 4096") for line in lines)


def test_arms_of_different_names_are_compared_when_asked(runs):
    found = between(runs / "first", runs / "second", ["good=new"])
    assert found.pairs == (("good", "new"),)
    html = page(found.report())
    assert "new (second run)" in html and "good (first run)" in html
    with pytest.raises(SteelyardError, match="one pair of arms"):
        between(runs / "first", runs / "second").report()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"problems": 50}, "tasks.arithmetic.problems was 40 and is 50"),
        ({"seed": 8}, "seed was 7 and is 8"),
        ({"trials": 3}, "trials was not set and is 3"),
        ({"tasks": [{"arithmetic": {"problems": 40, "digits": [3, 4]}}]}, "tasks.arithmetic.digits"),
    ],
)
def test_unequal_settings_are_refused_by_name(changes, told):
    first, second = asked(), asked(**changes)
    with pytest.raises(SteelyardError, match="did not ask the same") as refused:
        refuse_unlike(first, second, ["arithmetic"], [("base", "base")])
    assert told in str(refused.value)


def test_what_was_asked_alike_is_named_where_one_task_differs():
    tasks = [{"arithmetic": {"problems": 40}}, {"facts": {"answerable": 5}}]
    first, second = asked(tasks=tasks), asked(tasks=[tasks[0], {"facts": {"answerable": 6}}])
    with pytest.raises(SteelyardError, match=r"facts.answerable was 5 and is 6") as refused:
        refuse_unlike(first, second, ["arithmetic", "facts"], [("base", "base")])
    assert "--task arithmetic" in str(refused.value)
    refuse_unlike(first, second, ["arithmetic"], [("base", "base")])


def test_unequal_training_seeds_are_refused_by_name():
    first, second = asked(), asked()
    arms = {**second.arms, "good": second.arms["good"].model_copy(update={"seeds": (1, 2)})}
    with pytest.raises(SteelyardError, match=r"arms.good.seeds was \[\] and is \[1, 2\]"):
        refuse_unlike(first, second.model_copy(update={"arms": arms}), ["arithmetic"], [("good", "good")])


def test_a_task_that_only_one_run_has_is_named_and_can_be_left_out():
    first, second = asked(), asked(tasks=[{"arithmetic": {"problems": 40}}, "facts"])
    with pytest.raises(SteelyardError, match="only the second run has facts") as refused:
        shared_tasks(first, second, [])
    assert "--task arithmetic" in str(refused.value)
    assert shared_tasks(first, second, ["arithmetic"]) == ["arithmetic"]


def test_a_tasks_questions_in_other_words_and_its_right_answers_are_compared_with_it(tmp_path):
    given = asked(axes=["quality", "robustness"], problems=20)
    for side in ("first", "second"):
        weighed(tmp_path / side, given)
    found = between(tmp_path / "first", tmp_path / "second", tasks=["arithmetic"])
    assert {cell.task for cell in found.cells} == {"arithmetic", "arithmetic, perturbed", "arithmetic, right answers"}
    (primary,) = [cell for cell in found.cells if cell.primary and cell.arm == "good"]
    assert (primary.task, primary.metric) == ("arithmetic", "right")


def test_costs_of_tasks_that_are_not_compared_are_left_out(runs, tmp_path):
    for side in ("first", "second"):
        shutil.copytree(runs / side, tmp_path / side)
        path = tmp_path / side / "report.json"
        report = json.loads(path.read_text())
        written = report["cells"][0] | {"axis": "money", "metric": "tokens_written", "unit": "tokens/answer"}
        report["cells"] += [written | {"task": task} for task in ("arithmetic", "elsewhere")]
        path.write_text(json.dumps(report))
    found = between(tmp_path / "first", tmp_path / "second")
    assert {cell.task for cell in found.cells if cell.metric == "tokens_written"} == {"arithmetic"}


def test_fewer_samples_in_one_run_are_paired_and_the_rest_is_counted(runs, tmp_path):
    weighed(tmp_path / "short", asked().model_copy(update={"samples": 25}))
    found = between(runs / "first", tmp_path / "short")
    assert {cell.n for cell in found.cells if cell.metric == "right"} == {25}
    assert "good on arithmetic: 25 samples are in both runs, 15 in one of them only." in found.notes


@pytest.mark.parametrize("gone", ["report.json", "records.sqlite", "recipe.resolved.yaml"])
def test_a_directory_that_lacks_a_part_is_refused_with_its_name(runs, tmp_path, gone):
    shutil.copytree(runs / "second", tmp_path / "cut")
    (tmp_path / "cut" / gone).unlink()
    with pytest.raises(SteelyardError) as refused:
        between(runs / "first", tmp_path / "cut")
    assert str(tmp_path / "cut") in str(refused.value)


def test_a_run_of_an_earlier_version_is_read_by_the_fingerprints_in_its_report(runs, tmp_path):
    shutil.copytree(runs / "second", tmp_path / "earlier")
    (tmp_path / "earlier" / "arms.json").unlink()
    assert between(runs / "first", tmp_path / "earlier").cells == between(runs / "first", runs / "second").cells


def test_names_that_are_not_there_are_refused_with_those_that_are(runs):
    with pytest.raises(SteelyardError, match="the second run has no arm `best`") as refused:
        between(runs / "first", runs / "second", ["good=best"])
    assert "base, good, same, new" in str(refused.value)
    with pytest.raises(SteelyardError, match="not both runs have the task `poems`"):
        between(runs / "first", runs / "second", tasks=["poems"])
    with pytest.raises(SteelyardError, match="named twice"):
        between(runs / "first", runs / "second", ["good", "same=good"])
