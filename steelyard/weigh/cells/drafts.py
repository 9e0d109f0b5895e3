"""A cell of a report before it is known at which error rate its interval is to be read."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.weigh.statistics.paired import Comparison
from steelyard.weigh.tasks.task import Metric


@dataclass(frozen=True)
class Draft:
    """A cell before its error rate is known.

    Attributes:
        arm, task, metric: where it stands.
        comparison: of arm and base; None where the arm has no value.
        identical: every record and value is equal.
        floored: neither side is better than the metric's floor.
        base: where there is no comparison, the base against itself: it carries the base's value.
        notes: what a reader should know.
        source: `measured` or `modelled`.
        shift: for modelled figures, what the doubt about the coefficients adds below and above the difference's interval.
    """

    arm: str
    task: str
    metric: Metric
    comparison: Comparison | None
    identical: bool = False
    floored: bool = False
    base: Comparison | None = None
    notes: tuple[str, ...] = ()
    source: str = "measured"
    shift: tuple[float, float] = (0.0, 0.0)
