"""Geometry of curves: one small picture for each arm, all of a task and kind on the same scale, the base drawn thinly behind.

As in `plots.py`: x in percent of the width, y in pixels, lines in pieces, so that no script is needed. What distinguishes lines is
their dashes and whether their dots are filled, not colour. Every picture's numbers stand in a table beside it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.weigh.report.columns import base_name
from steelyard.weigh.report.figures import finite, scale, words
from steelyard.weigh.report.plots import Axis, axis_over
from steelyard.weigh.report.report import Cell, Curve, CurvePoint, Report

CURVE_HEIGHT, TOP, BOTTOM = 236, 26, 184  # pixels
LEFT, RIGHT = 10.0, 97.0  # percent of the width
MOST_LINES = 6  # of one picture; their numbers are in the table all the same
MOST_ARMS = 24
MOST_ROWS = 400  # of one table

KINDS = {
    "reliability": (
        "Right as often as it says?",
        "stated probability, %",
        "Answers in groups of about equal size by the probability given to them; on the diagonal that probability is the share that was "
        "right, below it the arm is surer than it may be.",
    ),
    "risk_coverage": (
        "What silence buys",
        "answered, surest first, %",
        "Share wrong if only the surest answers were given. A line that rises from the left knows which of its answers are good; a flat one "
        "does not.",
    ),
    "position": (
        "By position",
        "depth in the text, %",
        "One line for each length; 0 is the text's beginning. What is found at the ends and missed in the middle shows as a trough.",
    ),
}
"""Title, what x is, how to read it."""


@dataclass(frozen=True)
class Mark:
    """A point of a line as drawn, with its interval's ends."""

    x: float
    y: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class Line:
    """One line of a panel: `style` counts its dashes, `pieces` are (x1, y1, x2, y2)."""

    group: str
    style: int
    marks: list[Mark]
    pieces: list[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Panel:
    """One arm's picture; `behind` is the base's line."""

    arm: str
    lines: list[Line]
    behind: list[tuple[float, float, float, float]]
    said: str


@dataclass(frozen=True)
class TableRow:
    """One point in words."""

    arm: str
    group: str
    at: str
    value: str
    interval: str
    n: int


@dataclass(frozen=True)
class Drawn:
    """All arms of one kind of curve on one task."""

    kind: str
    task: str
    title: str
    about: str
    x_title: str
    y_title: str
    way: str
    groups: list[tuple[int, str]]
    panels: list[Panel]
    x_axis: Axis
    y_axis: Axis
    diagonal: tuple[float, float, float, float] | None
    rows: list[TableRow]
    rows_left: int
    arms_left: int
    lines_left: int


def drawn(report: Report) -> list[Drawn]:
    """Everything there is to draw, in order of kinds, then of tasks."""
    order = list(KINDS)
    found: dict[tuple[int, str, str], list[Curve]] = {}
    for curve in report.curves:
        if curve.kind in KINDS and (kept := _sound(curve)).points:
            found.setdefault((order.index(curve.kind), curve.task, curve.metric), []).append(kept)
    base = base_name(report)
    return [_drawn(curves, base) for _, curves in sorted(found.items(), key=lambda item: item[0][0])]


def _sound(curve: Curve) -> Curve:
    """The curve without points that cannot be drawn."""
    points = [p for p in curve.points if finite(p.value) is not None and math.isfinite(p.at) and math.isfinite(p.value)]
    return dataclasses.replace(curve, points=sorted(points, key=lambda point: point.at))


def _drawn(curves: Sequence[Curve], base: str) -> Drawn:
    first = curves[0]
    arms = list(dict.fromkeys(curve.arm for curve in curves))
    arms.sort(key=lambda arm: arm != base)
    groups = list(dict.fromkeys(curve.group for curve in curves))
    shown = (
        [groups[round(place * (len(groups) - 1) / (MOST_LINES - 1))] for place in range(MOST_LINES)] if len(groups) > MOST_LINES else groups
    )
    styles = {group: place for place, group in enumerate(shown)}
    factor, axis = scale(first.unit).factor, _axes(curves)
    x_axis, y_axis = axis
    behind: list[tuple[float, float, float, float]] = []
    if len(groups) == 1 and (own := next((curve for curve in curves if curve.arm == base), None)):
        behind = _line(own, 0, factor, axis).pieces
    panels = []
    for arm in arms[:MOST_ARMS]:
        mine = [curve for curve in curves if curve.arm == arm and curve.group in styles]
        lines = [_line(curve, styles[curve.group], factor, axis) for curve in mine]
        panels.append(Panel(arm, lines, behind if arm != base else [], "; ".join(mark.text for line in lines for mark in line.marks[:30])))
    rows = [_row(curve, point) for arm in arms for curve in curves if curve.arm == arm for point in curve.points]
    title, x_title, about = KINDS[first.kind]
    unit = scale(first.unit).unit
    name = first.metric.replace("_", " ")
    diagonal = (x_axis.at(0), y_axis.at(0), x_axis.at(100), y_axis.at(100)) if first.kind == "reliability" else None
    way = "best on the diagonal" if first.kind == "reliability" else "↑ better" if first.higher_is_better else "↓ better"
    return Drawn(
        first.kind, first.task, title, about, x_title, f"{name}, {unit}", way, [(styles[g], g) for g in shown if g],
        panels, x_axis, y_axis, diagonal, rows[:MOST_ROWS], max(0, len(rows) - MOST_ROWS), max(0, len(arms) - MOST_ARMS),
        len(groups) - len(shown),
    )  # fmt: skip


def _axes(curves: Sequence[Curve]) -> tuple[Axis, Axis]:
    """x always runs from 0 to 100%. Reliability needs both ends of y; other shares begin at 0 and go as far as they must."""
    first = curves[0]
    factor, x_axis = scale(first.unit).factor, Axis(0.0, 100.0, LEFT, RIGHT, 5)
    if first.kind == "reliability":
        return x_axis, Axis(0.0, 100.0, BOTTOM, TOP, 4)
    values = [v * factor for c in curves for p in c.points for v in (p.value, p.low, p.high) if v is not None and math.isfinite(v)]
    if first.unit == "share":
        return x_axis, Axis(0.0, max(10.0, min(100.0, max(values))), BOTTOM, TOP, 4)
    return x_axis, axis_over(values, 0.08, BOTTOM, TOP, 4)


def _line(curve: Curve, style: int, factor: float, axes: tuple[Axis, Axis]) -> Line:
    x_axis, y_axis = axes
    marks = []
    for point in curve.points:
        row = _row(curve, point)
        ends = [None if end is None or not math.isfinite(end) else y_axis.at(end * factor) for end in (point.low, point.high)]
        text = " ".join(part for part in (row.at + ":", row.value, row.interval, f"n {row.n}") if part)
        marks.append(
            Mark(x_axis.at(point.at * 100), y_axis.at(point.value * factor), *ends, text=(f"{curve.group}, " * bool(curve.group)) + text)
        )
    pieces = [(one.x, one.y, other.x, other.y) for one, other in zip(marks, marks[1:], strict=False)]
    return Line(curve.group, style, marks, pieces)


def _row(curve: Curve, point: CurvePoint) -> TableRow:
    interval = (point.low, point.high) if point.low is not None and point.high is not None else None
    cell = Cell(
        curve.arm, curve.task, "", curve.metric, curve.unit, curve.higher_is_better, None, None, point.value, interval,
        None, None, None, point.n, False, "not measurable",
    )  # fmt: skip
    said = words(cell)
    return TableRow(curve.arm, curve.group, f"{100 * point.at:.3g}%", said.value, said.value_interval, point.n)
