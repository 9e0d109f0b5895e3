"""How often an interval holds the truth: computed exactly for pairs of yes and no, simulated with fixed draws for the rest.

The long simulations, of more forms, are `make accept NAME=coverage`.
"""

import functools

import numpy
import pytest
from scipy import stats

from steelyard.weigh.cells.cells import contrast, finish_all
from steelyard.weigh.cells.drafts import Draft
from steelyard.weigh.statistics.intervals import mcnemar_exact, sign_flip, studentised
from steelyard.weigh.statistics.paired import Pairs, compare, estimate
from steelyard.weigh.tasks.task import Metric


@functools.cache
def interval(n, gained, lost):
    if gained < lost:  # which of the two is called the arm makes no difference
        low, high = interval(n, lost, gained)
        return -high, -low
    base, arm = numpy.ones((n, 2)), numpy.ones((n, 2))
    base[:gained, 0] = arm[gained : gained + lost, 0] = 0
    return compare(Pairs(base, arm, numpy.arange(n)), binary=True, bounded=True).interval(0.05)


def coverage(n, gain, loss):
    """Probability that the interval of n independent pairs holds gain - loss, summed over all counts that are at all likely."""
    total = 0.0
    for gained in range(int(stats.binom.isf(1e-3, n, gain)) + 1):
        for lost in range(int(stats.binom.isf(1e-3, n, loss)) + 1):
            chance = stats.binom.pmf(gained, n, gain) * stats.binom.pmf(lost, n - gained, loss / (1 - gain))
            if chance > 1e-4:
                low, high = interval(n, gained, lost)
                total += chance * (low - 1e-12 <= gain - loss <= high + 1e-12)
    return total


@pytest.mark.parametrize(
    ("n", "gain", "loss"),
    [(60, 0.2, 0.2), (60, 0.35, 0.05), (300, 0.05, 0.05), (300, 0.06, 0.04), (1000, 0.01, 0.01), (1000, 0.018, 0.006)],
)
def test_from_twenty_flips_on_an_interval_holds_the_truth_94_to_96_times_in_a_hundred(n, gain, loss):
    assert 0.94 <= coverage(n, gain, loss) <= 0.96


@pytest.mark.parametrize(("n", "gain", "loss"), [(30, 0.15, 0.15), (150, 0.045, 0.015), (1000, 0.006, 0.004)])
def test_between_five_and_twenty_flips_it_does_so_about_as_often(n, gain, loss):
    assert 0.93 <= coverage(n, gain, loss) <= 0.98


@pytest.mark.parametrize(("n", "gain", "loss"), [(30, 0.05, 0.05), (150, 0.015, 0.005), (1000, 0.002, 0.001)])
def test_of_fewer_than_five_flips_it_errs_to_the_wide_side(n, gain, loss):
    assert coverage(n, gain, loss) >= 0.965


def in_clusters(draw, sizes, shift):
    """Yes or no where clusters share what is easy and part of what changes; the true difference is of normal probabilities."""
    codes = numpy.repeat(numpy.arange(len(sizes)), sizes)
    easy, changed = draw.standard_normal((2, len(sizes)))[:, codes]
    one, other = draw.standard_normal((2, len(codes)))
    base, arm = one + easy < 0.3 * 2**0.5, 0.7 * one + 0.51**0.5 * other + easy + 0.6 * changed < (0.3 + shift) * 2.36**0.5
    ones = numpy.ones(len(codes))
    return Pairs(numpy.c_[base, ones].astype(float), numpy.c_[arm, ones].astype(float), codes)


@pytest.mark.parametrize("sizes", [[5] * 40, [4] * 120, [1, 2, 3, 4, 6, 10] * 10], ids=["40x5", "120x4", "unequal"])
def test_intervals_of_answers_in_clusters_hold_the_truth_about_as_often_as_they_say(sizes):
    draw, runs, held = numpy.random.default_rng(21), 300, {}
    for shift in (0.0, 0.25):
        truth = float(stats.norm.cdf(0.3 + shift) - stats.norm.cdf(0.3))
        for _ in range(runs):
            low, high = compare(in_clusters(draw, sizes, shift), binary=True, bounded=True).interval(0.05)
            held[shift] = held.get(shift, 0) + (low <= truth <= high)
    # Of 600 draws a share of 95% lies between 92.3% and 97.7% in all but three of a thousand sets of draws.
    assert 0.923 <= sum(held.values()) / (2 * runs) <= 0.977


@pytest.mark.parametrize(("sizes", "alike"), [([5] * 40, 0.0), ([5] * 40, 0.8), ([4] * 120, 0.4), ([1, 2, 3, 4, 6, 10] * 10, 0.8)])
def test_a_share_near_the_ceiling_holds_the_truth_as_often_as_it_says_and_is_no_wider_than_its_clusters_are_alike(sizes, alike):
    draw, runs, codes = numpy.random.default_rng(4), 400, numpy.repeat(numpy.arange(len(sizes)), sizes)
    held, widths = 0, []
    for _ in range(runs):
        shared, own = draw.standard_normal(len(sizes))[codes], draw.standard_normal(len(codes))
        right = alike**0.5 * shared + (1 - alike) ** 0.5 * own < stats.norm.ppf(0.98)
        found = estimate(numpy.c_[right, numpy.ones(len(codes))].astype(float), codes, binary=True)
        assert found is not None and found.interval is not None
        low, high = found.interval
        held += low <= 0.98 <= high
        widths.append(high - low)
    assert held / runs >= 0.925  # of 400 draws a share of 95% lies below in one of a hundred sets of draws
    if not alike:  # 200 answers that have nothing to do with one another: far from the width of 40
        assert numpy.median(widths) < 0.08


def test_intervals_of_numbers_in_clusters_of_unequal_size_hold_the_truth_about_as_often_as_they_say():
    draw, runs, held = numpy.random.default_rng(22), 500, 0
    sizes = [1, 2, 3, 4, 6, 10] * 6
    codes = numpy.repeat(numpy.arange(36), sizes)
    ones = numpy.ones(len(codes))
    for _ in range(runs):
        hard, moved = draw.standard_normal(len(codes)), 0.5 * draw.standard_normal(36)[codes]
        arm = hard + 0.1 + moved + 0.5 * draw.standard_normal(len(codes))
        low, high = compare(Pairs(numpy.c_[hard, ones], numpy.c_[arm, ones], codes)).interval(0.05)
        held += low <= 0.1 <= high
    assert 0.92 <= held / runs <= 0.979


def test_the_bootstrap_of_a_mean_is_that_of_the_textbook():
    values, ones = numpy.random.default_rng(23).exponential(1, 40), numpy.ones(40)
    ours = studentised(numpy.c_[numpy.zeros(40), ones], numpy.c_[values, ones], resamples=500)
    drawn = values[numpy.random.default_rng(24).integers(0, 40, (20_000, 40))]
    theirs = (drawn.mean(axis=1) - values.mean()) / (drawn.std(axis=1, ddof=1) / 40**0.5)
    assert stats.ks_2samp(ours, theirs).pvalue > 0.01


def test_no_interval_of_a_dozen_changes_reaches_to_absurd_ends():
    draw = numpy.random.default_rng(27)
    for _ in range(60):
        change = (draw.random(14) < 0.8) * draw.choice([1.0, 1.0, -1.0], 14)
        found = compare(Pairs(numpy.c_[numpy.zeros(14), numpy.ones(14)], numpy.c_[change, numpy.ones(14)], numpy.arange(14)))
        low, high = found.interval(0.05)
        assert high - low <= max(3 * 2 * 2.17 * (found.standard_error or 0.0), 2.0)


def test_the_bootstrap_draws_the_same_where_memory_is_short(monkeypatch):
    side = numpy.random.default_rng(25).random((2, 30, 2)) + 0.1
    whole = studentised(side[0], side[1], resamples=101)
    monkeypatch.setattr("steelyard.weigh.statistics.intervals.DRAWN", 700)
    assert studentised(side[0], side[1], resamples=101) == pytest.approx(whole)


def test_mid_p_counts_the_outcome_seen_by_half():
    for gained, lost in [(5, 0), (9, 2), (20, 30), (4, 4), (0, 0)]:
        seen = stats.binom.pmf(gained, gained + lost, 0.5) * (2 if gained != lost else 0)
        assert mcnemar_exact(gained, lost, mid=True) == pytest.approx(mcnemar_exact(gained, lost) - seen / 2)
        flips = numpy.array([1.0] * gained + [-1.0] * lost)
        assert sign_flip(flips, mid=True) == pytest.approx(mcnemar_exact(gained, lost, mid=True))
        assert sign_flip(flips * 0.3, mid=True) in (None, pytest.approx(mcnemar_exact(gained, lost, mid=True)))
    sizes = numpy.array([3.0, -1.0, 2.0, 2.0, -4.0, 1.0])
    assert sign_flip(sizes, mid=True) == pytest.approx(sign_flip(sizes * 0.37, mid=True))


def test_five_in_a_hundred_reports_without_a_change_claim_one_at_most():
    """Four arms that differ from the base by luck alone, in 200 reports, judged by Holm's procedure."""
    draw, false, reports = numpy.random.default_rng(26), 0, 200
    metric, names = Metric("right", "quality", "share", True, margin=0.001, binary=True), ("a", "b", "c", "d")
    for number in range(reports):
        codes = numpy.arange(80) // (1, 4)[number % 2]
        chance = numpy.clip(draw.beta(2, 1, 80)[codes], 0, 1)
        clusters = [str(code) for code in codes]
        base = [float(value) for value in draw.random(80) < chance]
        arms = {name: [float(value) for value in draw.random(80) < chance] for name in names}
        drafts = [Draft(name, "task", metric, contrast(metric, base, [arms[name]], clusters)) for name in names]
        cells = finish_all(drafts, {name: ("task", "right") for name in names})
        false += any(cell.verdict == "better" for cell in cells)
    assert false / reports < 0.05
