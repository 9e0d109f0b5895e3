"""Intervals and exact tests for one share, for paired shares, and for cluster differences.

Small samples are the rule here, not the exception: 60 questions of which 5 flip have no normal distribution. So shares get
Wilson's interval, paired shares Tango's score interval, and "no difference" is tested by exact sign flips, which for yes/no
outcomes is exact McNemar. How often the intervals hold the truth is computed and simulated in
tests/weigh/statistics/test_coverage.py and by `make accept NAME=coverage`.

Legend: n samples (or effective samples, a real number, under clustering), G clusters, `alpha` the two-sided error rate.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy
from scipy import stats

from steelyard.core.seeds import derive

Interval = tuple[float, float]


@functools.lru_cache(maxsize=1024)
def normal_quantile(alpha: float) -> float:
    """The two-sided critical value of the standard normal distribution."""
    return float(stats.norm.isf(alpha / 2))


@functools.lru_cache(maxsize=1024)
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


def tango(gained: float, lost: float, n: float, critical: float) -> Interval:
    """Tango's score interval for the difference of two paired shares (Statistics in Medicine 17, 1998).

    With g samples gained (arm right, base wrong) and l lost, it holds every delta with

        |g - l - n delta| <= z sqrt(n (2 q + delta (1 - delta))),

    q being the constrained maximum-likelihood share of losses. At delta = 0 that is McNemar's test. Unlike the usual normal
    interval it has a width when nothing flipped: 0 of 50 still allows +-7 points.

    Args:
        gained, lost, n: counts; effective counts may be fractions.
        critical: the critical value z.
    """

    def holds(delta: float) -> bool:
        b = -gained - lost + (2 * n - gained + lost) * delta
        c = -lost * delta * (1 - delta)
        loss_share = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * loss_share + delta * (1 - delta))
        return abs(gained - lost - n * delta) <= critical * math.sqrt(max(variance, 0.0))

    def edge(inside: float, outside: float) -> float:
        for _ in range(60):  # bisection: 2 / 2**60 is below the precision of the numbers
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if holds(middle) else (inside, middle)
        return inside

    estimate = (gained - lost) / n
    return edge(estimate, -1.0), edge(estimate, 1.0)


def mcnemar_exact(gained: int, lost: int, mid: bool = False) -> float:
    """Two-sided exact McNemar: the chance of flips at least this lopsided if each were a coin toss.

    Counts are whole, so the exact test errs less often than it says: of 30 flips it calls 4.3% lopsided at 5%, of 10 flips 2.1%.
    `mid` counts the outcome seen by half (the mid-p of H. Lancaster, JASA 56, 1961), which brings it to the stated rate and hardly
    ever above (M. Fagerland, S. Lydersen & P. Laake, BMC Medical Research Methodology 13:91, 2013).
    """
    flips, fewer = gained + lost, min(gained, lost)
    if gained == lost:
        return 1.0
    seen = float(stats.binom.pmf(fewer, flips, 0.5)) if mid else 0.0
    return min(1.0, 2 * float(stats.binom.cdf(fewer, flips, 0.5)) - seen)


ENUMERATED = 14  # 2^14 sign patterns take a millisecond


def sign_flip(differences: numpy.ndarray, mid: bool = False) -> float | None:
    """Exact two-sided sign-flip test of "the cluster differences are symmetric about zero".

    Whole numbers (yes/no outcomes summed over a cluster) are convolved; anything else is enumerated while at most
    `ENUMERATED` differences are not zero.

    Args:
        differences: float64 [G], one per cluster, summing to the effect.
        mid: count sums as large as the one seen by half, as in `mcnemar_exact`.

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
        sums = numpy.abs(2 * numpy.arange(chance.size) - int(whole.sum()))
        room = 0.5
    elif sizes.size <= ENUMERATED:
        signs = 1 - 2 * ((numpy.arange(2**sizes.size)[:, None] >> numpy.arange(sizes.size)) & 1)
        sums = numpy.abs(signs @ sizes)
        chance = numpy.full(sums.size, 1 / sums.size)
        room = observed * 1e-12
    else:
        return None
    if observed <= room:
        return 1.0
    larger, equal = float(chance[sums > observed + room].sum()), float(chance[numpy.abs(sums - observed) <= room].sum())
    return min(1.0, larger + (equal / 2 if mid else equal))


RESAMPLES = 2000


DRAWN = 4_000_000
"""Draws of clusters held in memory at a time."""


def studentised(base: numpy.ndarray, arm: numpy.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> numpy.ndarray | None:
    """Bootstrap distribution of Student's t of a difference of ratios (bootstrap-t, Efron 1982): it knows about skew.

    Clusters are drawn with all they hold, denominators too: of clusters of unequal size some resamples hold more samples than
    others, and fixing the total makes intervals too short.

        t = (theta_arm - theta_base of the resample, less those of all) / error of the resample, linearised

    Args:
        base: float64 [G, 2], numerators and denominators summed over each cluster.
        arm: the same for the arm.
        seed: equal seeds give equal draws.
        resamples: number of draws.

    Returns:
        float64 [resamples], sorted; None for fewer than 8 clusters or no variation, where it means little.
    """
    groups = len(base)
    totals = [side.sum(axis=0) for side in (arm, base)]
    # Residuals about each side's ratio instead of numerators: the sums below then lose no digits where ratios are large.
    columns = [(side[:, 0] - total[0] / total[1] * side[:, 1], side[:, 1]) for side, total in zip((arm, base), totals, strict=True)]
    influence = columns[0][0] / totals[0][1] - columns[1][0] / totals[1][1]
    if groups < 8 or not influence.std():
        return None
    parts = numpy.stack([column for side in columns for column in side], axis=1)  # [G, 4]
    products = (parts[:, :, None] * parts[:, None, :]).reshape(groups, 16)
    draw = numpy.random.default_rng(derive(seed, "bootstrap-t"))
    found, rows = [], max(1, DRAWN // groups)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        places = draw.integers(0, groups, size=(count, groups)) + groups * numpy.arange(count)[:, None]
        times = numpy.bincount(places.reshape(-1), minlength=count * groups).reshape(count, groups).astype(numpy.float64)
        sums, moments = times @ parts, (times @ products).reshape(count, 4, 4)
        with numpy.errstate(divide="ignore", invalid="ignore"):
            up, down = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]  # how far each side's ratio moved
            weights = numpy.stack([1 / sums[:, 1], -up / sums[:, 1], -1 / sums[:, 3], down / sums[:, 3]], axis=1)
            spread = numpy.einsum("ri,rij,rj->r", weights, moments, weights)
            error = numpy.sqrt(numpy.maximum(spread, 0.0) * groups / (groups - 1))
            error[error < 1e-9 * influence.std()] = 0.0  # a resample of equals, but for the last digits
            found.append((up - down) / error)
    return numpy.sort(numpy.nan_to_num(numpy.concatenate(found), nan=0.0, posinf=1e6, neginf=-1e6))


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
