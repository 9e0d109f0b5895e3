"""Fairness and safety cells: gaps between groups, figures corrected for a detector's errors, and no verdict for who cannot do the task."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar

import numpy
import pytest

from steelyard.core.protocols import Message
from steelyard.weigh.cells.cells import base_cells, contrast, draft_cells, finish
from steelyard.weigh.cells.scoring import Scored, score
from steelyard.weigh.detector import Detector
from steelyard.weigh.report.report import Cell
from steelyard.weigh.statistics.corrected import correct_share, useless, youden_interval
from steelyard.weigh.statistics.gaps import gap_column, signed_gap
from steelyard.weigh.statistics.intervals import wilson
from steelyard.weigh.tasks.task import Ask, Metric, Output, Sample, Task, Value

GAP = Metric("gap", "fairness", "share", False, margin=0.05, kind="gap", gate="done", neutral=0.0, groups=("men", "women"))
DONE = Metric("done", "quality", "share", True, margin=0.03, floor=0.0, binary=True)


class Judged(Task):
    """Answers that say what they are worth: `done value`."""

    name: ClassVar[str] = "judged"
    summary: ClassVar[str] = "For tests."
    metrics: ClassVar[tuple[Metric, ...]] = (DONE, GAP)

    def samples(self, seed: int) -> list[Sample]:
        asked = Ask((Message("user", "x"),))
        return [Sample(f"{i}{side}", asked, cluster=str(i), tags={"side": str(side)}) for i in range(40) for side in (1, -1)]

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        done, value = map(float, output.text.split())
        return {"done": done, "gap": (value, float(sample.tags["side"]))}


def answered(says: dict[int, tuple[float, float]], noise: float = 0.0) -> Scored:
    task, rng = Judged(), random.Random(0)
    samples = task.samples(0)
    texts = [says[int(sample.tags["side"])] for sample in samples]
    return score(task, samples, [[Output(text=f"{done} {value + noise * rng.random()}", reason="stop") for done, value in texts]])


def cells(base: Scored, arm: Scored) -> dict[str, Cell]:
    return {draft.metric.name: finish(draft) for draft in draft_cells("arm", Judged(), base, [arm])}


def test_a_gap_is_the_difference_of_the_groups_means_and_says_who_has_more() -> None:
    cell = cells(answered({1: (1, 0.75), -1: (1, 0.25)}, 0.1), answered({1: (1, 0.25), -1: (1, 0.35)}, 0.1))["gap"]
    assert cell.base == pytest.approx(0.5, abs=0.03) and cell.value == pytest.approx(0.1, abs=0.03)
    assert cell.verdict == "better" and "base: more for men; arm: more for women" in cell.note
    assert cell.value_interval is not None and 0 <= cell.value_interval[0] <= 0.1 <= cell.value_interval[1]


def test_a_column_averages_to_the_gap_whichever_group_is_ahead() -> None:
    values, groups = numpy.array([3.0, 5.0, 1.0, 2.0, 6.0]), numpy.array([1.0, 1.0, -1.0, -1.0, -1.0])
    for sign in (1, -1):
        column = gap_column(values, sign * groups)
        assert column is not None and column.mean() == pytest.approx(1.0)
    assert gap_column(values, numpy.ones(5)) is None and signed_gap([(1.0, 1.0), None]) is None


def test_questions_that_are_hard_for_everybody_do_not_widen_a_gap() -> None:
    rng = random.Random(1)
    hardness = [rng.random() * 10 for _ in range(60)]
    column: list[Value] = [(hard + 0.3 * side + 0.01 * rng.random(), float(side)) for hard in hardness for side in (1, -1)]
    clusters = [str(i) for i in range(60) for _ in range(2)]
    found = contrast(GAP, column, [column], clusters)
    assert found is not None and found.base.interval is not None
    assert found.base.interval[0] > 0.58 and found.base.interval[1] < 0.62
    unpaired = contrast(GAP, column, [column], [""] * 120)
    assert unpaired is not None and unpaired.base.interval is not None and unpaired.base.interval[0] == 0.0


def test_who_cannot_do_the_task_is_not_called_fair() -> None:
    nothing, fair, unfair = ({1: (d, a), -1: (d, b)} for d, a, b in ((0, 0.0, 0.0), (1, 0.5, 0.5), (1, 0.9, 0.1)))
    ruined = cells(answered(unfair, 0.05), answered(nothing))["gap"]
    assert ruined.verdict == "floor" and "the arm: `done` is not shown to be above 0" in ruined.note
    assert cells(answered(nothing), answered(nothing))["gap"].verdict == "floor"
    assert cells(answered(fair, 0.01), answered(fair, 0.01))["gap"].verdict == "identical"
    (_, alone) = base_cells(Judged(), answered(nothing))
    assert alone.verdict == "floor" and "shows no difference either" in alone.note


def test_an_arm_that_is_shown_to_treat_people_unequally_needs_no_gate() -> None:
    cell = cells(answered({1: (0, 0.9), -1: (0, 0.1)}, 0.05), answered({1: (0, 0.5), -1: (0, 0.1)}, 0.05))["gap"]
    assert cell.verdict == "better"


def test_a_share_is_corrected_as_rogan_and_gladen_do() -> None:
    detector = Detector("refusals", 90, 100, 5, 100)
    assert (detector.sensitivity, detector.specificity) == (0.9, 0.95)
    assert detector.corrected(0.305) == pytest.approx((0.305 + 0.95 - 1) / 0.85)
    assert detector.corrected(0.01) == 0.0 and detector.corrected(0.99) == 1.0
    assert Detector.measured("x", [(True, True), (True, False), (False, False)]) == Detector("x", 1, 2, 0, 1)
    for counts in ((3, 2, 0, 1), (0, 0, 0, 1), (1, 1, 2, 1), (1, 1, 0, 0)):
        with pytest.raises(ValueError):
            Detector("x", *counts)


def test_corrected_intervals_hold_the_truth() -> None:
    rng = numpy.random.default_rng(3)
    for true, hit, passed, n in ((0.1, 0.9, 0.97, 100), (0.5, 0.8, 0.9, 200), (0.0, 0.95, 0.95, 60)):
        held = 0
        for _ in range(400):
            detector = Detector("x", int(rng.binomial(60, hit)), 60, int(rng.binomial(60, 1 - passed)), 60)
            share = rng.binomial(n, true * hit + (1 - true) * (1 - passed)) / n
            _, (low, high) = correct_share(share, n, detector)
            held += low <= true <= high
        assert held / 400 > 0.92, (true, held)


def test_a_detector_without_error_changes_next_to_nothing_and_a_poor_one_widens() -> None:
    perfect, poor = Detector("x", 10_000, 10_000, 0, 10_000), Detector("x", 14, 20, 6, 20)
    share, (low, high) = correct_share(0.3, 100, perfect)
    wanted = wilson(30, 100, 0.05)
    assert share == pytest.approx(0.3) and (low, high) == pytest.approx(wanted, abs=0.01)
    _, wide = correct_share(0.4, 100, poor)
    assert wide[1] - wide[0] > 2 * (high - low)


ATTACKED = Metric("attacked", "safety", "share", False, margin=0.03, binary=True, detector=Detector("leaks", 45, 50, 1, 50, "made up"))


def test_a_corrected_difference_is_told_where_that_of_the_detections_is() -> None:
    base: list[Value] = [1.0] * 40 + [0.0] * 60
    arm: list[Value] = [1.0] * 10 + [0.0] * 90
    found = contrast(ATTACKED, base, [arm], [""] * 100)
    raw = contrast(Metric("x", "safety", "share", False, margin=0.03, binary=True), base, [arm], [""] * 100)
    assert found is not None and raw is not None
    assert found.difference == pytest.approx(-0.3 / 0.88) and found.p_value == raw.p_value
    ends, plain = found.interval(), raw.interval()
    assert ends is not None and plain is not None and ends[0] < plain[0] / 0.88 and plain[1] / 0.88 < ends[1] < 0
    same = contrast(ATTACKED, base, [base], [""] * 100)
    assert same is not None and same.difference == 0.0 and same.interval() is not None


def test_with_a_detector_that_may_be_a_coin_nothing_is_measured() -> None:
    coin = Detector("leaks", 12, 20, 9, 20)
    assert youden_interval(coin)[0] < 0 and "not shown to be better than a coin" in (useless(coin) or "")
    assert youden_interval(Detector("leaks", 20, 20, 0, 20))[0] > 0.6

    class Coin(Judged):
        metrics: ClassVar[tuple[Metric, ...]] = (DONE, Metric("gap", "safety", "share", False, margin=0.03, detector=coin))

        def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
            return {"done": 1.0, "gap": 1.0}

    samples = Coin().samples(0)
    scored = score(Coin(), samples, [[Output(text="1 1", reason="stop")] * len(samples)])
    _, draft = draft_cells("arm", Coin(), scored, [scored])
    assert finish(draft).verdict == "not measurable" and "coin" in finish(draft).note
    assert [cell.metric for cell in base_cells(Coin(), scored)] == ["done"]
