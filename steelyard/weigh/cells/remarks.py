"""What a reader should know of a cell whose metric exists over a whole set only: how far chance alone would move it, or what it stands on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steelyard.weigh.statistics.whole_set import LEAST_COVERAGE, expected_error
from steelyard.weigh.tasks.task import Metric, Value

ENOUGH_ANSWERS = 1000  # from here on the calibration error's bias is small beside its interval


def remarks(metric: Metric, columns: Sequence[Sequence[Value]]) -> tuple[str, ...]:
    """Notes of a cell, from the samples' values of the base and, where there is one, of an arm."""
    sides = [[value for value in column if isinstance(value, tuple)] for column in columns]
    if not all(sides):
        return ()
    if metric.kind == "ece":
        return _chance(sides)
    if metric.kind == "equal_coverage" and len(sides) > 1:
        shares = [_coverage(side) for side in sides]
        if max(shares) - min(shares) > 1e-9:
            return (f"the base answers {shares[0]:.0%}, the arm {shares[1]:.0%}: the surest {min(shares):.0%} of each are compared",)
    return ()


def _chance(sides: Sequence[Sequence[tuple[float, float]]]) -> tuple[str, ...]:
    count = min(map(len, sides))
    if count >= ENOUGH_ANSWERS:
        return ()
    shown = " and ".join(
        f"{expected_error([min(max(confidence, 0.0), 1.0) for confidence, _ in side if math.isfinite(confidence)]):.3f}" for side in sides
    )
    these = "confidences" if len(sides) == 1 else "confidences (base and arm)"
    return (
        f"biased upward below {ENOUGH_ANSWERS:,} answers: by chance alone a perfectly calibrated model with these {these} shows {shown}",
    )


def _coverage(side: Sequence[tuple[float, float]]) -> float:
    return sum(confidence >= 0 for confidence, _ in side) / len(side)


def why_none(metric: Metric, columns: Sequence[Sequence[Value]]) -> str:
    """Why two sides have no value to compare."""
    sides = [[value for value in column if isinstance(value, tuple)] for column in columns]
    if metric.kind == "equal_coverage" and all(sides) and any(_coverage(side) < LEAST_COVERAGE for side in sides):
        who = " and ".join(name for name, side in zip(("the base", "the arm"), sides, strict=False) if _coverage(side) < LEAST_COVERAGE)
        return f"{who} answers fewer than {LEAST_COVERAGE:.0%} of the questions: silence is neither right nor wrong"
    if metric.kind == "auroc" and all(sides):
        return "one side has only right or only wrong answers, which no confidence can tell apart"
    if metric.kind == "kappa" and all(sides):
        return "one label is all there is"
    empty = [name for name, column in zip(("the base", "the arm"), columns, strict=False) if all(value is None for value in column)]
    who = " and ".join(empty) or "one side"
    if metric.axis == "calibration":
        return f"no answer of {who} comes with a probability that can be judged"
    return f"the metric applies to no sample of {who}"
