"""Is the balance true? The stated error rate, the base against itself, and a defect that must be found."""

from __future__ import annotations

import asyncio

import numpy
import pytest
from scipy import stats

from steelyard.core.levers import parse
from steelyard.core.protocols import AnswerSettings, collect
from steelyard.weigh.cells import checks
from steelyard.weigh.cells.cells import Draft, contrast, finish_all
from steelyard.weigh.planted_defect import PlantedDefect, scrambled
from steelyard.weigh.runner import weigh
from steelyard.weigh.tasks.task import Ask, Choose, Metric, Sample
from tests.weigh.simple_arms import Bench, Calculator, recipe, user

RIGHT = Metric("right", "quality", "share", True, margin=0.03, floor=0.0, binary=True)
BITS = Metric("bits", "quality", "bits/byte", False, margin=0.001, relative=True, kind="ratio")
SCORE = Metric("points", "quality", "score", True, margin=0.01)
ARMS = 4


def null_report(draw):
    """A report of four arms that differ from the base by chance alone, each on one primary metric, through the real code."""
    drafts, primary = [], {}
    n, groups = 60, 20
    hard = draw.random(n)
    for number in range(ARMS):
        arm, metric = f"arm {number}", (RIGHT, RIGHT, BITS, SCORE)[number]
        clusters = [""] * n if number != 1 else [str(i % groups) for i in range(n)]
        if metric.binary:
            luck = draw.random(groups)[numpy.arange(n) % groups] if number == 1 else draw.random(n)
            base, run = ((hard < 0.5) ^ (luck < 0.1), (hard < 0.5) ^ (luck > 0.9))
            left, right = base.astype(float).tolist(), run.astype(float).tolist()
        elif metric is BITS:
            lengths = draw.integers(100, 600, n).astype(float)
            left = list(zip((1.2 + hard) * lengths, lengths, strict=True))
            right = list(zip((1.2 + hard + 0.05 * draw.standard_normal(n)) * lengths, lengths, strict=True))
        else:
            left, right = (10 * hard).tolist(), (10 * hard + draw.exponential(1.0, n) - 1.0).tolist()
        drafts.append(Draft(arm, "task", metric, contrast(metric, left, [right], clusters)))
        primary[arm] = ("task", metric.name)
    return finish_all(drafts, primary)


def test_over_500_reports_without_an_effect_false_verdicts_stay_at_the_stated_rate():
    draw, reports = numpy.random.default_rng(11), 500
    false = sum(any(cell.verdict in ("better", "worse") for cell in null_report(draw) if cell.primary) for _ in range(reports))
    # One-sided: a balance with a true rate of 5 % exceeds this with a chance of 1 %.
    assert false <= stats.binom.isf(0.01, reports, 0.05)
    assert false > 0  # nor is it so careful that it could never see anything


def test_verdicts_and_intervals_never_disagree():
    draw = numpy.random.default_rng(12)
    for _ in range(40):
        for cell in null_report(draw):
            excludes = cell.low > 0 or cell.high < 0
            assert (cell.verdict in ("better", "worse")) <= excludes
            assert not (excludes and cell.verdict == "underpowered")


def test_a_sampled_a_a_finds_nothing_more_often_than_stated(tmp_path):
    false = compared = 0
    for number in range(12):
        report = weigh(recipe(arms={}, problems=30, seed=number), tmp_path / str(number), say=lambda line: None, opener=Bench(noise=0.6))
        sampled = [cell for cell in report.checks["a_a"] if cell.arm == checks.SAMPLED and cell.metric == "right"]
        compared += len(sampled)
        false += sum(cell.verdict in ("better", "worse") for cell in sampled)
    assert compared == 12 and false <= stats.binom.isf(0.01, compared, 0.05)


def test_answers_at_temperature_above_zero_are_drawn_anew_for_every_trial(tmp_path):
    report = weigh(recipe(arms={}, problems=30), tmp_path, say=lambda line: None, opener=Bench(noise=1.0))
    sampled = {cell.metric: cell.verdict for cell in report.checks["a_a"] if cell.arm == checks.SAMPLED}
    assert sampled["right"] != "identical"


def test_the_defect_fits_what_the_base_is():
    local = recipe(arms={}).arms["base"]
    remote = recipe(base=None, arms={}, endpoint={"url": "http://host/v1", "model": "m"}).arms["base"]
    (lever,) = checks.defect_arm(local).levers
    assert isinstance(lever, PlantedDefect) and lever.kind == "wrong_template"
    assert checks.defect_arm(remote).levers[0].kind == "scrambled_prompt"
    written, chosen = Ask(user("a")), Choose(user("a"), ("b", "c"))
    assert checks.writes([Sample("1", chosen), Sample("2", written)]) and not checks.writes([Sample("1", chosen)])


def test_a_scrambled_prompt_reaches_answers_and_scores():
    lever, inner = parse({"planted_defect": "scrambled_prompt"}), Calculator(1.0)
    broken = lever.wrap(inner)
    question = "What is 12 + 30 when the moon is full?"
    asyncio.run(collect(broken.answer(user(question), AnswerSettings())))
    assert inner.asked != [question] and sorted(inner.asked[0].split()) == sorted(question.split())
    assert asyncio.run(broken.score(user(question), ["42", "43"]))
    assert broken.fingerprint != inner.fingerprint
    assert scrambled(user(question)) == scrambled(user(question))


def test_a_wrong_template_does_not_touch_the_answerer():
    inner = Calculator(1.0)
    assert PlantedDefect().wrap(inner) is inner


@pytest.mark.parametrize("kind", ["wrong_template", "scrambled_prompt"])
def test_the_lever_is_found_by_name_with_its_main_setting(kind):
    assert parse({"planted_defect": kind}) == PlantedDefect(kind=kind)


def test_where_the_base_is_at_floor_a_defect_is_tried_on_how_readily_it_says_the_right_answers(tmp_path):
    report = weigh(
        recipe(base="skill-0", arms={"good": "skill-90"}, problems=30, axes=["quality"]),
        tmp_path, opener=Bench(), say=lambda line: None, progress=lambda *told: None,
    )  # fmt: skip
    (cell,) = report.checks["planted_defect"]
    assert (cell.task, cell.metric, cell.n, cell.primary) == ("arithmetic, right answers said", "said_logprob", 30, True)
    assert not any(cell.task.endswith("said") for cell in report.cells)  # no arm is praised for it
