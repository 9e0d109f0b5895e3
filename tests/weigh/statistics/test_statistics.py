"""Paired statistics: coverage by simulation, exact tests, and intervals that never disagree with their p-values."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from steelyard.weigh.statistics.intervals import bootstrap, mcnemar_exact, sign_flip, tango, wilson
from steelyard.weigh.statistics.multiplicity import holm_levels
from steelyard.weigh.statistics.paired import Pairs, compare, estimate, pair, spread_over_seeds
from steelyard.weigh.statistics.power import detectable, samples_to_settle


def binary_pairs(gained, lost, both, neither, clusters=None):
    base = [0] * gained + [1] * lost + [1] * both + [0] * neither
    arm = [1] * gained + [0] * lost + [1] * both + [0] * neither
    return pair(base, arm, clusters or [""] * len(base))


def test_wilson_equals_scipys():
    for successes, n in [(0, 10), (3, 10), (10, 10), (57, 200)]:
        theirs = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
        assert wilson(successes, n, 0.05) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_mcnemar_equals_the_binomial_test_and_the_sign_flip_test():
    for gained, lost in [(0, 0), (1, 0), (5, 0), (9, 2), (20, 30)]:
        expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        assert mcnemar_exact(gained, lost) == pytest.approx(expected)
        assert sign_flip(numpy.array([1.0] * gained + [-1.0] * lost + [0.0] * 7)) == pytest.approx(expected)


def test_sign_flips_of_whole_and_of_real_numbers_agree():
    whole = numpy.array([3.0, -1.0, 2.0, 2.0, -4.0, 1.0])
    assert sign_flip(whole) == pytest.approx(sign_flip(whole * 0.37))


def test_tango_keeps_a_width_when_nothing_flipped():
    low, high = tango(0, 0, 50, 1.96)
    assert (low, high) == pytest.approx((-0.0714, 0.0714), abs=2e-4)  # z^2 / (n + z^2)


def test_tango_solves_its_own_equation():
    # Tango (1998), section 3: the limits are where the constrained score statistic equals the critical value.
    gained, lost, n, z = 9, 2, 44, 1.959964
    for delta in tango(gained, lost, n, z):
        a, b, c = 2 * n, -gained - lost + (2 * n - gained + lost) * delta, -lost * delta * (1 - delta)
        q = (math.sqrt(b * b - 4 * a * c) - b) / (2 * a)
        assert abs(gained - lost - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta))) == pytest.approx(z, abs=1e-6)


@pytest.mark.parametrize(("n", "gain", "loss"), [(20, 0.1, 0.1), (50, 0.02, 0.02), (50, 0.1, 0.02), (200, 0.01, 0.0), (100, 0.3, 0.05)])
def test_tango_covers_the_true_difference_where_the_normal_interval_fails(n, gain, loss):
    draw = numpy.random.default_rng(1)
    gained, lost, _ = draw.multinomial(n, [gain, loss, 1 - gain - loss], size=20_000).T
    seen = {counts: tango(*counts, n, 1.96) for counts in set(zip(gained.tolist(), lost.tolist(), strict=True))}
    low, high = numpy.array([seen[counts] for counts in zip(gained.tolist(), lost.tolist(), strict=True)]).T
    assert numpy.mean((low <= gain - loss) & (gain - loss <= high)) > 0.945


def simulate_clustered(draw, groups, size, shared, flip, effect):
    clusters = numpy.repeat(numpy.arange(groups), size)
    luck = numpy.where(draw.random(len(clusters)) < shared, draw.random(groups)[clusters], draw.random(len(clusters)))
    base = (draw.random(len(clusters)) < 0.5).astype(float)
    up, down = luck < flip / 2 + effect, luck > 1 - flip / 2
    base, arm = numpy.where(up, 0, numpy.where(down, 1, base)), numpy.where(up, 1, numpy.where(down, 0, base))
    ones = numpy.ones(len(clusters))
    return Pairs(numpy.c_[base, ones], numpy.c_[arm, ones], clusters)


@pytest.mark.parametrize(
    ("groups", "size", "shared", "flip", "effect"), [(60, 1, 0.0, 0.2, 0.0), (20, 4, 0.8, 0.2, 0.15), (12, 6, 1.0, 0.2, 0.0)]
)
def test_intervals_of_yes_or_no_outcomes_cover_under_clustering(groups, size, shared, flip, effect):
    draw, covered, runs = numpy.random.default_rng(2), 0, 300
    for _ in range(runs):
        low, high = compare(simulate_clustered(draw, groups, size, shared, flip, effect), binary=True, bounded=True).interval(0.05)
        covered += low <= effect <= high
    assert covered / runs > 0.925  # binomial error of 300 runs is 1.3 points


def test_a_clustered_paired_difference_worked_out_by_hand():
    # Clusters with differences (1, 0), (0), (1, 1, 0): mean 3/6. Without each cluster in turn it is 2/4, 3/5, 1/3, mean .47778;
    # squared deviations .00049 + .01494 + .02086 = .03630; times (G - 1) / G = 2/3; root .15556. t(2) at 95 % is 4.3027.
    found = compare(pair([0.0] * 6, [1.0, 0.0, 0.0, 1.0, 1.0, 0.0], ["a", "a", "b", "c", "c", "c"]))
    assert found.difference == 0.5 and found.n == 6
    assert found.standard_error == pytest.approx(0.155556, abs=1e-6)
    assert found.interval(0.05) == pytest.approx((0.5 - 0.66931, 0.5 + 0.66931), abs=1e-4)


def test_pairs_without_clusters_give_the_paired_t_test():
    draw = numpy.random.default_rng(10)
    base = draw.normal(0, 1, 30)
    arm = base + draw.normal(0.3, 0.5, 30)
    found, theirs = compare(pair(base, arm, [""] * 30)), stats.ttest_rel(arm, base)
    interval = theirs.confidence_interval(0.95)
    assert found.standard_error == pytest.approx((interval.high - interval.low) / 2 / stats.t.isf(0.025, 29))
    assert found.p_value >= theirs.pvalue and found.interval()[0] <= interval.low and found.interval()[1] >= interval.high


def test_ignoring_clusters_would_have_claimed_too_much():
    draw, wrong, right, runs = numpy.random.default_rng(3), 0, 0, 300
    for _ in range(runs):
        pairs = simulate_clustered(draw, 20, 8, 1.0, 0.4, 0.0)
        alone = Pairs(pairs.base, pairs.arm, numpy.arange(pairs.n))
        wrong += compare(alone, binary=True).p_value < 0.05
        right += compare(pairs, binary=True).p_value < 0.05
    assert wrong / runs > 0.2 and right / runs <= 0.075


@pytest.mark.parametrize(("groups", "size"), [(30, 1), (60, 3)])
def test_intervals_of_ratios_cover(groups, size):
    draw, covered, runs = numpy.random.default_rng(4), 0, 300
    for _ in range(runs):
        clusters = numpy.repeat(numpy.arange(groups), size)
        lengths = draw.integers(50, 400, len(clusters)).astype(float)
        rate = 1.0 + 0.2 * draw.standard_normal(groups)[clusters]
        change = 0.02 + 0.05 * draw.standard_normal(groups)[clusters]
        pairs = Pairs(numpy.c_[rate * lengths, lengths], numpy.c_[(rate + change) * lengths, lengths], clusters)
        low, high = compare(pairs).interval(0.05)
        covered += low <= 0.02 <= high
    assert covered / runs > 0.92


def few_changes(draw, n, chance, up, sizes):
    """n samples of which few change, by one of `sizes`, up with probability `up`."""
    change = (draw.random(n) < chance) * numpy.where(draw.random(n) < up, 1, -1) * draw.choice(sizes, n)
    ones = numpy.ones(n)
    return Pairs(numpy.c_[numpy.zeros(n), ones], numpy.c_[change, ones], numpy.arange(n))


@pytest.mark.parametrize("n", [30, 80])
@pytest.mark.parametrize("chance", [0.04, 0.1])
@pytest.mark.parametrize("up", [0.5, 0.8, 1.0])
def test_intervals_of_few_changes_cover_and_stay_as_narrow_as_the_changes_allow(n, chance, up):
    draw, covered, widths, runs = numpy.random.default_rng(11), 0, [], 200
    truth = chance * (2 * up - 1) * 1.5
    for _ in range(runs):
        low, high = compare(few_changes(draw, n, chance, up, [1.0, 2.0]), span=2.0).interval(0.05)
        covered += low <= truth <= high
        widths.append(high - low)
    assert covered / runs > 0.94
    # With the bootstrap-t the median was up to 25,000 at n = 80, where a resample without one change has no spread.
    assert numpy.median(widths) < (0.75 if n == 30 else 0.35) and max(widths) < 1.0


def test_a_handful_of_changes_gives_a_width_that_makes_sense():
    base, arm = [0.0] * 60, [1.0, 1.0, 1.0, 1.0, -1.0] + [0.0] * 55
    low, high = compare(pair(base, arm, [""] * 60), span=2.0).interval(0.05)
    assert -0.1 < low < 0 < 0.05 < high < 0.3
    low, high = compare(pair(base, arm, [""] * 60)).interval(0.05)  # no bounds: the largest change seen stands for them
    assert -0.05 < low < 0 < 0.05 < high < 0.15


def test_a_share_of_few_answers_is_as_doubtful_as_those_few():
    answered = [(1.0, 1.0), (0.0, 1.0), (1.0, 1.0), (1.0, 1.0)] + [(0.0, 0.0)] * 40
    changed = [(0.0, 1.0), (0.0, 1.0), (1.0, 1.0), (1.0, 1.0)] + [(0.0, 0.0)] * 39 + [(1.0, 1.0)]
    low, high = compare(pair(answered, changed, [""] * 44), span=1.0).interval(0.05)
    assert -1.0 <= low < -0.5 and 0.3 < high <= 1.0


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from([0.0, 0.25, 1.0])), min_size=2, max_size=40),
    ratio=st.booleans(),
    groups=st.integers(2, 40),
)
def test_no_interval_reaches_beyond_what_a_metric_can(rows, ratio, groups):
    base, arm = ([(row[side], 1.0) if ratio else row[side] for row in rows] for side in (0, 1))
    found = compare(pair(base, arm, [str(i % groups) for i in range(len(rows))]), bounded=not ratio, span=1.0)
    interval = found.interval(0.05)
    if interval is not None:
        assert -1 <= interval[0] <= found.difference <= interval[1] <= 1
        assert (interval[0] > 0 or interval[1] < 0) <= (found.p_value < 0.05)


def test_a_ratio_divides_sums_and_not_samples():
    found = compare(pair([(1.0, 1.0), (0.0, 9.0)], [(2.0, 1.0), (0.0, 9.0)], ["", ""]))
    assert found.base.value == pytest.approx(0.1) and found.difference == pytest.approx(0.1)


def test_pairing_sees_what_an_unpaired_test_misses():
    draw = numpy.random.default_rng(5)
    hard = draw.normal(0, 1, 40)
    base, arm = hard, hard + 0.05 + draw.normal(0, 0.02, 40)
    assert compare(pair(base, arm, [""] * 40)).p_value < 0.0011  # as small as 2000 resamples can say
    assert stats.ttest_ind(base, arm).pvalue > 0.3


@settings(max_examples=300, deadline=None)
@given(
    counts=st.tuples(*[st.integers(0, 25)] * 4).filter(sum),
    groups=st.integers(1, 12) | st.none(),
    alpha=st.sampled_from([0.05, 0.025, 0.01]),
)
def test_an_interval_excludes_zero_only_when_its_p_value_is_below_alpha(counts, groups, alpha):
    n = sum(counts)
    found = compare(
        binary_pairs(*counts, clusters=None if groups is None else [str(i % groups) for i in range(n)]), binary=True, bounded=True
    )
    interval = found.interval(alpha)
    if interval is None:
        assert found.p_value is None
        return
    low, high = interval
    assert low <= found.difference <= high
    assert (low > 0 or high < 0) == (found.p_value < alpha)
    assert low >= -1 and high <= 1 or groups is not None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=2, max_size=40), st.sampled_from([0.05, 0.01]))
def test_intervals_of_numbers_agree_with_their_p_values(rows, alpha):
    found = compare(pair([a for a, _ in rows], [b for _, b in rows], [""] * len(rows)))
    low, high = found.interval(alpha)
    assert low <= found.difference <= high
    if low > 0 or high < 0:
        assert found.p_value < alpha


def test_one_cluster_gives_a_difference_and_no_interval():
    found = compare(pair([1.0, 2.0], [2.0, 3.0], ["same", "same"]))
    assert found.difference == 1.0 and found.interval() is None and found.p_value is None


def test_a_metric_that_applies_nowhere_has_no_comparison():
    assert compare(pair([None, None], [1.0, None], ["", ""])) is None
    assert compare(pair([], [], [])) is None
    assert estimate(numpy.zeros((0, 2)), numpy.zeros(0, dtype=int)) is None


def test_samples_where_a_metric_applies_to_one_side_only_still_count_for_that_side():
    found = compare(pair([1.0, None, 0.0, 1.0], [1.0, 0.0, None, 1.0], [""] * 4))
    assert found.base.value == pytest.approx(2 / 3) and found.value.value == pytest.approx(2 / 3) and found.n == 4


def test_holm_is_never_stricter_than_bonferroni_and_agrees_with_its_own_intervals():
    draw = numpy.random.default_rng(6)
    for _ in range(200):
        p_values = list(draw.random(5) ** 4)
        levels = holm_levels(p_values, 0.05)
        assert all(level >= 0.05 / 5 - 1e-12 for level in levels)
        order = sorted(range(5), key=lambda i: p_values[i])
        rejected, still = set(), True
        for step, position in enumerate(order):  # the textbook procedure
            still = still and p_values[position] < 0.05 / (5 - step)
            if still:
                rejected.add(position)
        assert rejected == {i for i in range(5) if p_values[i] < levels[i]}


def test_holm_on_a_worked_example():
    # p-values .005, .01, .03, .04 at .05: .005 < .05/4 and .01 < .05/3 pass; .03 > .05/2 fails, and with it all the rest.
    assert holm_levels([0.01, 0.04, 0.03, 0.005], 0.05) == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4])


def test_holm_of_nothing_is_nothing():
    assert holm_levels([], 0.05) == []


def test_the_bootstrap_is_seeded_and_covers():
    draw, covered, runs = numpy.random.default_rng(7), 0, 200
    for run in range(runs):
        values = draw.normal(0, 1, 15)
        low, high = bootstrap(lambda rows, values=values: values[rows].mean(axis=1), 15, 0.05, seed=run, resamples=500)
        covered += low <= 0 <= high
    assert covered / runs > 0.9
    one, two = (bootstrap(lambda rows: values[rows].mean(axis=1), 15, 0.05, seed=3) for _ in range(2))
    assert one == two


def test_the_detectable_difference_is_detected_as_often_as_it_says():
    draw, n, deviation = numpy.random.default_rng(8), 40, 0.5
    size = detectable(deviation, n, 0.05)
    sample = draw.normal(size, deviation, (4000, n))
    t = sample.mean(axis=1) / (sample.std(axis=1, ddof=1) / math.sqrt(n))
    assert numpy.mean(t > stats.t.isf(0.025, n - 1)) == pytest.approx(0.8, abs=0.02)
    assert detectable(0.5, 1, 0.05) is None


def test_samples_to_settle_shrinks_the_interval_far_enough():
    more = samples_to_settle(0.05, (-0.03, 0.13), 0.02, 100, 0.05)
    assert more == pytest.approx(100 * (0.08 * 2.8 / 1.96 / 0.05) ** 2 - 100, rel=0.02)
    assert samples_to_settle(0.0, (-0.1, 0.1), 0.0, 100, 0.05) is None
    near = samples_to_settle(0.0, (-0.05, 0.05), 0.04, 100, 0.05)
    far = samples_to_settle(0.0, (-0.05, 0.05), 0.01, 100, 0.05)
    assert near < far


def test_seeds_that_disagree_widen_a_trained_arms_interval():
    draw = numpy.random.default_rng(9)
    found = compare(pair(draw.normal(0, 1, 60), draw.normal(0.5, 1, 60), [""] * 60))
    agreeing, disagreeing = spread_over_seeds(found, [0.5, 0.5, 0.5]), spread_over_seeds(found, [0.1, 0.5, 0.9])
    assert agreeing.interval() == found.interval()
    assert disagreeing.interval()[1] - disagreeing.interval()[0] > found.interval()[1] - found.interval()[0]
    assert agreeing.by_seeds == 0 and disagreeing.by_seeds == pytest.approx(0.16 / 3 / disagreeing.standard_error**2)
