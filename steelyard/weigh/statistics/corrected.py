"""Shares found by a detector that errs, corrected for its errors, with intervals that know how well these are known.

One share: the interval of T. Lang & J. Reiczigel (Preventive Veterinary Medicine 113, 2014): Rogan and Gladen's estimate on counts to
which pseudo-observations were added (z^2/2 of each kind to the sample, one of each to the labelled examples), with

    se^2 = (p(1-p)/n + (1-pi)^2 Sp(1-Sp)/n_Sp + pi^2 Se(1-Se)/n_Se) / (Se + Sp - 1)^2

A difference of two arms judged by one detector: the share of false alarms cancels, and (p1 - p0) / (Se + Sp - 1) is left. Whether there is a
difference is therefore asked of the detections, with the same exact tests as ever; how large it is in truth depends on Se + Sp - 1, whose
own 95% interval (Newcombe's, of a difference of two Wilson shares) stretches the ends. Where that interval holds 0, the detector is not
shown to be better than a coin, and nothing is measured.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from steelyard.weigh.detector import Detector
from steelyard.weigh.statistics.intervals import Interval, normal_quantile, wilson
from steelyard.weigh.statistics.paired import ALPHA, Comparison, Estimate


def youden_interval(detector: Detector, alpha: float = ALPHA) -> Interval:
    """Interval of Se + Sp - 1 = Se - (share of false alarms): Newcombe's hybrid score interval (Statistics in Medicine 17, 1998)."""
    hit, alarm = detector.sensitivity, 1 - detector.specificity
    hit_low, hit_high = wilson(detector.hits, detector.positives, alpha)
    alarm_low, alarm_high = wilson(detector.false_alarms, detector.negatives, alpha)
    low = hit - alarm - math.hypot(hit - hit_low, alarm_high - alarm)
    return low, hit - alarm + math.hypot(hit_high - hit, alarm - alarm_low)


def useless(detector: Detector) -> str | None:
    """Why nothing can be measured with a detector, or None."""
    low, high = youden_interval(detector)
    if low > 0:
        return None
    told = f"finds {detector.hits} of {detector.positives}, false alarms {detector.false_alarms} of {detector.negatives}"
    return f"the detector ({detector.name}: {told}) is not shown to be better than a coin"


def note(detector: Detector) -> str:
    """What a reader should know of a corrected figure."""
    of = f" ({detector.source})" if detector.source else ""
    return (
        f"corrected for the detector's errors: it finds {detector.hits} of {detector.positives} labelled examples and raises "
        f"{detector.false_alarms} false alarms on {detector.negatives} others{of}"
    )


def correct_share(share: float, effective: float, detector: Detector, alpha: float = ALPHA) -> tuple[float, Interval]:
    """A share of detections as the share of what is detected, with its interval.

    Args:
        share: of detections.
        effective: how many independent samples it rests on.
        detector: with its counts.
        alpha: two-sided error rate.

    Raises:
        ValueError: the detector is no better than a coin.
    """
    z = normal_quantile(alpha)
    n = effective + z * z
    p = (share * effective + z * z / 2) / n
    positives, negatives = detector.positives + 2, detector.negatives + 2
    hit, passed = (detector.hits + 1) / positives, (detector.negatives - detector.false_alarms + 1) / negatives
    separation = hit + passed - 1
    if separation <= 0:
        raise ValueError(f"{detector.name} is no better than a coin")
    true = min(1.0, max(0.0, (p + passed - 1) / separation))
    of_passed, of_hit = passed * (1 - passed) / negatives, hit * (1 - hit) / positives
    moved = 2 * z * z * (true * of_hit - (1 - true) * of_passed)
    half = z * math.sqrt(p * (1 - p) / n + (1 - true) ** 2 * of_passed + true * true * of_hit) / separation
    value = detector.corrected(share)
    return value, (min(value, max(0.0, true + moved - half)), max(value, min(1.0, true + moved + half)))


@dataclass(frozen=True)
class Corrected(Comparison):
    """A comparison whose figures are corrected; `found` is that of the detections, `separation` the interval of Se + Sp - 1."""

    found: Comparison | None = None
    separation: Interval = (1.0, 1.0)

    def interval(self, alpha: float = ALPHA) -> Interval | None:
        """Of the true difference; excludes zero exactly when the detections' does."""
        raw = self.found.interval(alpha) if self.found else None
        if raw is None:
            return None
        low, high = (fold(end / separation for separation in self.separation) for fold, end in zip((min, max), raw, strict=True))
        return max(-1.0, low), min(1.0, high)


def corrected(found: Comparison, detector: Detector) -> Comparison | None:
    """A comparison of detections as one of what is detected; None where the detector is no better than a coin."""
    if useless(detector):
        return None
    base, value = correct_estimate(found.base, detector), correct_estimate(found.value, detector)
    plain = {field.name: getattr(found, field.name) for field in dataclasses.fields(Comparison)}
    plain |= {"base": base, "value": value, "difference": found.difference / detector.youden}
    if found.deviation is not None:
        plain["deviation"] = found.deviation / detector.youden
    low, high = youden_interval(detector)
    return Corrected(**plain, found=found, separation=(low, min(high, 1.0)))


def correct_estimate(found: Estimate, detector: Detector) -> Estimate:
    """One side's share of detections as the share of what is detected."""
    effective = float(found.n)
    if found.interval is not None:
        # Samples in clusters weigh less: as many as would give Wilson's interval its width.
        effective = min(effective, _effective(found.value, found.interval[1] - found.interval[0]))
    value, interval = correct_share(found.value, effective, detector)
    return Estimate(value, interval, found.n)


def _effective(share: float, width: float) -> float:
    """The number of samples at which Wilson's interval of a share is this wide."""
    low, high = 1e-3, 1e9
    for _ in range(100):
        middle = math.sqrt(low * high)
        ends = wilson(share * middle, middle, ALPHA)
        low, high = (middle, high) if ends[1] - ends[0] > width else (low, middle)
    return high
