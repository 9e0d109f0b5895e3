"""Metrics of a whole set beside AUROC and AURC, each as a column of numbers that average to it (see `weigh/statistics/selective.py` for why).

    ECE            = sum_k n_k / n |share right in bin k - mean confidence in bin k|       bins of equal mass
                   = mean of s_k(i) (right_i - confidence_i)                               s_k: the sign of bin k's gap
    Cohen's kappa  = (observed agreement - agreement by chance) / (1 - agreement by chance)
    contrast       = mean over one group's samples - mean over the other's
    right at equal coverage = share right among the c n surest answers, c the least that any of the compared sides answers

*Equal coverage* is what keeps silence from winning for free: an arm that answers half the questions is held against the half of which
the base was surest, because the base could have been silent too. Answers of equal confidence, or without one, count in equal parts. A
side that answers less than a twentieth has no value: there is nothing to compare. Unanswerable questions are among the n, and every
answer to one is wrong.

The calibration error's column takes bins and signs as given; its upward bias below a thousand answers is told beside it
(`expected_error`), not taken away. Sources: as in `weigh/statistics/agreement.py`; R. El-Yaniv & Y. Wiener, JMLR 11 (2010) for risk at a coverage;
J. Fleiss, J. Cohen & B. Everitt, Psychological Bulletin 72 (1969) for kappa's doubt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy

from steelyard.weigh.statistics.agreement import BINS, places_of

LEAST_COVERAGE = 0.05  # share of questions answered below which answers are not compared
SILENT = -1.0  # the confidence that stands for no answer


def calibration_error_column(confidence: numpy.ndarray, right: numpy.ndarray) -> numpy.ndarray | None:
    """Expected calibration error over bins of equal mass."""
    if not len(confidence):
        return None
    places = places_of(confidence, BINS)
    gaps = numpy.bincount(places, right - confidence, BINS)
    return numpy.sign(gaps)[places] * (right - confidence)


def expected_error(confidence: Sequence[float]) -> float:
    """The calibration error that a perfectly calibrated model with these confidences shows on average, by chance alone.

    In a bin with variance v = sum c (1 - c) the gap is about normal, and E|gap| = sqrt(2 v / pi) / n.
    """
    stated = numpy.asarray(confidence, numpy.float64)
    if not stated.size:
        return 0.0
    spread = numpy.bincount(places_of(stated, BINS), stated * (1 - stated), BINS)
    return float(numpy.sqrt(2 * numpy.maximum(spread, 0.0) / math.pi).sum() / len(stated))


def kappa_column(given: numpy.ndarray, true: numpy.ndarray) -> numpy.ndarray | None:
    """Cohen's kappa of labels given and true ones; None where one label is all there is."""
    names, codes = numpy.unique(numpy.concatenate((given, true)), return_inverse=True)
    if len(names) < 2:
        return None
    one, other = codes.reshape(2, -1)
    count = one.size
    first, second = (numpy.bincount(side, minlength=len(names)) / count for side in (one, other))
    same = (one == other).astype(numpy.float64)
    agreed, chance = float(same.mean()), float(first @ second)
    # How the agreement by chance moves when a sample weighs more.
    moved = second[one] + first[other] - 2 * chance
    kappa = (agreed - chance) / (1 - chance)
    return kappa + (same - agreed) / (1 - chance) - (1 - agreed) / (1 - chance) ** 2 * moved


def contrast_column(values: numpy.ndarray, group: numpy.ndarray) -> numpy.ndarray | None:
    """Mean over the samples of group 1 less the mean over those of group -1."""
    first = group > 0
    if first.all() or not first.any():
        return None
    count, here, there = len(values), int(first.sum()), int((~first).sum())
    one, other = float(values[first].mean()), float(values[~first].mean())
    return one - other + count * numpy.where(first, (values - one) / here, -(values - other) / there)


def equal_coverage_columns(sides: Sequence[tuple[numpy.ndarray, numpy.ndarray]]) -> list[numpy.ndarray | None]:
    """Share right among the surest answers of each side, as many as the most silent side gives.

    Args:
        sides: per side (confidence or `SILENT`, right), float64 [n] each.
    """
    if not sides or not len(sides[0][0]):
        return [None] * len(sides)
    count = len(sides[0][0])
    kept = min(int((confidence >= 0).sum()) for confidence, _ in sides)
    if kept < LEAST_COVERAGE * count or not kept:
        return [None] * len(sides)
    out: list[numpy.ndarray | None] = []
    for confidence, right in sides:
        weight = _surest(confidence, kept)
        share = float((weight * right).sum() / kept)
        out.append(share + count / kept * weight * (right - share))
    return out


def _surest(confidence: numpy.ndarray, kept: int) -> numpy.ndarray:
    """Weights that pick the `kept` surest; those at the threshold share what is left."""
    threshold = numpy.sort(confidence)[::-1][kept - 1]
    above, at = confidence > threshold, confidence == threshold
    return above + at * (kept - above.sum()) / at.sum()
