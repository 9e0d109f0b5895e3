"""Geometry of the report's pictures. The templates draw it as inline SVG, in percent of the width, so that pictures follow the
page's width and theme without a script and text keeps its size.

Two kinds: an interval plot per metric (arms as rows, differences from the base against the margin of equivalence) and
quality against cost (arms as points).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from steelyard.weigh.report.columns import Column, base_name, base_span, others
from steelyard.weigh.report.figures import Words, finite, from_to, number, pair, scale, words
from steelyard.weigh.report.report import Cell, Report

Cells = dict[tuple[Column, str], Cell]
# An arm whose interval reaches this many times further than the next is drawn at the edge, where that would squeeze the others'
# intervals into dots (as a planted defect does). Its numbers stand beside it.
OFF_SCALE = 10.0


@dataclass(frozen=True)
class Axis:
    """A linear scale from data to percent of the width (or another length), with ticks at round numbers."""

    low: float
    high: float
    start: float = 0.0
    stop: float = 100.0
    count: int = 4

    def at(self, value: float) -> float:
        """Where a value lies; values beyond the axis lie on its edge."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(place, label) of round values."""
        step = _round_step((self.high - self.low) / self.count)
        places = max(0, -math.floor(math.log10(step) + 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        values = [step * k for k in range(first, math.floor(self.high / step + 1e-9) + 1)]
        return [(self.at(value), _tick(value, places if step < 1e9 else MOST_PLACES + 1)) for value in values]


MOST_PLACES = 6  # decimals of a tick


def _tick(value: float, places: int) -> str:
    """A tick's label; nought is short whatever stands beside it."""
    if places > MOST_PLACES:
        return f"{value:.3g}"
    return "0" if round(value, places) == 0 else number(value, places)


def _round_step(rough: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below a rough step."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))


def axis_over(values: Iterable[float], padding: float = 0.08, start: float = 0.0, stop: float = 100.0, count: int = 4) -> Axis:
    """An axis that holds all values with some air around them."""
    known = [value for value in values if math.isfinite(value) and abs(value) < 1e300] or [0.0]
    low, high = min(known), max(known)
    spread = high - low
    if spread <= max(abs(low), abs(high)) * 1e-9 or spread < 1e-100:
        spread = abs(high) * 0.2 if abs(high) > 1e-100 else 1.0
    return Axis(low - padding * spread, high + padding * spread, start, stop, count)


@dataclass(frozen=True)
class Row:
    """An arm in an interval plot: places in percent, None where there is nothing to draw. `off` says at which edge it left the scale."""

    cell: Cell
    words: Words
    at: float | None = None
    low: float | None = None
    high: float | None = None
    off: str = ""


@dataclass(frozen=True)
class IntervalPlot:
    """Differences of all arms from the base on one metric. `base_span` tells the base's values where they depend on the arm."""

    column: Column
    unit: str
    rows: list[Row]
    base: Cell | None
    base_words: Words | None
    axis: Axis
    zero: float
    band: tuple[float, float] | None
    margin: str
    base_span: str = ""

    @property
    def n(self) -> str:
        """How many samples or runs were compared: `n 60`, or `n 55 to 60` where arms differ."""
        counts = sorted({row.cell.n for row in self.rows})
        return f"n {counts[0]:,}" if len(counts) == 1 else f"n {counts[0]:,} to {counts[-1]:,}"

    @property
    def off_scale(self) -> bool:
        return any(row.off for row in self.rows)

    @property
    def primary(self) -> bool:
        return any(row.cell.primary for row in self.rows)


def interval_plot(report: Report, column: Column, cells: Cells) -> IntervalPlot | None:
    """The interval plot of a metric, or None where no arm has a difference to draw."""
    mine = [cells[column, arm] for arm in others(report) if (column, arm) in cells]
    if not any(finite(cell.difference) is not None for cell in mine):
        return None
    factor = scale(column.unit).factor
    margins = [abs(margin) * factor for cell in mine if (margin := finite(cell.margin)) is not None]
    margin = max(margins, default=0.0)
    spans = [_span(cell, factor) for cell in mine]
    limit = _limit([max(map(abs, span)) for span in spans if span], margin)
    inside = [value for span in spans if span for value in span if abs(value) <= limit]
    edges = [math.copysign(limit, furthest) for span in spans if span and abs(furthest := max(span, key=abs)) > limit]
    axis = axis_over([0.0, -margin, margin, *inside, *edges])
    base = cells.get((column, base_name(report)))
    band = (axis.at(-margin), round(axis.at(margin) - axis.at(-margin), 2)) if margin else None
    rows = [_row(cell, span, axis) for cell, span in zip(mine, spans, strict=True)]
    label = next((words(cell).margin for cell in mine if cell.margin is not None), "")
    span = base_span(mine) if base is None or base.value is None else None
    return IntervalPlot(
        column, scale(column.unit).difference_unit, rows, base, words(base) if base else None, axis, axis.at(0.0), band, label,
        from_to(*span, column.unit) if span else "",
    )  # fmt: skip


def _span(cell: Cell, factor: float) -> tuple[float, float, float] | None:
    """Difference, low, high, scaled; a difference without interval is its own interval."""
    if (difference := finite(cell.difference)) is None:
        return None
    low, high = pair(cell.low, cell.high) or (difference, difference)
    return difference * factor, low * factor, high * factor


def _limit(reaches: list[float], margin: float) -> float:
    """How far from zero the scale goes: to the furthest reach, unless few arms lie far beyond the others."""
    ordered = sorted(reaches)
    for place in range(max(1, (len(ordered) + 1) // 2), len(ordered)):
        nearer = max(ordered[place - 1], margin)
        if ordered[place - 1] > margin / 2 and ordered[place] > OFF_SCALE * nearer:
            return 1.5 * nearer
    return max([*ordered, margin], default=1.0)


def _row(cell: Cell, span: tuple[float, float, float] | None, axis: Axis) -> Row:
    if span is None:
        return Row(cell, words(cell))
    difference, low, high = span
    off = "left" if difference < axis.low else "right" if difference > axis.high else ""
    return Row(cell, words(cell), axis.at(difference), axis.at(low), axis.at(high), off)


HEIGHT = 340  # pixels of the quality-against-cost picture
TOP, BOTTOM = 34, 292
NARROW = 430  # pixels of width the labels are kept apart for
LETTER, LINE = 7.2, 15  # pixels a letter takes, and a line


@dataclass(frozen=True)
class Point:
    """An arm in the quality-against-cost picture. x in percent, y in pixels; the label's offset in pixels."""

    arm: str
    is_base: bool
    quality: Cell
    cost: Cell
    quality_words: Words
    cost_words: Words
    x: float
    y: float
    x_span: tuple[float, float] | None
    y_span: tuple[float, float] | None
    label: tuple[float, float, str] = (0.0, 0.0, "start")


@dataclass(frozen=True)
class Tradeoff:
    """Quality against cost: where each arm lies, and the region that beats the base on both.

    Attributes:
        better: (x, y, width, height) of that region, x and width in percent, y and height in pixels; None without a base.
        front: the arms that no other arm equals or beats on both while beating it on one, cheapest first.
        stairs: the line along the front, as pieces (x1, y1, x2, y2): what lies on its worse side is beaten by somebody.
    """

    quality: Column
    cost: Column
    points: list[Point]
    x_axis: Axis
    y_axis: Axis
    better: tuple[float, float, float, float] | None
    modelled: bool
    missing: list[str] = field(default_factory=list)
    front: list[str] = field(default_factory=list)
    stairs: list[tuple[float, float, float, float]] = field(default_factory=list)


def tradeoff(report: Report, quality: Column, cost: Column, cells: Cells) -> Tradeoff | None:
    """The picture for one pair of metrics, or None where fewer than two arms have both."""
    pairs = [(arm, cells.get((quality, arm)), cells.get((cost, arm))) for arm in report.arms]
    known = [(arm, q, c) for arm, q, c in pairs if q and c and finite(q.value) is not None and finite(c.value) is not None]
    if len(known) < 2:
        return None
    x_axis = axis_over([v for _, _, cell in known for v in _level(cell)], 0.1, 6.0, 97.0, 5)
    y_axis = axis_over([v for _, cell, _ in known for v in _level(cell)], 0.08, BOTTOM, TOP, 4)
    points = _place_labels([_point(report, arm, q, c, x_axis, y_axis) for arm, q, c in known])
    base = next((point for point in points if point.is_base), None)
    missing = [arm for arm in report.arms if arm not in {point.arm for point in points}]
    front = pareto([((c.value or 0.0) * _sign(cost), (q.value or 0.0) * _sign(quality)) for _, q, c in known])
    ahead = [points[place] for place in front]
    stairs = [
        piece
        for one, other in zip(ahead, ahead[1:], strict=False)
        for piece in ((one.x, one.y, other.x, one.y), (other.x, one.y, other.x, other.y))
    ]
    modelled = any(c.source == "modelled" for _, _, c in known)
    return Tradeoff(quality, cost, points, x_axis, y_axis, _better(base), modelled, missing, [point.arm for point in ahead], stairs)


def _sign(column: Column) -> int:
    return 1 if column.higher_is_better else -1


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points that none beats: no other is at least as high in both and higher in one. The highest in the first come first;
    equal points are all kept.

    Args:
        points: (first, second), higher is better in both.
    """
    best, front = -math.inf, []
    order = sorted(range(len(points)), key=lambda place: (-points[place][0], -points[place][1]))
    for place in order:
        second = points[place][1]
        if second > best or (front and points[place] == points[front[-1]]):
            front.append(place)
            best = max(best, second)
    return front


def _level(cell: Cell) -> tuple[float, ...]:
    """A cell's value and its interval's bounds, scaled."""
    factor, interval = scale(cell.unit).factor, pair(*cell.value_interval) if cell.value_interval else None
    return tuple(value * factor for value in ((cell.value or 0.0), *(interval or ())))


def _point(report: Report, arm: str, quality: Cell, cost: Cell, x_axis: Axis, y_axis: Axis) -> Point:
    (x, *xs), (y, *ys) = _level(cost), _level(quality)
    x_span = (x_axis.at(xs[0]), x_axis.at(xs[1])) if xs else None
    y_span = (y_axis.at(ys[0]), y_axis.at(ys[1])) if ys else None
    return Point(arm, arm == base_name(report), quality, cost, words(quality), words(cost), x_axis.at(x), y_axis.at(y), x_span, y_span)


def _better(base: Point | None) -> tuple[float, float, float, float] | None:
    if base is None:
        return None
    left, right = (base.x, 100.0) if base.cost.higher_is_better else (0.0, base.x)
    top, bottom = (TOP - 18, base.y) if base.quality.higher_is_better else (base.y, BOTTOM + 8)
    return left, round(top, 2), round(right - left, 2), round(bottom - top, 2)


def _place_labels(points: list[Point]) -> list[Point]:
    """Each label at the first of eight places around its point where it covers neither point nor label."""
    taken = [(_x(point) - 7, point.y - 7, _x(point) + 7, point.y + 7) for point in points]
    placed = []
    for point in points:
        width, x, y = LETTER * min(len(point.arm), 24), _x(point), point.y
        places = [
            (7.0, -8.0, "start"), (7.0, 17.0, "start"), (-7.0, -8.0, "end"), (-7.0, 17.0, "end"),
            (10.0, 4.0, "start"), (-10.0, 4.0, "end"), (7.0, -23.0, "start"), (7.0, 32.0, "start"),
        ]  # fmt: skip
        boxes = {
            place: (start := x + place[0] - width * (place[2] == "end"), y + place[1] - LINE + 3, start + width, y + place[1] + 3)
            for place in places
        }
        inside = [place for place in places if _fits(boxes[place])] or places
        best = next((place for place in inside if not any(_overlap(boxes[place], other) for other in taken)), inside[0])
        taken.append(boxes[best])
        placed.append(dataclasses.replace(point, label=best))
    return placed


def _x(point: Point) -> float:
    return point.x / 100 * NARROW


def _fits(box: tuple[float, float, float, float]) -> bool:
    return box[0] >= 0 and box[2] <= NARROW


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
