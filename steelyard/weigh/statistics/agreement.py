"""How well stated chances agree with what happened, and two judges with each other.

    expected calibration error = sum_k n_k / n |share right in bin k - mean confidence in bin k|, over bins of equal mass
    Cohen's kappa              = (observed agreement - agreement by chance) / (1 - agreement by chance)

The calibration error is biased upward where bins hold few answers: a perfectly calibrated model of n answers in K bins shows about
sqrt(2 K p (1 - p) / (pi n)), so below a thousand answers it says little and Brier's score comes first. Sources: M. Nixon et al.,
arXiv:1904.01685 (bins of equal mass); R. Roelofs et al., arXiv:2012.08668 (the bias); J. Cohen, Educational and Psychological Measurement
20 (1960). Both equal scikit-learn's to 1e-9.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy

BINS = 15


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about the same confidence: how many, their mean confidence, and the share that was right."""

    count: int
    confidence: float
    right: float


def reliability(confidence: Sequence[float], right: Sequence[float], bins: int = BINS) -> list[Bin]:
    """Bins of equal mass, least sure first; those between equal quantiles (many equal confidences) are left out.

    Args:
        confidence: [n], each in [0, 1].
        right: [n], 1 or 0.
        bins: how many.

    Raises:
        ValueError: no answers, unequal lengths, no bins, or numbers outside [0, 1].
    """
    stated, true = numpy.asarray(confidence, numpy.float64), numpy.asarray(right, numpy.float64)
    if stated.shape != true.shape or stated.ndim != 1 or not stated.size or bins < 1:
        raise ValueError("confidences and outcomes are two lists of one length, with something in them")
    if not ((stated >= 0) & (stated <= 1) & (true >= 0) & (true <= 1)).all():
        raise ValueError("confidences and outcomes lie in [0, 1]")
    places = places_of(stated, bins)
    counts = numpy.bincount(places, minlength=bins)
    sums = (numpy.bincount(places, weights=column, minlength=bins) for column in (stated, true))
    return [Bin(int(n), float(sure / n), float(hit / n)) for n, sure, hit in zip(counts, *sums, strict=True) if n]


def places_of(stated: numpy.ndarray, bins: int) -> numpy.ndarray:
    """The number of each confidence's bin of equal mass, from 0; equal confidences share one."""
    edges = numpy.percentile(stated, numpy.linspace(0, 1, bins + 1) * 100)
    return numpy.searchsorted(edges[1:-1], stated)


def calibration_error(confidence: Sequence[float], right: Sequence[float], bins: int = BINS) -> float:
    """Expected calibration error over bins of equal mass; see `reliability`."""
    found = reliability(confidence, right, bins)
    return sum(one.count * abs(one.right - one.confidence) for one in found) / sum(one.count for one in found)


def kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Cohen's kappa of two judges who labelled the same things; None where both gave one and the same label throughout.

    Raises:
        ValueError: no labels, or unequal lengths.
    """
    if len(first) != len(second) or not first:
        raise ValueError("two judges label the same things, at least one")
    names = {name: place for place, name in enumerate(dict.fromkeys([*first, *second]))}
    table = numpy.zeros((len(names), len(names)))
    for one, other in zip(first, second, strict=True):
        table[names[one], names[other]] += 1
    table /= len(first)
    chance = float(table.sum(axis=0) @ table.sum(axis=1))
    return None if len(names) == 1 else (float(numpy.trace(table)) - chance) / (1 - chance)
