"""How well a confidence tells right answers from wrong ones, over a whole set: AUROC and the area under the risk-coverage curve.

    AUROC = P(s_right > s_wrong) + P(s_right = s_wrong) / 2
    AURC  = 1/n sum_k (errors among the k surest answers) / k        answers of equal confidence in random order, on average

Neither is a mean over samples. Each is written as one all the same, through its influence function: sample i gets the value
theta + n IF_i, these average to theta exactly, and their spread is the statistic's own doubt (for AUROC that is DeLong's variance). So
paired differences, clusters and intervals are those of every other metric.

Sources: E. DeLong, D. DeLong & D. Clarke-Pearson, Biometrics 44 (1988); Y. Geifman & R. El-Yaniv, arXiv:1705.08500 (risk and coverage).
Cost: a sort, and n log n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from steelyard.weigh.samples import Metric, Value
from steelyard.weigh.statistics import gaps, whole_set

KINDS = ("auroc", "aurc", "ece", "equal_coverage", "kappa", "contrast", "gap")
"""Kinds of metrics that exist only over a whole set; a sample's value is a pair, (confidence, right) for most (see `Metric.kind`)."""


def auroc(confidence: Sequence[float], right: Sequence[float]) -> float | None:
    """Probability that a right answer has more confidence than a wrong one, ties counting half; None without both.

    Args:
        confidence: [n], higher is surer.
        right: [n], 1 or 0; a share where a sample was tried several times.
    """
    column = _auroc_column(numpy.asarray(confidence, numpy.float64), numpy.asarray(right, numpy.float64))
    return None if column is None else float(column.mean())


def aurc(confidence: Sequence[float], right: Sequence[float]) -> float | None:
    """Mean risk over all coverages, lower is better; None without samples."""
    column = _aurc_column(numpy.asarray(confidence, numpy.float64), numpy.asarray(right, numpy.float64))
    return None if column is None else float(column.mean())


def risk_coverage(confidence: Sequence[float], right: Sequence[float]) -> list[tuple[float, float]]:
    """(coverage, share wrong among what is answered) at every threshold, fewest answers first."""
    scores, wrong = numpy.asarray(confidence, numpy.float64), 1 - numpy.asarray(right, numpy.float64)
    order = numpy.argsort(-scores, kind="stable")
    errors, count = wrong[order].cumsum(), numpy.arange(1, len(scores) + 1)
    ends = numpy.append(scores[order][1:] != scores[order][:-1], True) if len(scores) else numpy.zeros(0, bool)
    return [(float(k / len(scores)), float(e / k)) for k, e in zip(count[ends], errors[ends], strict=True)]


def linearised(metric: Metric, columns: Sequence[Sequence[Value]]) -> list[list[Value]]:
    """Columns of a whole-set metric as columns of numbers that average to it, over the samples that all of them have.

    Args:
        metric: any; columns of other kinds come back as they are.
        columns: per arm or run, the samples' pairs (confidence, right) or None.

    Returns:
        The same shape; None everywhere where the metric does not exist (only right answers have no AUROC).
    """
    if metric.kind not in KINDS:
        return [list(column) for column in columns]
    there = [place for place, row in enumerate(zip(*columns, strict=True)) if all(isinstance(value, tuple) for value in row)]
    of = [numpy.array([column[place] for place in there], numpy.float64).reshape(-1, 2) for column in columns]
    if metric.kind == "equal_coverage":
        each = whole_set.equal_coverage_columns([(pairs[:, 0], pairs[:, 1]) for pairs in of])
    else:
        made = _MADE[metric.kind]
        each = [made(pairs[:, 0], pairs[:, 1]) for pairs in of]
    out: list[list[Value]] = []
    for column, found in zip(columns, each, strict=True):
        values: list[Value] = [None] * len(column)
        for place, value in zip(there, [] if found is None else found, strict=False):
            values[place] = float(value)
        out.append(values)
    return out if all(any(value is not None for value in values) for values in out) else [[None] * len(values) for values in out]


def _ranked(scores: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """For each sample the number of its group of equal scores (ascending), and each group's first and last place."""
    _, group, sizes = numpy.unique(scores, return_inverse=True, return_counts=True)
    last = sizes.cumsum()
    return group.reshape(-1), last - sizes, last


def _auroc_column(scores: numpy.ndarray, right: numpy.ndarray) -> numpy.ndarray | None:
    positives, negatives = right.sum(), (1 - right).sum()
    if not positives or not negatives:
        return None
    group, first, last = _ranked(scores)
    lost = numpy.bincount(group, 1 - right, len(first))
    won = numpy.bincount(group, right, len(first))
    # For each sample: the share of wrong answers below it, and of right answers above it; its own group counts half.
    below = (lost.cumsum() - lost / 2)[group] / negatives
    above = (won.sum() - won.cumsum() + won / 2)[group] / positives
    area = float((right * below).sum() / positives)
    return area + len(scores) * (right * (below - area) / positives + (1 - right) * (above - area) / negatives)


def _aurc_column(scores: numpy.ndarray, right: numpy.ndarray) -> numpy.ndarray | None:
    count = len(scores)
    if not count:
        return None
    wrong = 1 - right
    group, first, last = _ranked(-scores)  # the surest first
    # harmonic[r] = sum of 1/k for k >= r + 1: how often an error at rank r is counted.
    harmonic = numpy.append((1 / numpy.arange(1, count + 1))[::-1].cumsum()[::-1], 0.0)
    sums = numpy.concatenate(([0.0], harmonic[:-1].cumsum()))
    weight = ((sums[last] - sums[first]) / (last - first))[group]
    errors = numpy.bincount(group, wrong, len(first))
    # A sample that comes in lowers the risk wherever answers less sure than it are counted.
    shared = (errors / last)[::-1].cumsum()[::-1][group]
    return wrong * weight - shared + wrong.mean()


_MADE = {
    "auroc": _auroc_column,
    "aurc": _aurc_column,
    "ece": whole_set.calibration_error_column,
    "kappa": whole_set.kappa_column,
    "gap": gaps.gap_column,
    "contrast": whole_set.contrast_column,
}
