"""A weighing's directory belongs to one process and one recipe."""

from __future__ import annotations

import subprocess
import sys

import pytest

from steelyard.core.errors import SteelyardError
from steelyard.weigh.directory import RECIPE, differences, held
from steelyard.weigh.plan import plan
from steelyard.weigh.runner import weigh
from tests.weigh.simple_arms import Bench, recipe


def run(directory, one):
    return weigh(one, directory, say=lambda line: None, opener=Bench())


def test_a_second_process_in_the_same_directory_is_refused_and_told_why(tmp_path):
    code = f"""
import sys, pathlib
from steelyard.weigh.directory import held
with held(pathlib.Path({str(tmp_path)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        for start in (run, lambda directory, one: plan(one, directory, opener=Bench())):
            with pytest.raises(SteelyardError, match="another process is weighing here"):
                start(tmp_path, recipe(arms={}, problems=8))
        other.kill()
        other.wait()
    assert run(tmp_path, recipe(arms={}, problems=8)).cells  # the lock died with its process


def test_two_weighings_in_one_process_do_not_share_a_directory_either(tmp_path):
    with held(tmp_path), pytest.raises(SteelyardError, match="another process"):
        run(tmp_path, recipe(arms={}, problems=8))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 8}, "seed was 7 and is 8"),
        ({"base": "skill-71"}, "base was .*skill-70.* and is .*skill-71"),
        ({"arms": {"good": "skill-91"}}, "arms.good.base was .*skill-90.* and is .*skill-91"),
        ({"arms": {}}, "arms.good is gone"),
        ({"problems": 30}, "tasks.arithmetic.problems was 20 and is 30"),
        ({"axes": ["quality"]}, "axes.format is gone"),
        ({"primary": {"good": ["arithmetic", "format"]}}, "primary.good is new"),
        ({"samples": 10}, "samples was all and is 10"),
    ],
)
def test_another_recipe_in_the_same_directory_is_refused_with_what_differs(tmp_path, changes, told):
    plain = {"arms": {"good": "skill-90"}, "problems": 20}
    run(tmp_path, recipe(**plain))
    report = (tmp_path / "report.json").read_bytes()
    with pytest.raises(SteelyardError, match=told):
        run(tmp_path, recipe(**(plain | changes)))
    assert (tmp_path / "report.json").read_bytes() == report


@pytest.mark.parametrize(
    "more",
    [
        {"arms": {"good": "skill-90", "better": "skill-95"}},
        {"arms": {"good": "skill-90", "better": "skill-95"}, "primary": {"better": ["arithmetic", "format"]}},
        {"axes": "all"},
        {"trials": 3},
        {},
    ],
)
def test_asking_for_more_goes_on_in_the_same_directory(more):
    plain = {"arms": {"good": "skill-90"}, "samples": 20}
    before = recipe(**plain).resolved()
    now = recipe(**(plain | more)).resolved()
    assert differences(before, now) == []
    assert bool(differences(now, before)) == bool(more)


def test_the_name_alone_is_no_difference_and_more_samples_are_none():
    fewer, most = recipe(samples=10).resolved(), recipe().resolved()
    assert differences(fewer, most | {"name": "other"}) == []
    assert differences(most, fewer) == ["samples was all and is 10"]


def test_a_new_first_task_would_exchange_the_primary_hypothesis():
    one = recipe(tasks=[{"arithmetic": {}}]).resolved()
    two = one | {"tasks": [{"facts": {}}, *one["tasks"]]}
    assert differences(one, two) == ["the first task was arithmetic and is facts"]
    assert differences(one, one | {"tasks": [*one["tasks"], {"facts": {}}]}) == []


def test_what_was_recorded_may_be_taken_over_by_deleting_the_recipe(tmp_path):
    run(tmp_path, recipe(arms={"good": "skill-90"}, problems=20))
    (tmp_path / RECIPE).unlink()
    bench = Bench()
    weigh(recipe(arms={"good": "skill-90"}, problems=20, axes=["quality"]), tmp_path, say=lambda line: None, opener=bench)
    assert not any(answerer.asked for name, answerer in bench.opened if name == "good")


def test_a_directory_that_only_holds_a_recipe_may_be_used_for_another(tmp_path):
    (tmp_path / RECIPE).write_text(recipe(seed=1).text())
    assert run(tmp_path, recipe(arms={}, problems=8)).cells


def test_a_damaged_recipe_beside_results_is_named(tmp_path):
    run(tmp_path, recipe(arms={}, problems=8))
    (tmp_path / RECIPE).write_text("[1")
    with pytest.raises(SteelyardError, match=RECIPE):
        run(tmp_path, recipe(arms={}, problems=8))
