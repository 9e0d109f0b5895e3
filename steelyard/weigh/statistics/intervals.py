"""Intervals and exact tests for one share, for paired shares, and for cluster differences.

Small samples are the rule here, not the exception: 60 questions of which 5 flip have no normal distribution. So shares get
Wilson's interval, paired shares Tango's score interval, and every test of "no difference" is an exact sign-flip test, which
for yes/no outcomes is exact McNemar. Their coverage is simulated in tests/weigh/statistics/test_intervals.py.

Legend: n samples (or effective samples, a real number, under clustering), G clusters, `alpha` the two-sided error rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy
from scipy import stats

from steelyard.core.seeds import derive

Interval = tuple[float, float]


def normal_quantile(alpha: float) -> float:
    """The two-sided critical value of the standard normal distribution."""
    return float(stats.norm.isf(alpha / 2))


def student_quantile(alpha: float, degrees: float) -> float:
    """The two-sided critical value of Student's t."""
    return float(stats.t.isf(alpha / 2, degrees))


def wilson(successes: float, n: float, alpha: float) -> Interval:
    """Wilson's score interval for a share (1927). Real numbers are allowed: effective counts under clustering.

    Raises:
        ValueError: for n <= 0.
    """
    if n <= 0:
        raise ValueError("a share needs at least one sample")
    z2, share = normal_quantile(alpha) ** 2, successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # Algebra gives exactly 0 and 1 at the ends; floating point would miss them by a hair, and "is zero inside?" is asked later.
    low = 0.0 if successes <= 0 else max(0.0, centre - half)
    high = 1.0 if successes >= n else min(1.0, centre + half)
    return low, high


def tango(gained, lost, n, critical):
    """Tango's score interval for the difference of two paired shares (Statistics in Medicine 17, 1998).

    With g samples gained (arm right, base wrong) and l lost, it holds every delta with

        |g - l - n delta| <= z sqrt(n (2 q + delta (1 - delta))),

    q being the constrained maximum-likelihood share of losses. At delta = 0 that is McNemar's test. Unlike the usual normal
    interval it has a width when nothing flipped: 0 of 50 still allows +-7 points.

    Args:
        gained, lost, n: counts, scalars or arrays that broadcast; effective counts may be fractions.
        critical: the critical value z.

    Returns:
        low and high, float64, with the broadcast shape.
    """
    gained, lost, n, critical = numpy.broadcast_arrays(*(numpy.asarray(x, dtype=numpy.float64) for x in (gained, lost, n, critical)))

    def excess(delta):
        b = -gained - lost + (2 * n - gained + lost) * delta
        c = -lost * delta * (1 - delta)
        loss_share = (numpy.sqrt(numpy.maximum(b * b - 8 * n * c, 0)) - b) / (4 * n)
        variance = n * (2 * loss_share + delta * (1 - delta))
        return gained - lost - n * delta, critical * numpy.sqrt(numpy.maximum(variance, 0))

    def edge(inside, outside):
        for _ in range(60):  # bisection: 2 / 2**60 is below the precision of the numbers
            middle = (inside + outside) / 2
            distance, allowed = excess(middle)
            holds = numpy.abs(distance) <= allowed
            inside, outside = numpy.where(holds, middle, inside), numpy.where(holds, outside, middle)
        return inside

    estimate = (gained - lost) / n
    return edge(estimate, numpy.full_like(estimate, -1.0)), edge(estimate, numpy.full_like(estimate, 1.0))


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided exact McNemar: the chance of flips at least this lopsided if each were a coin toss."""
    flips = gained + lost
    return 1.0 if flips == 0 else min(1.0, 2 * float(stats.binom.cdf(min(gained, lost), flips, 0.5)))


ENUMERATED = 14  # 2^14 sign patterns take a millisecond


def sign_flip(differences: numpy.ndarray) -> float | None:
    """Exact two-sided sign-flip test of "the cluster differences are symmetric about zero".

    Whole numbers (yes/no outcomes summed over a cluster) are convolved; anything else is enumerated while at most
    `ENUMERATED` differences are not zero.

    Args:
        differences: float64 [G], one per cluster, summing to the effect.

    Returns:
        The p-value, or None where it is not whole and too many to enumerate (then Student's t is good enough).
    """
    sizes = numpy.abs(differences[differences != 0])
    observed = abs(float(differences.sum()))
    if not sizes.size:
        return 1.0
    whole = numpy.rint(sizes)
    if numpy.array_equal(whole, sizes) and whole.sum() < 100_000:
        chance = numpy.ones(1)  # chance[k]: probability that k units carry a plus sign
        for size in whole.astype(int):
            spread = numpy.zeros(chance.size + size)
            spread[: chance.size] += chance / 2
            spread[size:] += chance / 2
            chance = spread
        sums = 2 * numpy.arange(chance.size) - int(whole.sum())
        return min(1.0, float(chance[numpy.abs(sums) >= observed - 0.5].sum()))
    if sizes.size > ENUMERATED:
        return None
    signs = 1 - 2 * ((numpy.arange(2**sizes.size)[:, None] >> numpy.arange(sizes.size)) & 1)
    return float(numpy.mean(numpy.abs(signs @ sizes) >= observed * (1 - 1e-12)))


RESAMPLES = 2000


def studentised(influences: numpy.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> numpy.ndarray | None:
    """Bootstrap distribution of Student's t over clusters (bootstrap-t, Efron 1982): it knows about skew, the normal does not.

    Args:
        influences: float64 [G], each cluster's part of the estimate, centred on zero.
        seed: equal seeds give equal draws.
        resamples: number of draws.

    Returns:
        float64 [resamples], sorted; None for fewer than 8 clusters or no variation, where it means little.
    """
    groups = len(influences)
    if groups < 8 or not influences.std():
        return None
    drawn = influences[numpy.random.default_rng(derive(seed, "bootstrap-t")).integers(0, groups, size=(resamples, groups))]
    error = drawn.std(axis=1, ddof=1) / math.sqrt(groups)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        t = (drawn.mean(axis=1) - influences.mean()) / error
    return numpy.sort(numpy.nan_to_num(t, nan=0.0, posinf=1e6, neginf=-1e6))


def bootstrap(
    statistic: Callable[[numpy.ndarray], numpy.ndarray], clusters: int, alpha: float, seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Percentile bootstrap over clusters, seeded: for figures with no formula, such as a 95th percentile of latencies.

    The percentiles are widened by Student's t and by sqrt(G / (G - 1)) (Hesterberg 2015), without which small samples give
    intervals that are too short.

    Args:
        statistic: int64 [resamples, G] indices of drawn clusters -> float64 [resamples].
        clusters: G, at least 2.
        alpha: two-sided error rate.
        seed: equal seeds give equal intervals.
        resamples: number of draws.

    Raises:
        ValueError: with fewer than two clusters.
    """
    if clusters < 2:
        raise ValueError("a bootstrap needs at least two clusters")
    draw = numpy.random.default_rng(derive(seed, "bootstrap"))
    values = statistic(draw.integers(0, clusters, size=(resamples, clusters)))
    wider = math.sqrt(clusters / (clusters - 1)) * student_quantile(alpha, clusters - 1)
    tail = float(stats.norm.sf(wider))
    low, high = numpy.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
