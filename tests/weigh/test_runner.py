"""Weighing from recipe to report: verdicts, floors, failures, kills and resumption."""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import os
import signal
import time

import pytest

from steelyard.core import recipe as recipes
from steelyard.core.errors import RecipeError, SteelyardError
from steelyard.weigh.records import Records
from steelyard.weigh.report.heading import took
from steelyard.weigh.report.json import quality_part
from steelyard.weigh.runner import weigh
from steelyard.weigh.tasks.arithmetic import Arithmetic
from tests.weigh.simple_arms import Bench, luck, recipe


def run(tmp_path, one, bench=None, **options):
    lines = []
    report = weigh(one, tmp_path / "run", say=lines.append, opener=bench or Bench(), **options)
    return report, lines


def test_better_worse_identical_and_underpowered_come_out_as_they_are(tmp_path):
    arms = {"good": "skill-100", "bad": "skill-10", "same": "skill-70", "close": "skill-72"}
    report, lines = run(tmp_path, recipe(arms=arms, problems=120))
    verdicts = {arm: report.cell(arm, "right").verdict for arm in arms}
    assert verdicts == {"good": "better", "bad": "worse", "same": "identical", "close": "underpowered"}
    assert all(report.cell(arm, "right").primary for arm in arms)
    assert not report.cell("good", "number_given").primary
    close = report.cell("close", "right")
    assert close.samples_to_settle > 0 and close.low < 0 < close.high
    assert close.difference == pytest.approx(close.value - close.base)


def test_the_directory_holds_everything_and_the_report_is_what_was_returned(tmp_path):
    report, lines = run(tmp_path, recipe(arms={"good": "skill-90"}))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {
        "recipe.resolved.yaml",
        "records.sqlite",
        "report.json",
        "report.html",
        "metrics.jsonl",
        "log.txt",
        "speeds.json",
        "details",
    }
    written = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [cell["arm"] for cell in written["cells"]] == [cell.arm for cell in report.cells]
    assert list(report.arms) == ["base", "good"]
    assert any("Before anything runs" in line for line in lines)


def test_greedy_a_a_is_identical_and_the_planted_defect_is_worse(tmp_path):
    report, _ = run(tmp_path, recipe(arms={"good": "skill-90"}))
    greedy = [cell for cell in report.checks["a_a"] if cell.arm == "A/A greedy" and cell.verdict != "not measurable"]
    assert greedy and {cell.verdict for cell in greedy} == {"identical"}
    (defect,) = [cell for cell in report.checks["planted_defect"] if cell.primary]
    assert defect.verdict == "worse" and not any("trustworthy" in note for note in report.notes)


def test_the_greedy_a_a_really_asks_again(tmp_path):
    report, _ = run(tmp_path, recipe(arms={"good": "skill-90"}), bench=Bench(restless=True))
    greedy = [cell for cell in report.checks["a_a"] if cell.arm == "A/A greedy" and cell.verdict != "not measurable"]
    assert "identical" not in {cell.verdict for cell in greedy}
    assert any("did not repeat itself" in note for note in report.notes)


def test_a_defect_that_is_missed_is_said_in_the_report(tmp_path):
    class Blind(Bench):
        def open(self, arm, seed=None, **options):
            return super().open(arm.model_copy(update={"levers": ()}), seed, **options)

    report, _ = run(tmp_path, recipe(arms={"good": "skill-90"}), bench=Blind())
    assert any("not trustworthy" in note for note in report.notes)


def test_a_defect_among_the_recipes_arms_serves_as_the_check_and_is_no_hypothesis(tmp_path):
    one = recipe(arms={"good": "skill-90"}, problems=80)
    broken = recipe(arms={}, problems=80)
    both = one.model_copy(
        update={"arms": one.arms | {"broken": broken.arms["base"].model_copy(update={"name": "broken", "levers": defect()})}}
    )
    report, _ = run(tmp_path, both)
    assert {cell.arm for cell in report.checks["planted_defect"]} == {"broken"}
    assert report.cell("broken", "right").verdict == "worse" and not report.cell("broken", "right").primary


def defect():
    from steelyard.weigh.planted_defect import PlantedDefect

    return (PlantedDefect(),)


def test_where_the_base_is_at_floor_the_arms_are_not_asked(tmp_path):
    bench = Bench()
    one = recipe(base="skill-0", arms={}, problems=80)
    arm = one.arms["base"].model_copy(update={"name": "again", "levers": defect()})
    changed = one.model_copy(update={"arms": one.arms | {"again": arm}})
    # `number_given` is never at floor here, so only a task whose every metric is can be skipped: this one is not.
    report, _ = run(tmp_path, changed, bench)
    assert report.cell("again", "right").verdict == "floor"
    silent = Bench()
    absent = one.model_copy(update={"tasks": one.tasks})
    monkey_metrics(absent)
    report, lines = run(tmp_path / "second", absent_arms(absent, arm), silent)
    cell = report.cell("again", "right")
    assert cell.verdict == "floor" and cell.value is None and cell.n == 50 and "not asked" in cell.note
    assert not any(name == "again" and answerer.asked for name, answerer in silent.opened)


def monkey_metrics(one):
    """Leaves only the metric that is at floor."""
    one.__dict__["tasks"] = tuple(OnlyRight(name=spec.name, settings=spec.settings) for spec in one.tasks)


def absent_arms(one, arm):
    return one.model_copy(update={"arms": one.arms | {"again": arm}})


def _only_right():
    from steelyard.core.recipe_parts import TaskSpec
    from steelyard.weigh.tasks.arithmetic import Arithmetic

    class Right(Arithmetic):
        metrics = (Arithmetic.metrics[0],)

        def score(self, sample, output):
            return {"right": super().score(sample, output)["right"]}

    class Spec(TaskSpec):
        def build(self):
            return Right(**self.settings)

    return Spec


OnlyRight = _only_right()


def test_another_model_is_asked_even_where_the_base_is_at_floor(tmp_path):
    one = recipe(base="skill-0", arms={"good": "skill-90"}, problems=80)
    monkey_metrics(one)
    report, _ = run(tmp_path, one)
    assert report.cell("good", "right").verdict == "better"


def test_failed_samples_are_told_and_sink_nothing(tmp_path):
    report, _ = run(tmp_path, recipe(base="skill-80", arms={"shaky": "fails-20", "gone": "absent-0"}, problems=100))
    shaky, gone = report.cell("shaky", "right"), report.cell("gone", "right")
    assert 60 < shaky.n < 100 and "samples failed" in shaky.note and "abacus" in shaky.note
    assert gone.verdict == "not measurable" and "nobody is there" in gone.note and gone.base is not None


@pytest.mark.parametrize(("source", "reason"), [("broken-0", "the weights are not numbers"), ("broken-crash", "the lever came off")])
def test_an_arm_that_cannot_be_opened_is_told_and_the_others_are_weighed(tmp_path, source, reason):
    report, lines = run(tmp_path, recipe(arms={"lame": source, "good": "skill-100"}, problems=80))
    assert report.cell("good", "right").verdict == "better"
    lame = report.cell("lame", "right")
    assert lame.verdict == "not measurable" and reason in lame.note and lame.base == report.cell("good", "right").base
    assert report.cell("lame", "agreement").verdict == "not measurable"
    assert reason in report.arms["lame"].note and any("lame" in note and reason in note for note in report.notes)
    assert any(line.startswith("lame: could not be weighed") for line in lines)
    again, _ = run(tmp_path, recipe(arms={"lame": source, "good": "skill-100"}, problems=80))
    assert quality_part(again) == quality_part(report)


def test_a_misspelled_model_is_told_before_anything_is_asked(tmp_path):
    bench = Bench()
    with pytest.raises(SteelyardError, match="arm `lost`: nothing is called `nowhere-9`"):
        run(tmp_path, recipe(arms={"good": "skill-90", "lost": "nowhere-9"}), bench)
    assert not bench.opened
    run(tmp_path, recipe(arms={"good": "skill-90", "lost": "skill-80"}))  # corrected, it may go on in the same directory


def test_a_base_that_cannot_be_opened_ends_the_weighing(tmp_path):
    with pytest.raises(SteelyardError, match="not numbers"):
        run(tmp_path, recipe(base="broken-0", arms={"good": "skill-90"}))


def test_what_an_arm_cannot_do_is_not_measurable_and_not_a_failure(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Paragraph {i}: " + "words and words " * 12 for i in range(30)))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"question": f"What is {i} + 1?", "choices": [str(i + 1), "no"], "answer": 0}) for i in range(30)))
    tasks = [{"arithmetic": {"problems": 20}}, {"choices": {"path": str(rows)}}, {"bits_per_byte": {"path": str(text)}}]
    report, _ = run(tmp_path, recipe(arms={"mute": "silent-80", "good": "skill-90"}, tasks=tasks))
    verdicts = {cell.task: cell.verdict for cell in report.cells if cell.arm == "mute" and cell.axis == "quality"}
    assert verdicts["choices"] == verdicts["bits_per_byte"] == "not measurable" != verdicts["arithmetic"]
    assert report.cell("good", "bits_per_byte").verdict == "better" and not report.cell("good", "bits_per_byte").higher_is_better


def test_a_second_run_asks_nothing_again_and_reports_the_same(tmp_path):
    one = recipe(arms={"good": "skill-90", "shaky": "fails-10"})
    first, _ = run(tmp_path, one)
    bench = Bench()
    second, lines = run(tmp_path, one, bench)
    asked = {name: len(answerer.asked) for name, answerer in bench.opened if answerer.asked}
    assert set(asked) <= {"shaky"} and asked["shaky"] <= 20  # failures alone are tried again
    assert quality_part(first) == quality_part(second)


def test_more_samples_keep_those_already_answered(tmp_path):
    run(tmp_path, recipe(arms={"good": "skill-90"}, samples=40))
    bench = Bench()
    report, _ = run(tmp_path, recipe(arms={"good": "skill-90"}, samples=60), bench)
    good = next(answerer for name, answerer in bench.opened if name == "good")
    assert len(good.asked) == 20 and report.cell("good", "right").n == 60


def _weigh_without_an_end(directory):
    """It never ends by itself: on a busy machine nobody may look for seconds."""
    count = itertools.count()

    class Stuck(Bench):
        def open(self, arm, seed=None, **options):
            opened = super().open(arm, seed, **options)
            inner = opened.answerer.answer

            async def answer(conversation, settings):
                if next(count) == 120:
                    time.sleep(600)
                async for event in inner(conversation, settings):
                    yield event

            opened.answerer.answer = answer
            return opened

    weigh(recipe(arms={"good": "skill-90", "bad": "skill-30"}), directory, say=lambda line: None, opener=Stuck())


def test_a_killed_weighing_resumes_to_the_same_bytes(tmp_path):
    whole, _ = run(tmp_path, recipe(arms={"good": "skill-90", "bad": "skill-30"}))
    killed = tmp_path / "killed"
    worker = multiprocessing.get_context("spawn").Process(target=_weigh_without_an_end, args=(killed,))
    worker.start()
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if recorded(killed) > 75:
            break
        time.sleep(0.02)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert recorded(killed) > 75 and not (killed / "report.json").exists()
    resumed = weigh(recipe(arms={"good": "skill-90", "bad": "skill-30"}), killed, say=lambda line: None, opener=Bench())
    assert quality_part(resumed) == quality_part(whole)
    assert whole.earlier == 0 and "calls" not in took(whole)
    assert took(resumed).endswith(f"going on from {resumed.earlier:,} answers of earlier calls") and resumed.earlier > 75


def recorded(directory):
    try:
        with Records(directory / "records.sqlite", reading=True) as records:
            return len(records)
    except SteelyardError:
        return 0


def test_seeds_of_a_trained_arm_are_weighed_together(tmp_path):
    one = recipe(arms={"several": "seeded-60", "single": "seeded-60"}, problems=100)
    arms = {**one.arms, "several": one.arms["several"].model_copy(update={"seeds": (1, 2, 3)})}
    bench = Bench()
    report, _ = run(tmp_path, one.model_copy(update={"arms": arms}), bench)
    several, single = report.cell("several", "right"), report.cell("single", "right")
    assert [name for name, _ in bench.opened].count("several") == 3
    assert several.high - several.low > 0 and report.arms["several"].fingerprint.count("+") == 2
    assert single.n == several.n == 100


def test_seeds_of_a_trained_base_are_paired_with_the_arms(tmp_path):
    one = recipe(base="seeded-60", arms={"same": "seeded-60", "better": "seeded-80", "single": "seeded-60"}, problems=100)
    seeded = {name: arm.model_copy(update={"seeds": (1, 2, 3)}) for name, arm in one.arms.items() if name != "single"}
    bench = Bench()
    report, _ = run(tmp_path, one.model_copy(update={"arms": {**one.arms, **seeded}}), bench)
    assert [name for name, _ in bench.opened].count("base") >= 3 and report.arms["base"].fingerprint.count("+") == 2
    same, better = report.cell("same", "right"), report.cell("better", "right")
    assert same.difference == 0 and better.verdict == "better"
    # The base's mean over its seeds stands beside arms that have as many, its first seed beside those that have one.
    skills = [0.62, 0.64, 0.66]
    expected = [sum(luck("skill", question) < skill for question in asked(problems=100)) for skill in skills]
    assert same.base == pytest.approx(sum(expected) / 300)
    assert report.cell("single", "right").base == pytest.approx(expected[0] / 100)


def asked(problems):
    task = recipe(problems=problems).tasks[0].build()
    return [sample.request.conversation[-1].content for sample in task.samples(7)]


def test_the_recipes_seeds_are_those_of_everything_that_is_trained(tmp_path):
    told = {
        "base": "m",
        "steps": [{"sft": {"data": "generated:json_forms"}}],
        "arms": {"int": ["int8"], "own": {"base": "x", "steps": ["int8"]}},
    }
    it = recipes.from_mapping(told | {"seeds": [3, 4]})
    assert {name: arm.seeds for name, arm in it.arms.items()} == {"base": (3, 4), "int": (3, 4), "own": ()}
    assert recipes.from_mapping(it.resolved()) == it


def test_only_the_axes_asked_for_are_reported_but_the_primary_always_is(tmp_path):
    report, _ = run(tmp_path / "a", recipe(arms={"good": "skill-90"}, axes=["format"]))
    assert {cell.axis for cell in report.cells} == {"format"}
    report, _ = run(tmp_path / "b", recipe(arms={"good": "skill-90"}, axes=["quality"], primary={"good": ["arithmetic", "quality"]}))
    assert [cell.metric for cell in report.cells if cell.primary] == ["right"]


def test_a_primary_axis_that_the_task_lacks_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="no metric on the axis `truthfulness`"):
        run(tmp_path, recipe(arms={"good": "skill-90"}, axes="all", primary={"good": ["arithmetic", "truthfulness"]}))


def test_a_base_alone_gives_its_own_values(tmp_path):
    report, _ = run(tmp_path, recipe(arms={}))
    right = report.cell("base", "right")
    assert right.value == pytest.approx(0.7, abs=0.2) and right.difference is None
    assert (tmp_path / "run" / "report.html").exists()


def test_cells_come_as_soon_as_they_are_there(tmp_path):
    seen = []
    report, _ = run(tmp_path, recipe(arms={"good": "skill-90", "bad": "skill-30"}), on_cell=seen.append)
    assert [cell.arm for cell in seen if cell.primary] == ["good", "bad"]
    # Shown early at Bonferroni's level; Holm can only make the interval shorter.
    for early in (cell for cell in seen if cell.primary):
        final = report.cell(early.arm, early.metric)
        assert early.low <= final.low and final.high <= early.high


def test_flips_show_question_expectation_and_both_answers(tmp_path):
    report, _ = run(tmp_path, recipe(arms={"bad": "skill-10"}))
    flip = report.flips[0]
    assert flip.arm == "bad" and flip.base_value == 1.0 and flip.arm_value == 0.0
    assert flip.base_text.strip() == flip.expected != flip.arm_text.strip() and "What is" in flip.question


def test_one_question_under_several_seeds_gives_repeatability_and_diversity(tmp_path):
    report, _ = run(tmp_path, recipe(arms={"good": "skill-99"}))
    steady = report.cell("good", "agreement")
    assert steady.axis == "repeatability" and steady.value > steady.base and steady.n == 12


def test_two_samples_with_one_name_and_a_task_without_samples_are_refused(tmp_path):
    one = recipe(arms={})
    monkey_samples(one, lambda samples: [*samples, samples[0]])
    with pytest.raises(SteelyardError, match="two samples are called"):
        run(tmp_path, one)
    one = recipe(arms={})
    monkey_samples(one, lambda samples: [])
    with pytest.raises(SteelyardError, match="no samples"):
        run(tmp_path, one)


def monkey_samples(one, change):
    from steelyard.core.recipe_parts import TaskSpec
    from steelyard.weigh.tasks.arithmetic import Arithmetic

    class Changed(Arithmetic):
        def samples(self, seed):
            return change(super().samples(seed))

    class Spec(TaskSpec):
        def build(self):
            return Changed(**self.settings)

    one.__dict__["tasks"] = tuple(Spec(name=spec.name, settings=spec.settings) for spec in one.tasks)


def test_a_scorer_that_breaks_its_word_is_told(tmp_path):
    from steelyard.core.recipe_parts import TaskSpec
    from steelyard.weigh.tasks.arithmetic import Arithmetic

    class Odd(Arithmetic):
        def score(self, sample, output):
            return {"beauty": 1.0}

    class Spec(TaskSpec):
        def build(self):
            return Odd(**self.settings)

    one = recipe(arms={})
    one.__dict__["tasks"] = tuple(Spec(name=spec.name, settings=spec.settings) for spec in one.tasks)
    with pytest.raises(SteelyardError, match="beauty"):
        run(tmp_path, one)


def test_inside_a_running_event_loop_it_works_as_well(tmp_path):
    async def notebook():
        return run(tmp_path, recipe(arms={}, problems=10))

    report, _ = asyncio.run(notebook())
    assert report.cell("base", "right").n == 10


def test_an_answer_on_which_the_scorer_breaks_is_left_out_and_told(tmp_path, monkeypatch):
    judge = Arithmetic.score

    def breaks(task, sample, output):
        if sample.id.endswith(("0", "1", "2", "3")):
            raise ZeroDivisionError("nothing to divide by")
        return judge(task, sample, output)

    monkeypatch.setattr(Arithmetic, "score", breaks)
    asked = recipe(arms={"good": "skill-90"}, problems=30, axes=["quality", "repeatability"])
    report = weigh(asked, tmp_path, opener=Bench(), say=lambda line: None, progress=lambda *told: None)
    cell = next(cell for cell in report.cells if cell.metric == "right")
    assert 0 < cell.n < 30
    assert f"{30 - cell.n} of 30 samples failed" in cell.note and "ZeroDivisionError: nothing to divide by" in cell.note
