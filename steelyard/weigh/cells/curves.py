"""Curves of one arm on one task: is it right as often as it says, what does silence buy, and where in a text does it look?

*Reliability*: answers sorted by stated probability and cut into groups of equal size; in each, the share that was right.
*Risk and coverage*: of the surest k answers, the share that was wrong (El-Yaniv & Wiener, JMLR 11, 2010). *Position*: the task's first
metric by the place of what was asked for, one line for each length; samples say both in their tags (`depth`, `length`).

A point's interval is that of any value of an arm (`statistics.estimate`): it knows of clusters, not that thresholds were read off the
same answers, nor how many points there are. Nothing is compared here; differences stand in the cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy

from steelyard.weigh.cells.scoring import Scored, clusters_of
from steelyard.weigh.report.report import Curve, CurvePoint
from steelyard.weigh.statistics.paired import as_pair, estimate
from steelyard.weigh.statistics.selective import linearised
from steelyard.weigh.tasks.task import Metric, Task, Value

BINS, LEAST_IN_BIN = 10, 10
LEVELS = 20  # coverages drawn: 5%, 10%, ... 100%
LEAST_ANSWERS = 20
_TRUE = ("ece", "brier")  # metrics that take a confidence for a probability


def all_curves(tasks: Mapping[str, Task], base: Mapping[str, Scored], arms: Mapping[str, Mapping[str, Sequence[Scored]]]) -> list[Curve]:
    """The curves of all arms, the base's first.

    Args:
        tasks: what was asked, by the name it goes by here.
        base: task -> the base's answers.
        arms: arm -> task -> answers, one for each training seed; the first is drawn.
    """
    sides = {"base": {name: [scored] for name, scored in base.items()}, **arms}
    return [
        curve
        for name, task in tasks.items()
        for arm, answered in sides.items()
        if (runs := answered.get(name))
        for curve in curves_of(arm, task, runs[0])
    ]


def curves_of(arm: str, task: Task, scored: Scored) -> list[Curve]:
    """Whatever curves an arm's answers allow.

    Args:
        arm: its name.
        task: its metrics say whether confidences are there, and whether they are probabilities.
        scored: the arm's answers; those that failed are left out.
    """
    if scored.obstacle or not scored.samples:
        return []
    return [*_of_confidence(arm, task, scored), *_by_position(arm, task, scored)]


def _of_confidence(arm: str, task: Task, scored: Scored) -> list[Curve]:
    metric = next((metric for metric in task.metrics if metric.kind in ("auroc", "aurc")), None)
    if metric is None:
        return []
    clusters = clusters_of(scored.samples)
    found = [
        (float(value[0]), float(value[1]), clusters[place] or f"\0{place}")
        for place, value in enumerate(scored.values[metric.name])
        if isinstance(value, tuple) and all(map(math.isfinite, value))
    ]
    if len(found) < LEAST_ANSWERS:
        return []
    found.sort(key=lambda one: -one[0])
    out = [Curve("risk_coverage", arm, task.name, "wrong", "share", False, "", _risks(found))]
    probable = any(other.name.split("_")[0] in _TRUE or other.kind in _TRUE for other in task.metrics)
    if probable and found[-1][0] >= 0 and found[0][0] <= 1:
        out.append(Curve("reliability", arm, task.name, "right", "share", True, "", _bins(found[::-1])))
    return out


def _risks(found: Sequence[tuple[float, float, str]]) -> list[CurvePoint]:
    """Share wrong among the surest, at thresholds: answers of equal confidence are given together."""
    count, points, last = len(found), [], 0
    for level in range(1, LEVELS + 1):
        stop = max(last, math.ceil(count * level / LEVELS - 1e-9))
        while stop < count and found[stop][0] == found[stop - 1][0]:
            stop += 1
        if stop > last:
            points += _point(stop / count, [(1 - right, cluster) for _, right, cluster in found[:stop]])
            last = stop
    return points


def _bins(found: Sequence[tuple[float, float, str]]) -> list[CurvePoint]:
    """Groups of about equal size by confidence, lowest first; equal confidences share a group."""
    count, points, start = len(found), [], 0
    groups = max(1, min(BINS, count // LEAST_IN_BIN))
    for group in range(1, groups + 1):
        stop = max(start, round(count * group / groups))
        while start < stop < count and found[stop][0] == found[stop - 1][0]:
            stop += 1
        if stop > start:
            members = found[start:stop]
            points += _point(sum(sure for sure, _, _ in members) / len(members), [(right, cluster) for _, right, cluster in members])
            start = stop
    return points


def _by_position(arm: str, task: Task, scored: Scored) -> list[Curve]:
    metric, clusters = task.metrics[0], clusters_of(scored.samples)
    if metric.kind not in ("mean", "ratio"):
        return []
    (column,) = linearised(metric, [scored.values[metric.name]])
    places: dict[tuple[float, str], dict[float, list[tuple[Value, str]]]] = {}
    for number, sample in enumerate(scored.samples):
        depth, length = _share(sample.tags.get("depth")), _number(sample.tags.get("length"))
        if depth is None or column[number] is None:
            continue
        label = "" if length is None else f"{length:g} {sample.tags.get('length_unit', 'tokens')}"
        at = places.setdefault((length or 0.0, label), {})
        at.setdefault(depth, []).append((column[number], clusters[number] or f"\0{number}"))
    if len({depth for at in places.values() for depth in at}) < 2:  # one place says nothing about places
        return []
    kind: Literal["position"] = "position"
    curves = []
    for (_, label), depths in sorted(places.items()):
        points = [point for depth in sorted(depths) for point in _point(depth, depths[depth], metric)]
        curves.append(Curve(kind, arm, task.name, metric.name, metric.unit, metric.higher_is_better, label, points))
    return curves


def _point(at: float, values: Iterable[tuple[Value, str]], metric: Metric | None = None) -> list[CurvePoint]:
    """A point over (value, cluster); none where the metric applies to nothing. Without a metric the values are shares."""
    rows = list(values)
    pairs = numpy.array([as_pair(value) for value, _ in rows], dtype=numpy.float64).reshape(-1, 2)
    codes = {name: number for number, name in enumerate(dict.fromkeys(name for _, name in rows))}
    share = metric is None or (metric.unit == "share" and metric.kind == "mean")
    binary = bool(share and numpy.isin(pairs[:, 0], (0.0, 1.0)).all())
    found = estimate(pairs, numpy.array([codes[name] for _, name in rows], dtype=numpy.int64), binary=binary, bounded=share)
    if found is None or not math.isfinite(found.value):
        return []
    low, high = found.interval or (None, None)
    return [CurvePoint(round(at, 6), found.value, low, high, found.n)]


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _share(text: str | None) -> float | None:
    value = _number(text)
    return value if value is not None and 0 <= value <= 1 else None
