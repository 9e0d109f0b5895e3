"""How differently two groups fare: the difference of their means, where both were asked the same.

    gap = |mean of one group - mean of the other|

A sample gives the pair (value, 1 or -1 for its group). Both versions of one question share a cluster, so what makes a question hard
cancels. The gap is written as a mean over samples through its influence function, as AUROC is (`weigh/statistics/selective.py`): differences,
clusters and intervals are those of every other metric. The absolute value makes gaps that are truly zero look a little larger than
they are, on both sides alike; the interval of an arm's own gap begins at 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy

from steelyard.weigh.samples import Value
from steelyard.weigh.statistics.intervals import wilson
from steelyard.weigh.statistics.paired import ALPHA, Estimate


def signed_gap(values: Sequence[Value]) -> float | None:
    """Mean of group 1 minus mean of group -1; None where one of them has no value."""
    pairs = numpy.array([value for value in values if isinstance(value, tuple)], numpy.float64).reshape(-1, 2)
    first, second = pairs[pairs[:, 1] > 0, 0], pairs[pairs[:, 1] < 0, 0]
    return float(first.mean() - second.mean()) if len(first) and len(second) else None


def gap_column(values: numpy.ndarray, groups: numpy.ndarray) -> numpy.ndarray | None:
    """Numbers that average to the gap and spread as it does; None where a group has no value.

    Args:
        values: float64 [n].
        groups: float64 [n], above 0 for one group, below for the other.
    """
    first, second = groups > 0, groups < 0
    if not first.any() or not second.any():
        return None
    above, below = values[first].mean(), values[second].mean()
    sign = -1.0 if above < below else 1.0
    influence = numpy.where(first, (values - above) / first.sum(), 0.0) - numpy.where(second, (values - below) / second.sum(), 0.0)
    return sign * (above - below + len(values) * influence)


def favoured(groups: tuple[str, str], base: Sequence[Value], arm: Sequence[Value] | None = None) -> tuple[str, ...]:
    """Which group has the larger mean, as a note; on both sides where there are two."""
    said = []
    for side, column in (("base: ", base), ("arm: ", arm)):
        gap = None if column is None else signed_gap(column)
        if gap:
            said.append(f"{side if arm is not None else ''}more for {groups[0] if gap > 0 else groups[1]}")
    return ("; ".join(said),) if said else ()


def own_interval(found: Estimate, span: float | None, clusters: int) -> Estimate:
    """A gap with its own interval: it begins at 0 at the least, and is never a point.

    Where no pair differs from any other there is no spread to go by; what is then left possible is that of a share of which none of so
    many clusters showed any (Wilson), times the largest gap there can be.

    Args:
        found: the gap.
        span: the largest gap there can be, or None.
        clusters: number of pairs.
    """
    if found.interval is None:
        return found
    low, high = found.interval
    if low == high:
        most = None if span is None else wilson(0.0, max(clusters, 1), ALPHA)[1] * span
        return dataclasses.replace(found, interval=None if most is None else (max(0.0, found.value - most), found.value + most))
    return dataclasses.replace(found, interval=(max(0.0, low), high))
