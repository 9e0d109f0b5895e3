"""What a weighing can hope to see: detectable differences before it, samples still missing after it.

The smallest difference found with probability `power` is about (t_alpha + t_power) * s / sqrt(n), where s is the standard
deviation of the paired difference of one sample. For yes/no outcomes s^2 is the share of samples that flip (minus the squared
difference), so it is the flips that matter, not how good either arm is.
"""

from __future__ import annotations

import math

from scipy import stats

from steelyard.weigh.statistics.intervals import Interval, student_quantile

POWER = 0.8


def detectable(deviation: float, n: int, alpha: float, power: float = POWER) -> float | None:
    """Smallest true difference that n samples show with probability `power`, in the metric's unit; None below two samples.

    Args:
        deviation: standard deviation of one sample's paired difference.
        n: independent samples (clusters).
        alpha: two-sided error rate, already divided by the number of primary cells.
    """
    if n < 2:
        return None
    return (student_quantile(alpha, n - 1) + float(stats.t.ppf(power, n - 1))) * deviation / math.sqrt(n)


def samples_to_settle(difference: float, interval: Interval, margin: float, n: int, alpha: float, power: float = POWER) -> int | None:
    """How many more samples would settle an underpowered cell if the difference seen now were the true one.

    It is settled when the interval, which shrinks with 1 / sqrt(n), leaves zero or fits into the margin, whichever comes first,
    with probability `power`.

    Returns:
        The number of further samples, at least 1; None where no number helps (the difference sits on the margin's edge).
    """
    half = (interval[1] - interval[0]) / 2
    # Half the width is critical * error; to succeed with `power` the distance must be (critical + power quantile) * error.
    needed = half * (1 + float(stats.norm.ppf(power)) / float(stats.norm.isf(alpha / 2)))
    room = max(abs(difference), margin - abs(difference))
    if room <= 0 or not math.isfinite(needed):
        return None
    total = n * (needed / room) ** 2
    return max(1, math.ceil(total) - n) if total < 1e9 else None
