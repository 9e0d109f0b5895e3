"""The same numbers as scikit-learn, SciPy and statsmodels, to 1e-9, on anything Hypothesis thinks of."""

from __future__ import annotations

import math
import warnings

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from steelyard.core.seeds import derive
from steelyard.weigh.scorers import calibration
from steelyard.weigh.statistics.agreement import calibration_error, kappa, reliability
from steelyard.weigh.statistics.intervals import bootstrap, mcnemar_exact, student_quantile, wilson
from steelyard.weigh.statistics.multiplicity import holm_levels
from steelyard.weigh.statistics.paired import compare, pair
from steelyard.weigh.statistics.selective import auroc

sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
proportion = pytest.importorskip("statsmodels.stats.proportion", reason="statsmodels is not installed")
tables = pytest.importorskip("statsmodels.stats.contingency_tables", reason="statsmodels is not installed")
multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")

EXACT = {"rel": 1e-9, "abs": 1e-9}
chances = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
answers = st.lists(st.tuples(chances, st.booleans()), min_size=1, max_size=80)
few = settings(max_examples=60, deadline=None)
fewer = settings(max_examples=8, deadline=None)  # statsmodels takes a second for each in a fresh environment


@few
@given(answers, st.integers(1, 20))
def test_the_calibration_error_is_that_of_scikit_learns_curve(rows: list[tuple[float, bool]], bins: int) -> None:
    from sklearn.calibration import calibration_curve

    sure, right = numpy.array([row[0] for row in rows]), numpy.array([int(row[1]) for row in rows])
    if set(right) == {0, 1}:  # with one outcome alone there is no curve
        true, stated = calibration_curve(right, sure, n_bins=bins, strategy="quantile")
        ours = reliability(sure.tolist(), right.tolist(), bins)
        assert [one.right for one in ours] == pytest.approx(list(true), **EXACT)
        assert [one.confidence for one in ours] == pytest.approx(list(stated), **EXACT)
        weights = numpy.array([one.count for one in ours]) / len(rows)
        assert calibration_error(sure.tolist(), right.tolist(), bins) == pytest.approx(float(weights @ numpy.abs(true - stated)), **EXACT)
    assert 0 <= calibration_error(sure.tolist(), right.tolist(), bins) <= 1


def test_a_calibrated_model_shows_the_bias_that_is_told_of() -> None:
    draw, n = numpy.random.default_rng(3), 300
    found = []
    for _ in range(300):
        sure = draw.random(n)
        found.append(calibration_error(sure.tolist(), (draw.random(n) < sure).astype(float).tolist()))
    told = numpy.mean(numpy.sqrt(2 * 15 * (draw.random(1000) * (1 - draw.random(1000))).mean() / (math.pi * n)))
    assert 0.5 * told < numpy.mean(found) < 1.5 * told


@few
@given(answers)
def test_brier_and_auroc_are_scikit_learns(rows: list[tuple[float, bool]]) -> None:
    sure, right = [row[0] for row in rows], [row[1] for row in rows]
    ours = numpy.mean([calibration.values(one, hit)["brier"] for one, hit in rows])
    assert ours == pytest.approx(sklearn.brier_score_loss(right, sure, pos_label=True), **EXACT)
    if len(set(right)) == 2:
        assert auroc(sure, [float(hit) for hit in right]) == pytest.approx(sklearn.roc_auc_score(right, sure), **EXACT)


@few
@given(st.integers(1, 5000), st.data(), st.floats(0.001, 0.5))
def test_wilsons_interval_is_statsmodels_and_scipys(n: int, data: st.DataObject, alpha: float) -> None:
    hits = data.draw(st.integers(0, n))
    theirs = stats.binomtest(hits, n).proportion_ci(1 - alpha, method="wilson")
    assert wilson(hits, n, alpha) == pytest.approx((theirs.low, theirs.high), **EXACT)
    assert wilson(hits, n, alpha) == pytest.approx(proportion.proportion_confint(hits, n, alpha, method="wilson"), **EXACT)


@few
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_exact_mcnemar_is_statsmodels(gained: int, lost: int, same: int) -> None:
    theirs = tables.mcnemar([[same, lost], [gained, same]], exact=True).pvalue
    assert mcnemar_exact(gained, lost) == pytest.approx(min(1.0, theirs), **EXACT)


@few
@given(st.lists(st.floats(-100, 100), min_size=3, max_size=30), st.integers(0, 2**32), st.floats(0.01, 0.3))
def test_the_bootstrap_is_scipys_at_the_widened_level(values: list[float], seed: int, alpha: float) -> None:
    data = numpy.array(values)
    ours = bootstrap(lambda drawn: data[drawn].mean(axis=1), len(data), alpha, seed, resamples=200)
    wider = math.sqrt(len(data) / (len(data) - 1)) * student_quantile(alpha, len(data) - 1)
    level = 1 - 2 * float(stats.norm.sf(wider))
    generator = numpy.random.default_rng(derive(seed, "bootstrap"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of data that are all the same SciPy says so
        theirs = stats.bootstrap(
            (data,), numpy.mean, n_resamples=200, confidence_level=level, method="percentile", vectorized=True, axis=-1, rng=generator
        ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-9)


@few
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=50))
def test_kappa_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    ours = kappa(first, second)
    if ours is None:
        assert len(set(first + second)) == 1
    else:
        assert ours == pytest.approx(sklearn.cohen_kappa_score(first, second), **EXACT)


@few
@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=3, max_size=40))
def test_the_paired_t_test_is_scipys(pairs: list[tuple[float, float]]) -> None:
    base, arm = [one for one, _ in pairs], [other for _, other in pairs]
    differences = numpy.array(arm) - numpy.array(base)
    found = compare(pair(base, arm, [""] * len(pairs)))
    assert found is not None and found.difference == pytest.approx(differences.mean(), **EXACT)
    assert found.standard_error == pytest.approx(stats.sem(differences), rel=1e-7, abs=1e-9)


@fewer
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_statsmodels_rejects(p_values: list[float]) -> None:
    rejected = multitest.multipletests(p_values, alpha=0.05, method="holm")[0]
    levels = holm_levels(p_values, 0.05)
    # At exact equality the two differ: there the interval touches zero, and nothing is claimed.
    clear = [abs(p - level) > 1e-12 for p, level in zip(p_values, levels, strict=True)]
    ours = [p < level for p, level in zip(p_values, levels, strict=True)]
    assert [o for o, c in zip(ours, clear, strict=True) if c] == [bool(r) for r, c in zip(rejected, clear, strict=True) if c]


def test_what_cannot_be_judged_is_refused() -> None:
    for confidence, right, bins in (([], [], 5), ([0.5], [1, 0], 5), ([1.5], [1], 5), ([math.nan], [1], 5), ([0.5], [1], 0)):
        with pytest.raises(ValueError):
            calibration_error(confidence, right, bins)
    with pytest.raises(ValueError):
        kappa(["a"], [])
