"""Metrics of a whole set: calibration error, kappa, contrasts, and what is right at equal coverage."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.weigh.cells.cells import contrast
from steelyard.weigh.scorers.calibration import ECE
from steelyard.weigh.scorers.choosing import KAPPA
from steelyard.weigh.scorers.truthfulness import EQUAL_COVERAGE, METRICS, Outcome, values
from steelyard.weigh.statistics.agreement import calibration_error, kappa
from steelyard.weigh.statistics.selective import linearised
from steelyard.weigh.statistics.whole_set import SILENT, expected_error
from steelyard.weigh.tasks.task import Metric

GAP = Metric("edge_gap", "position", "share", False, margin=0.03, kind="contrast", reach=(-1.0, 1.0))
pairs = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.3, 0.7, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60)


def value_of(metric, *columns):
    return [float(numpy.mean([value for value in column if value is not None])) for column in linearised(metric, columns)]


@settings(deadline=None)
@given(pairs)
def test_the_column_of_a_calibration_error_averages_to_it(rows):
    assert value_of(ECE, rows)[0] == pytest.approx(calibration_error([c for c, _ in rows], [r for _, r in rows]), abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_the_column_of_kappa_averages_to_it(rows):
    expected = kappa([a for a, _ in rows], [b for _, b in rows])
    (column,) = linearised(KAPPA, [[(float(a), float(b)) for a, b in rows]])
    if expected is None:
        assert column == [None] * len(rows)
    else:
        assert numpy.mean(column) == pytest.approx(expected, abs=1e-9)


def test_the_standard_error_of_kappa_is_that_of_many_repetitions():
    rng = numpy.random.default_rng(5)
    found, said = [], []
    for _ in range(300):
        true = rng.random(200) < 0.3
        given = numpy.where(rng.random(200) < 0.8, true, rng.random(200) < 0.5)
        (column,) = linearised(KAPPA, [list(zip(given.astype(float), true.astype(float), strict=True))])
        found.append(numpy.mean(column))
        said.append(numpy.std(column, ddof=1) / math.sqrt(200))
    assert numpy.mean(said) == pytest.approx(numpy.std(found, ddof=1), rel=0.12)


def test_a_calibrated_model_shows_the_error_that_is_told_beside_it():
    rng = numpy.random.default_rng(2)
    stated = rng.random(150)
    seen = [calibration_error(stated, (rng.random(150) < stated).astype(float)) for _ in range(300)]
    assert expected_error(stated) == pytest.approx(numpy.mean(seen), rel=0.05)
    assert expected_error([]) == 0.0


def test_a_contrast_is_the_difference_of_two_means_and_needs_both_groups():
    rows = [(1.0, 1.0), (0.0, 1.0), (1.0, -1.0), (0.0, -1.0), (0.0, -1.0), (0.0, -1.0)]
    assert value_of(GAP, rows)[0] == pytest.approx(0.25)
    assert linearised(GAP, [[(1.0, 1.0), (0.0, 1.0)]]) == [[None, None]]


def outcomes(confidence, right, answered):
    """Values of questions that all have an answer; the surest `answered` are answered."""
    order = numpy.argsort(-numpy.asarray(confidence))
    said = set(order[:answered].tolist())
    return [values(Outcome(True, i not in said, i in said and bool(right[i])), confidence[i]) for i in range(len(right))]


def test_silence_alone_wins_nothing_and_total_silence_has_no_value():
    rng = numpy.random.default_rng(3)
    right = rng.random(200) < 0.2
    sure = rng.random(200)
    open_arm, shy, silent = (outcomes(sure, right, count) for count in (200, 60, 0))
    name = EQUAL_COVERAGE.name
    one = contrast(EQUAL_COVERAGE, [row[name] for row in open_arm], [[row[name] for row in shy]], [""] * 200)
    assert one is not None and one.difference == pytest.approx(0.0, abs=1e-12)  # the base would have been as good, had it been as silent
    assert contrast(EQUAL_COVERAGE, [row[name] for row in open_arm], [[row[name] for row in silent]], [""] * 200) is None
    better = contrast(
        next(metric for metric in METRICS if metric.name == "truthful"),
        [row["truthful"] for row in open_arm], [[row["truthful"] for row in silent]], [""] * 200,
    )  # fmt: skip
    assert better is not None and better.interval()[0] > 0  # why the axis does not open with `truthful`


def test_silence_where_there_is_no_answer_is_worth_something():
    # 100 questions, half without an answer. The base answers all, unsure of none; the arm is silent exactly where there is none.
    base = [values(Outcome(i < 50, False, i < 50), None) for i in range(100)]
    arm = [values(Outcome(i < 50, i >= 50, i < 50), None) for i in range(100)]
    name = EQUAL_COVERAGE.name
    found = contrast(EQUAL_COVERAGE, [row[name] for row in base], [[row[name] for row in arm]], [""] * 100)
    assert found is not None and found.base.value == pytest.approx(0.5) and found.value.value == pytest.approx(1.0)
    assert found.interval()[0] > 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([SILENT, 0.0, 0.4, 0.9]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=40))
def test_right_at_equal_coverage_is_a_share(rows):
    rows = [(confidence, 0.0 if confidence == SILENT else right) for confidence, right in rows]
    (column,) = linearised(EQUAL_COVERAGE, [rows])
    answered = [row for row in rows if row[0] >= 0]
    if not answered:
        assert column == [None] * len(rows)
    elif len(answered) >= 0.05 * len(rows):
        assert numpy.mean(column) == pytest.approx(sum(right for _, right in answered) / len(answered), abs=1e-9)
