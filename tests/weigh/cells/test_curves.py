"""Curves: reliability, risk against coverage, accuracy by position."""

from __future__ import annotations

import random
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.protocols import AnswerSettings, Message
from steelyard.weigh.cells.curves import all_curves, curves_of
from steelyard.weigh.cells.flips import detail_rows
from steelyard.weigh.cells.scoring import Scored, unable
from steelyard.weigh.scorers.calibration import AUROC, BRIER
from steelyard.weigh.statistics.intervals import wilson
from steelyard.weigh.statistics.selective import risk_coverage
from steelyard.weigh.tasks.task import Ask, Metric, Output, Read, Sample, Task

RIGHT = Metric("right", "quality", "share", True, margin=0.03, binary=True)


class Made(Task):
    """A task whose values are given."""

    name: ClassVar[str] = "made"
    metrics: ClassVar[tuple[Metric, ...]] = (RIGHT, BRIER, AUROC)

    def samples(self, seed):
        raise NotImplementedError

    def score(self, sample, output):
        raise NotImplementedError


class Ordered(Made):
    """The same without a word on whether its confidences are probabilities."""

    metrics: ClassVar[tuple[Metric, ...]] = (RIGHT, AUROC)


def scored(pairs=(), rights=(), tags=(), clusters=()) -> Scored:
    count = max(len(pairs), len(rights))
    samples = [Sample(str(i), Read("x"), cluster=clusters[i] if clusters else "", tags=tags[i] if tags else {}) for i in range(count)]
    nothing = [None] * count
    values = {"right": list(rights) or nothing, "brier": nothing, "auroc": list(pairs) or nothing}
    return Scored(samples, [[] for _ in samples], values, nothing)


def width(point) -> float:
    return point.high - point.low


def of_kind(curves, kind):
    return [curve for curve in curves if curve.kind == kind]


def test_a_reliability_diagram_puts_answers_in_equal_groups_with_wilsons_interval():
    draw = random.Random(3)
    sure = [draw.random() for _ in range(200)]
    pairs = [(value, float(draw.random() < value)) for value in sure]
    (curve,) = of_kind(curves_of("int8", Made(), scored(pairs)), "reliability")
    assert [point.n for point in curve.points] == [20] * 10
    lowest = sorted(pairs)[:20]
    first = curve.points[0]
    assert first.at == pytest.approx(sum(value for value, _ in lowest) / 20, abs=1e-6)
    assert first.value == pytest.approx(sum(right for _, right in lowest) / 20)
    assert (first.low, first.high) == pytest.approx(wilson(sum(right for _, right in lowest), 20, 0.05))


def test_confidences_that_nobody_calls_probabilities_have_no_reliability_diagram():
    pairs = [(i / 50, float(i % 2)) for i in range(50)]
    assert [curve.kind for curve in curves_of("int8", Ordered(), scored(pairs))] == ["risk_coverage"]
    assert of_kind(curves_of("int8", Made(), scored([(value - 3, right) for value, right in pairs])), "reliability") == []


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.sampled_from([0.0, 1.0])), min_size=20, max_size=80))
def test_every_point_of_risk_against_coverage_is_one_of_the_exact_curve(pairs):
    (curve,) = of_kind(curves_of("int8", Made(), scored(pairs)), "risk_coverage")
    exact = {round(coverage, 6): risk for coverage, risk in risk_coverage([p[0] for p in pairs], [p[1] for p in pairs])}
    assert all(point.value == pytest.approx(exact[point.at]) for point in curve.points)
    assert curve.points[-1].at == 1 and curve.points[-1].n == len(pairs)
    (bins,) = of_kind(curves_of("int8", Made(), scored(pairs)), "reliability")
    assert sum(point.n for point in bins.points) == len(pairs)


def test_answers_of_one_cluster_widen_the_interval():
    pairs = [(0.5, float(i // 10 % 2)) for i in range(100)]
    alone = curves_of("int8", Ordered(), scored(pairs))[0].points[-1]
    together = curves_of("int8", Ordered(), scored(pairs, clusters=[str(i // 10) for i in range(100)]))[0].points[-1]
    assert width(together) > 2 * width(alone)


def test_accuracy_by_position_has_a_line_for_each_length_in_order():
    tags = [{"depth": str(d / 4), "length": str(length), "length_unit": "pairs"} for length in (75, 10) for d in range(5) for _ in range(4)]
    rights = [float(tag["depth"] in ("0.0", "1.0")) for tag in tags]
    short, long = curves_of("int8", Ordered(), scored(rights=rights, tags=tags))
    assert (short.group, long.group) == ("10 pairs", "75 pairs")
    assert [(point.at, point.value, point.n) for point in long.points] == [(0, 1, 4), (0.25, 0, 4), (0.5, 0, 4), (0.75, 0, 4), (1, 1, 4)]
    assert short.points[0].high == 1 and width(short.points[0]) == pytest.approx(0.49, abs=0.01)


@pytest.mark.parametrize("depth", ["", "nan", "inf", "-0.1", "1.5", "middle"])
def test_a_depth_that_is_no_share_draws_nothing(depth):
    assert curves_of("int8", Ordered(), scored(rights=[1.0] * 4, tags=[{"depth": depth}] * 3 + [{"depth": "0.5"}])) == []


def test_a_single_depth_is_no_curve():
    assert curves_of("int8", Ordered(), scored(rights=[1.0] * 4, tags=[{"depth": "0.5", "length": "75"}] * 4)) == []


def test_too_few_answers_and_arms_that_could_not_be_asked_draw_nothing():
    assert curves_of("int8", Made(), scored([(0.5, 1.0)] * 19)) == []
    assert curves_of("int8", Made(), unable(Made(), scored([(0.5, 1.0)] * 30).samples, "it has no probabilities")) == []
    assert curves_of("int8", Made(), scored()) == []


def test_the_bases_curves_come_first_under_its_own_name():
    one = scored([(i / 40, float(i % 3 == 0)) for i in range(40)])
    curves = all_curves({"made": Made(), "other": Made()}, {"made": one}, {"int8": {"made": [one, one]}, "broken": {}})
    assert [(curve.arm, curve.kind) for curve in curves] == [
        ("base", "risk_coverage"), ("base", "reliability"), ("int8", "risk_coverage"), ("int8", "reliability"),
    ]  # fmt: skip


def test_details_give_no_answer_a_value_that_only_the_whole_set_has():
    metrics = [
        Metric("right", "quality", "share", True, margin=0.03),
        *(Metric(kind, "calibration", "share", True, margin=0.03, kind=kind) for kind in ("auroc", "aurc", "kappa")),
    ]
    values = {"right": [1.0], "auroc": [(0.7, 1.0)], "aurc": [(0.7, 1.0)], "kappa": [(0.0, 1.0)]}
    sample = Sample("one", Ask((Message("user", "2 + 2?"),), AnswerSettings()), reference={"expected": "4"})
    (row,) = detail_rows(Scored([sample], [[Output(text="4")]], values, [None]), metrics)
    assert row["values"] == {"right": 1.0, "confidence": 0.7}
