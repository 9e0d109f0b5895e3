"""Paired comparison of an arm with the base, with errors that know which samples belong together.

Every metric is a ratio of sums over samples, theta = sum(a_i) / sum(b_i): a mean has b_i = 1, a rate its own denominators, and
a sample to which a metric does not apply has a_i = b_i = 0. The difference theta_arm - theta_base is estimated on the same
samples, so what makes a sample hard cancels. Its standard error is a delete-one-cluster jackknife (CR3 of Bell & McCaffrey
2002), which holds for ratios too and errs to the safe side when clusters are few.

A `Comparison` can be asked for its interval at any error rate, because Holm's procedure decides the rate later
(`steelyard.weigh.statistics.multiplicity`). Interval and p-value are two readings of one test: the interval excludes zero exactly when
the p-value is below alpha. Where an exact test is more careful than the interval's formula, the interval is stretched to
touch zero: it never claims more than the exact test does.

How often a 95% interval holds the truth (docs/reports.md has the figures, tests/weigh/statistics/test_coverage.py and
`make accept NAME=coverage` the simulations): 94 to 96 times in a hundred for yes/no outcomes of which 20 flip, and for yes/no outcomes and
numbers in 20 clusters or more of which ten changed. Outside that band, and to which side:

* between 5 and 20 flips 93 to 98 times, because counts are whole and no interval can hold the truth equally often everywhere; below 5
  flips 96 or more: wide. A metric near its ceiling has few flips;
* a dozen clusters 96 to 97 times, or fewer than ten changed clusters up to 100: wide;
* strongly skewed numbers up to 97, because two formulas are joined: wide. Fewer than 40 clusters as skewed as a lognormal, or clusters of
  which one holds a tenth of all samples, down to 90: too short, and nothing in the data can tell;
* rare changes of whole clusters of very unequal sizes, all one way, down to 93: too short.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from scipy import stats

from steelyard.weigh.samples import Value
from steelyard.weigh.statistics.intervals import Interval, normal_quantile, sign_flip, student_quantile, studentised, tango, wilson

ALPHA = 0.05  # two-sided error rate of every interval before adjustment
FEW = 10
"""Below this many changed clusters, formulas that estimate a variance are not trusted alone, and the bootstrap not at all.

A bootstrap sample of G clusters of which k changed holds none of the k with probability (1 - k/G)^G, about exp(-k): at k = 10 one
in 22,000, at k = 3 one in 20, so that the 97.5th percentile of its Student's t would divide by a spread of nothing.
"""

FARTHEST = 3.0
"""How many times Student's critical value the bootstrap-t may reach: beyond, it tells of resamples without spread, not of skew.

In 1,500 simulations of each of 30 forms (12 to 150 clusters; normal, skewed, mostly near zero) this took 0.6 points or less from how often
an interval holds the truth, but for 5 where it holds it in 73% at best, and made the widest of them shorter by factors of 3 to 10,000.
"""


@dataclass(frozen=True)
class Pairs:
    """Values of one metric for base and arm on the same samples.

    Attributes:
        base: float64 [n, 2], numerator and denominator per sample; (0, 0) where the metric does not apply.
        arm: the same for the arm.
        clusters: int64 [n]; samples with equal numbers depend on each other.
    """

    base: numpy.ndarray
    arm: numpy.ndarray
    clusters: numpy.ndarray

    @property
    def n(self) -> int:
        return len(self.clusters)

    @property
    def flat(self) -> bool:
        """Whether both are plain means: every denominator is one."""
        return bool(self.n and (self.base[:, 1] == 1).all() and (self.arm[:, 1] == 1).all())


def as_pair(value: Value) -> tuple[float, float]:
    """A sample's value as numerator and denominator."""
    if value is None:
        return 0.0, 0.0
    return (float(value[0]), float(value[1])) if isinstance(value, tuple) else (float(value), 1.0)


def pair(base: Sequence[Value], arm: Sequence[Value], clusters: Sequence[str]) -> Pairs:
    """Pairs from per-sample values in one order; "" is a cluster of its own. Samples where neither applies are left out."""
    both = numpy.array([(*as_pair(b), *as_pair(a)) for b, a in zip(base, arm, strict=True)], dtype=numpy.float64).reshape(-1, 4)
    numbers: dict[object, int] = {}
    codes = numpy.array([numbers.setdefault(name or position, len(numbers)) for position, name in enumerate(clusters)], dtype=numpy.int64)
    kept = (both != 0).any(axis=1)
    _, codes = numpy.unique(codes[kept], return_inverse=True)
    return Pairs(both[kept, :2], both[kept, 2:], codes.reshape(-1))


def _sum_by_cluster(values: numpy.ndarray, clusters: numpy.ndarray) -> numpy.ndarray:
    out = numpy.zeros((int(clusters.max()) + 1 if len(clusters) else 0, *values.shape[1:]))
    numpy.add.at(out, clusters, values)
    return out


def _ratio(sums: numpy.ndarray) -> numpy.ndarray:
    with numpy.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


def _jackknife(leave_one_out: numpy.ndarray) -> float | None:
    """Standard error from the estimates without each cluster; None where one of them does not exist."""
    count = len(leave_one_out)
    if count < 2 or not numpy.isfinite(leave_one_out).all():
        return None
    return math.sqrt((count - 1) / count * float(((leave_one_out - leave_one_out.mean()) ** 2).sum()))


@dataclass(frozen=True)
class Estimate:
    """One arm's value of a metric with its own interval (not adjusted), over n samples."""

    value: float
    interval: Interval | None
    n: int


def estimate(
    values: numpy.ndarray, clusters: numpy.ndarray, *, binary: bool = False, bounded: bool = False, alpha: float = ALPHA
) -> Estimate | None:
    """A metric's value and interval for one arm.

    Args:
        values: float64 [n, 2], numerators and denominators.
        clusters: int64 [n].
        binary: values are 0 or 1: Wilson's interval, with effective samples under clustering.
        bounded: values are shares in [0, 1]: the interval stays there.
        alpha: two-sided error rate.

    Returns:
        None where the metric applies to no sample.
    """
    applies = (values != 0).any(axis=1)
    values, n = values[applies], int(applies.sum())
    if not n or values[:, 1].sum() == 0:
        return None
    _, codes = numpy.unique(clusters[applies], return_inverse=True)
    sums, total = _sum_by_cluster(values, codes), values.sum(axis=0)
    value, groups = float(total[0] / total[1]), len(sums)
    error = _jackknife(_ratio(total - sums))
    flat = bool((values[:, 1] == 1).all())
    if binary and flat or bounded and flat and not error:
        independent = value * (1 - value) / n
        largest = float((numpy.bincount(codes) ** 2).sum() / n)
        varied = int(min((sums[:, 0] > 0).sum(), (sums[:, 0] < sums[:, 1]).sum()))
        design = _design_effect(error, independent, largest, n / groups, varied)
        return Estimate(value, wilson(value * n / design, n / design, alpha), n)
    if error is None:
        return Estimate(value, None, n)
    half = student_quantile(alpha, groups - 1) * error
    low, high = value - half, value + half
    return Estimate(value, (max(low, 0.0), min(high, 1.0)) if bounded else (low, high), n)


def _design_effect(error: float | None, independent: float, largest: float, size: float, varied: int) -> float:
    """How many dependent samples weigh as one: measured where enough clusters vary.

    Where few do, as near the floor or the ceiling, what was measured is raised by as much as clusters differ in size and joined with one
    more cluster that is wholly of one kind. Full dependence, taken for granted instead, made these intervals 1.1 times as wide at the
    median, without holding the truth more often where it is held least (128 simulated cases: 8 sets of clusters, 90% to
    99% right, correlations from 0 to 0.99, 3,000 draws each; tests/weigh/statistics/test_coverage.py has four of them).

    Args:
        error: jackknife error of the value.
        independent: its square if every sample were its own cluster.
        largest: the effect where all of a cluster are alike.
        size: mean number of samples of a cluster.
        varied: clusters that hold the rarer outcome, or fewer.
    """
    if largest == 1.0:
        return 1.0
    if error is None or independent == 0 or not varied:
        return largest
    measured = error * error / independent
    if varied >= FEW:
        return min(max(measured, 1.0), largest)
    return (varied * min(max(measured * largest / size, 1.0), largest) + largest) / (varied + 1)


def _design_effect_of_flips(error: float | None, independent: float, largest: float, size: float, changed: int) -> float:
    """How many flips weigh as one: measured, because flips that come in clusters show it themselves.

    Args:
        error: jackknife error of the difference.
        independent: its square if every sample were its own cluster.
        largest: the effect where all of a cluster flip together.
        size: mean number of samples of a cluster.
        changed: clusters whose sum changed.

    Returns:
        At least a half (flips within a cluster may offset each other), at most `largest`. Below `FEW` changed clusters it is raised by as
        much as clusters differ in size: those that did not change may be the large ones.
    """
    if largest == 1.0:
        return 1.0
    if error is None or not independent or not changed:
        return largest
    measured = max(error * error / independent, 0.5) * (largest / size if changed < FEW else 1.0)
    return min(measured, largest)


@dataclass(frozen=True)
class Comparison:
    """The difference between arm and base on one metric, readable at any error rate.

    Attributes:
        base, value: each one's estimate at the usual error rate.
        difference: value - base.
        standard_error: of the difference; None where it cannot be had (one cluster).
        degrees: of freedom of Student's t; infinite for the normal distribution.
        n: samples compared.
        p_value: smallest error rate at which the interval excludes zero; None without an interval.
        score: gained, lost and n (effective) of Tango's interval: of outcomes that are yes or no, or of clusters up and down where few
            changed; else None.
        unit: how far the metric moves if all of `score`'s n are gained.
        span: the largest difference possible; None where there is no largest.
        joined: whether Student's interval is joined with that of `score`; where there is no `score`, it stands alone.
        deviation: standard deviation of one cluster's difference scaled to one sample, for planning; None where unknown.
        resampled: sorted bootstrap-t draws that widen Student's interval where the differences are skewed; else None.
        by_seeds: share of the squared standard error that comes from training seeds and that no further samples narrow.
    """

    base: Estimate
    value: Estimate
    difference: float
    standard_error: float | None
    degrees: float
    n: int
    p_value: float | None
    score: tuple[float, float, float] | None = None
    deviation: float | None = None
    resampled: numpy.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)
    unit: float = 1.0
    span: float | None = None
    joined: bool = False
    by_seeds: float = 0.0

    @property
    def by_student(self) -> bool:
        """Whether Student's t takes part."""
        return self.standard_error is not None and (self.score is None or self.joined and self.standard_error > 0)

    def interval(self, alpha: float = ALPHA) -> Interval | None:
        """Low and high of the difference at an error rate; excludes zero exactly when the p-value is below it."""
        raw = _raw_interval(self, alpha)
        if raw is None or self.p_value is None:
            return None
        low, high = min(raw[0], self.difference), max(raw[1], self.difference)
        return (low, high) if self.p_value < alpha else (min(low, 0.0), max(high, 0.0))


def _raw_interval(comparison: Comparison, alpha: float) -> Interval | None:
    candidates: list[Interval] = []
    if comparison.score is not None:
        # Few clusters: Student's t in place of the normal quantile; with every sample its own cluster the score test needs none.
        critical = student_quantile(alpha, comparison.degrees) if comparison.degrees < math.inf else normal_quantile(alpha)
        low, high = tango(*comparison.score, critical)
        candidates.append((low * comparison.unit, high * comparison.unit))
    if comparison.by_student and comparison.standard_error is not None:
        critical = student_quantile(alpha, comparison.degrees)
        half = critical * comparison.standard_error
        candidates.append((comparison.difference - half, comparison.difference + half))
        if comparison.resampled is not None:
            lower, upper = numpy.quantile(comparison.resampled, [alpha / 2, 1 - alpha / 2]).clip(-FARTHEST * critical, FARTHEST * critical)
            centre, error = comparison.difference, comparison.standard_error
            candidates.append((centre - float(upper) * error, centre - float(lower) * error))
    if not candidates:
        return None
    most = math.inf if comparison.span is None else comparison.span
    return max(-most, min(low for low, _ in candidates)), min(most, max(high for _, high in candidates))


def compare(pairs: Pairs, *, binary: bool = False, bounded: bool = False, span: float | None = None) -> Comparison | None:
    """Compares arm and base on one metric.

    * yes/no outcomes, each sample its own cluster: Tango's interval and exact McNemar with mid-p;
    * yes/no outcomes in clusters: Tango's interval on effective counts with Student's critical value, and exact sign flips with mid-p;
    * everything else, where at least `FEW` clusters changed: Student's t on the jackknife error joined with the bootstrap-t;
    * everything else, where fewer changed: Student's t joined with Tango's interval on the counts of clusters up and down, each taken
      for as large as a change can be (as the largest one seen, where the metric has no bounds), and the exact sign-flip test. So few
      changes say little about a variance, and the bootstrap-t is known to be erratic with them (DiCiccio & Efron, Statistical
      Science 11, 1996; Hesterberg, The American Statistician 69, 2015).

    Args:
        pairs: both sides' values.
        binary: values are 0 or 1.
        bounded: values are means of shares in [0, 1].
        span: the largest difference the metric can have (1 for `bounded`), to which intervals are cut; None where there is none.

    Returns:
        None where either side has no value.
    """
    base = estimate(pairs.base, pairs.clusters, binary=binary, bounded=bounded)
    value = estimate(pairs.arm, pairs.clusters, binary=binary, bounded=bounded)
    if base is None or value is None:
        return None
    base_sums, arm_sums = _sum_by_cluster(pairs.base, pairs.clusters), _sum_by_cluster(pairs.arm, pairs.clusters)
    base_total, arm_total = base_sums.sum(axis=0), arm_sums.sum(axis=0)
    groups, n, difference = len(base_sums), pairs.n, value.value - base.value
    error = _jackknife(_ratio(arm_total - arm_sums) - _ratio(base_total - base_sums))
    pooled = (arm_total[0] + base_total[0]) / (arm_total[1] + base_total[1])
    # Shares of the difference per cluster; they sum to it. For plain means they are whole numbers over n.
    if pairs.flat:
        shares = arm_sums[:, 0] - base_sums[:, 0]
    else:
        shares = (arm_sums[:, 0] - pooled * arm_sums[:, 1]) / arm_total[1] - (base_sums[:, 0] - pooled * base_sums[:, 1]) / base_total[1]
    up, down = int((shares > 0).sum()), int((shares < 0).sum())
    degrees: float = max(groups - 1, 1)
    score, unit = None, 1.0
    span = 1.0 if bounded and span is None else span
    if binary and pairs.flat:
        change = pairs.arm[:, 0] - pairs.base[:, 0]
        gained, lost = float((change > 0).sum()), float((change < 0).sum())
        independent = (gained + lost - (gained - lost) ** 2 / n) / (n * n)
        largest = float((numpy.bincount(pairs.clusters) ** 2).sum() / n)
        design = _design_effect_of_flips(error, independent, largest, n / groups, up + down)
        score = (gained / design, lost / design, n / design)
        # As many clusters as would weigh as much if all were of one size.
        degrees = math.inf if groups == n else max(n / largest - 1, 1.0)
    elif up + down < FEW and (span is not None or up + down > 0 and groups >= FEW):
        # A cluster that changes wholly moves the metric by its part of the denominators; no cluster has a larger part than `heaviest`.
        heaviest = max(float((sums[:, 1] / total[1]).max()) for sums, total in ((base_sums, base_total), (arm_sums, arm_total)))
        score = (float(up), float(down), float(groups))
        unit = groups * (heaviest * span if span is not None else float(numpy.abs(shares).max()) / (n if pairs.flat else 1))
    resampled = None
    few = up + down < min(FEW, groups)  # most clusters did not change: the variance rests on a handful
    if score is None and error and not few:
        resampled = studentised(base_sums, arm_sums)
    deviation = None if error is None else error * math.sqrt(n)
    by_flips = binary and pairs.flat
    draft = Comparison(
        base, value, difference, error, degrees, n, None, score, deviation, resampled, unit, span, joined=score is not None and not by_flips
    )
    return dataclasses.replace(draft, p_value=_p_value(draft, shares if binary or few else None, mid=by_flips))


def _p_value(draft: Comparison, shares: numpy.ndarray | None, mid: bool = False) -> float | None:
    """The most careful of the tests whose intervals are shown: formula and, where given, sign flips, with mid-p where so asked."""
    found: list[float] = []
    if draft.score is not None:
        gained, lost, _ = draft.score
        if (gained - lost) * draft.difference < 0:
            return 1.0  # many small steps one way, a large one the other: counts and mean disagree, so nothing is shown
        statistic = abs(gained - lost) / math.sqrt(gained + lost) if gained + lost else 0.0
        found.append(float(2 * (stats.norm.sf(statistic) if draft.degrees == math.inf else stats.t.sf(statistic, draft.degrees))))
    if draft.by_student and draft.standard_error is not None:
        statistic = abs(draft.difference) / draft.standard_error if draft.standard_error else (math.inf if draft.difference else 0.0)
        found.append(float(2 * stats.t.sf(statistic, draft.degrees)))
        if draft.resampled is not None:
            signed = math.copysign(statistic, draft.difference)
            beyond = (draft.resampled >= signed).sum() if signed > 0 else (draft.resampled <= signed).sum()
            found.append(2 * (int(beyond) + 1) / (len(draft.resampled) + 1))
    if shares is not None and found and (exact := sign_flip(shares, mid)) is not None:
        found.append(exact)
    return min(1.0, max(found)) if found else None


def spread_over_seeds(pooled: Comparison, differences: Sequence[float]) -> Comparison:
    """A trained arm's comparison with the doubt that other training seeds would add.

    Args:
        pooled: comparison on each sample's mean over the seeds.
        differences: the difference each seed alone gives, at least two.

    Returns:
        The comparison with se^2 = se_samples^2 + s_seeds^2 / k, Satterthwaite's degrees of freedom, and no score interval.
    """
    k = len(differences)
    between = float(numpy.var(differences, ddof=1)) / k
    if not between:
        return pooled
    within = pooled.standard_error**2 if pooled.standard_error is not None else 0.0
    total = between + within
    inner = pooled.degrees if pooled.degrees < math.inf else pooled.n - 1
    degrees = total * total / (between * between / (k - 1) + within * within / max(inner, 1))
    wider = dataclasses.replace(
        pooled,
        standard_error=math.sqrt(total),
        degrees=degrees,
        score=None,
        p_value=None,
        deviation=math.sqrt(total * pooled.n),
        by_seeds=between / total,
    )
    p_value = _p_value(wider, None)
    return dataclasses.replace(wider, p_value=max(p_value or 0.0, pooled.p_value or 0.0))
