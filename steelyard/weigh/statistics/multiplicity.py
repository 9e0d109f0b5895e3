"""Holm's step-down procedure over the primary cells, with intervals that agree with it.

Weighing m arms asks m primary questions, and one in twenty true nulls looks like an effect. Holm (1979) sorts the p-values and
compares the i-th smallest with alpha / (m - i + 1), stopping at the first that fails: the chance of *any* false "better" or
"worse" among the primary cells is at most alpha, whatever their dependence.

The interval shown for a cell is taken at the level at which Holm judged it: alpha / (m - i + 1) for a cell that passed, and
the level of the step that failed for all the rest. Since an interval excludes zero exactly when its p-value is below its level,
verdict and interval cannot disagree. What is promised jointly is the absence of false effects; an interval of a cell that passed
late is narrower than Bonferroni's and covers its own true value at its own level, not all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence


def holm_levels(p_values: Sequence[float], alpha: float) -> list[float]:
    """The error rate at which each cell's interval is to be read, in the order given.

    Args:
        p_values: one per primary cell; a cell that could not be tested takes part with 1.
        alpha: family-wise error rate.
    """
    count = len(p_values)
    levels = [0.0] * count
    stopped: float | None = None
    for step, position in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        level = alpha / (count - step)
        if stopped is None and p_values[position] >= level:
            stopped = level
        levels[position] = level if stopped is None else stopped
    return levels
