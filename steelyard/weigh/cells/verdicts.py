"""The one word that sums a cell up: the first that holds, in the order of the design.

| verdict | holds when |
| --- | --- |
| not measurable | either side has no value (no probabilities, every sample failed, the worker died) |
| floor | neither base nor arm is shown to be better than chance (or than zero); or the metric's gate is closed (`weigh/cells/gates.py`) |
| identical | every record is equal, and so is every value |
| equivalent | the interval of the difference lies inside the margin |
| better, worse | the interval excludes zero |
| underpowered | none of these: more samples are needed |
"""

from __future__ import annotations

from steelyard.weigh.report.report import Verdict
from steelyard.weigh.statistics.intervals import Interval
from steelyard.weigh.tasks.task import Metric


def at_floor(metric: Metric, interval: Interval | None) -> bool:
    """Whether a value is not shown to be better than the metric's floor: its interval does not lie wholly on the good side."""
    if metric.floor is None or interval is None:
        return False
    return interval[0] <= metric.floor if metric.higher_is_better else interval[1] >= metric.floor


def margin_of(metric: Metric, base: float) -> float:
    """The equivalence margin in the metric's unit."""
    return metric.margin * abs(base) if metric.relative else metric.margin


def verdict(
    *,
    measurable: bool,
    floor: bool = False,
    identical: bool = False,
    interval: Interval | None = None,
    margin: float = 0.0,
    higher_is_better: bool = True,
) -> Verdict:
    """The first verdict that holds.

    Args:
        measurable: both sides have a value.
        floor: both sides are at the metric's floor, or its gate is closed for one of them (`weigh/cells/gates.py`).
        identical: every record and value is equal.
        interval: of the difference value - base, at the level the cell is judged at; None where there is none.
        margin: half-width of the region of equivalence, in the metric's unit.
        higher_is_better: direction of good.
    """
    if not measurable:
        return "not measurable"
    if floor:
        return "floor"
    if identical:
        return "identical"
    if interval is None:
        return "underpowered"
    low, high = interval
    if -margin <= low and high <= margin:
        return "equivalent"
    if low > 0:
        return "better" if higher_is_better else "worse"
    if high < 0:
        return "worse" if higher_is_better else "better"
    return "underpowered"
