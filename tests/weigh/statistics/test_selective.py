"""AUROC and AURC: their values, and the doubt that comes with them."""

from __future__ import annotations

import itertools
import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.weigh.cells.cells import Draft, contrast, finish
from steelyard.weigh.runner import weigh
from steelyard.weigh.scorers.calibration import AURC, AUROC, values
from steelyard.weigh.statistics.selective import aurc, auroc, linearised, risk_coverage
from tests.weigh.simple_arms import Bench, recipe

answers = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.2, 0.5, 0.9]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=30)


def drawn(seed: int, count: int, shift: float = 1.0) -> tuple[numpy.ndarray, numpy.ndarray]:
    rng = numpy.random.default_rng(seed)
    right = (rng.random(count) < 0.6).astype(float)
    return 1 / (1 + numpy.exp(-rng.normal(right * shift, 1.0))), right


@settings(deadline=None)
@given(answers)
def test_auroc_is_that_of_scikit_learn_to_nine_digits(rows):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    scores, right = [row[0] for row in rows], [row[1] for row in rows]
    if len(set(right)) < 2:
        assert auroc(scores, right) is None
    else:
        assert auroc(scores, right) == pytest.approx(metrics.roc_auc_score(right, scores), abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.2, 0.5]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=6))
def test_aurc_is_the_mean_over_all_orders_of_equal_answers(rows):
    risks = []
    for order in itertools.permutations(rows):
        if [score for score, _ in order] == sorted((score for score, _ in rows), reverse=True):
            wrong = [1 - right for _, right in order]
            risks.append(sum(sum(wrong[:k]) / k for k in range(1, len(wrong) + 1)) / len(wrong))
    assert aurc([row[0] for row in rows], [row[1] for row in rows]) == pytest.approx(sum(risks) / len(risks), abs=1e-12)


def test_the_standard_error_of_an_auroc_is_delongs():
    scores, right = drawn(1, 400)
    ((column,),) = [linearised(AUROC, [list(zip(scores, right, strict=True))])]
    won, lost = scores[right == 1], scores[right == 0]
    above = numpy.array([(won_one > lost).mean() for won_one in won])
    below = numpy.array([(won > lost_one).mean() for lost_one in lost])
    delong = math.sqrt(above.var(ddof=1) / len(won) + below.var(ddof=1) / len(lost))
    assert numpy.std(column, ddof=1) / math.sqrt(len(column)) == pytest.approx(delong, rel=0.01)


@pytest.mark.parametrize("metric", [AUROC, AURC])
def test_the_doubt_is_that_of_leaving_samples_out(metric):
    scores, right = drawn(2, 150)
    (column,) = linearised(metric, [list(zip(scores, right, strict=True))])
    whole = auroc if metric is AUROC else aurc
    left_out = [whole(numpy.delete(scores, i), numpy.delete(right, i)) for i in range(150)]
    jackknife = math.sqrt(149 / 150 * sum((one - sum(left_out) / 150) ** 2 for one in left_out))
    assert numpy.std(column, ddof=1) / math.sqrt(150) == pytest.approx(jackknife, rel=0.05)
    assert numpy.mean(column) == pytest.approx(whole(scores, right), abs=1e-12)


@pytest.mark.parametrize("metric", [AUROC, AURC])
def test_intervals_of_a_difference_hold_the_truth_as_often_as_they_say(metric):
    held: int = 0
    truth: dict[float, float] = {}
    whole = auroc if metric is AUROC else aurc
    for shift in (0.5, 1.0):
        truth[shift] = whole(*drawn(99, 200_000, shift))
    for seed in range(100):
        rng = numpy.random.default_rng(seed)
        right = (rng.random(150) < 0.6).astype(float)
        noise = rng.normal(0, 1, 150)
        base, arm = [[(float(s), float(r)) for s, r in zip(noise + right * shift, right, strict=True)] for shift in (0.5, 1.0)]
        interval = contrast(metric, base, [arm], [""] * 150).interval(0.05)
        held += interval[0] <= truth[1.0] - truth[0.5] <= interval[1]
    assert 87 <= held <= 100


def test_a_cell_of_an_auroc_compares_the_samples_both_arms_answered():
    scores, right = drawn(3, 120)
    base = [(float(s), float(r)) for s, r in zip(scores, right, strict=True)]
    arm = [None if i % 10 == 0 else (1 - pair[0], pair[1]) for i, pair in enumerate(base)]
    cell = finish(Draft("arm", "task", AUROC, contrast(AUROC, base, [arm], [""] * 120)))
    kept = [i for i in range(120) if i % 10]
    assert cell.n == len(kept)
    assert cell.base == pytest.approx(auroc(scores[kept], right[kept]))
    assert cell.value == pytest.approx(1 - cell.base)
    assert cell.verdict == "worse"


def test_where_all_are_right_there_is_no_auroc():
    assert contrast(AUROC, [(0.3, 1.0), (0.7, 1.0)], [[(0.2, 1.0), (0.9, 1.0)]], ["", ""]) is None


def test_an_answer_that_abstains_or_tells_no_confidence_enters_no_curve():
    assert values(None, True)["auroc"] is None and values(0.5, True, answered=False)["aurc"] is None
    assert values(0.5, False)["auroc"] == (0.5, 0.0)


def test_the_risk_at_full_coverage_is_the_error_rate():
    curve = risk_coverage([0.9, 0.5, 0.5, 0.1], [1, 0, 1, 0])
    assert curve == [(0.25, 0.0), (0.75, pytest.approx(1 / 3)), (1.0, 0.5)]


def test_without_probabilities_the_cells_of_a_report_are_not_measurable_and_say_so(tmp_path):
    asked = recipe(arms={"other": "skill-90"}, problems=20, axes=["quality", "calibration"])
    report = weigh(asked, tmp_path, say=lambda line: None, opener=Bench())
    for metric in ("auroc", "aurc", "brier"):
        cell = report.cell("other", metric)
        assert cell.verdict == "not measurable" and cell.note and cell.value is None
    assert report.cell("other", "right").value is not None
