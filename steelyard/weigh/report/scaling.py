"""Scaling laws as a person reads them: figures in words, and a picture of loss against operations."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steelyard.weigh.report.figures import MISSING, decimals, number
from steelyard.weigh.report.heading import parameters_text
from steelyard.weigh.report.plots import BOTTOM, TOP, Axis, axis_over
from steelyard.weigh.report.report import Report, ScalingFigure, ScalingLaw

LEFT, RIGHT = 6.0, 97.0  # percent of the width
COUNTS = ("A", "B", "best_parameters", "best_tokens")
"""Figures that span orders of magnitude: three digits, and a letter for thousands or millions."""


@dataclass(frozen=True)
class Dot:
    """A point: x in percent, y in pixels."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Track:
    """Trainings of one size: their dots, the law's line through them, and where the size is written."""

    size: str
    dots: list[Dot]
    line: list[tuple[float, float, float, float]]
    label: tuple[float, float]


@dataclass(frozen=True)
class Drawn:
    """A law as the page shows it."""

    law: ScalingLaw
    rows: list[tuple[str, str, str, str]]
    tracks: list[Track]
    x_ticks: list[tuple[float, str]]
    y_axis: Axis


def drawn(report: Report) -> list[Drawn]:
    """All laws of a report."""
    return [Drawn(law, [_row(figure) for figure in law.figures], *_picture(law)) for law in report.scaling]


def lines(report: Report) -> list[str]:
    """The laws in a few lines of text."""
    out = []
    for law in report.scaling:
        out.append(f"Scaling law of {law.name} ({len(law.points)} points). {law.verdict}")
        told = [
            f"{name} {value} {interval}".rstrip() for name, value, interval, _ in map(_row, law.figures) if name in ("E", "alpha", "beta")
        ]
        out += [", ".join(told) + "."] * bool(told)
        out += [foretold_text(law)] * bool(law.foretold)
    return out


def foretold_text(law: ScalingLaw) -> str:
    """How well the costliest training was foretold by the others; "" where it was not tried."""
    if (told := law.foretold) is None:
        return ""
    hit = told.low <= told.loss <= told.high
    return (
        f"A law of all other points foretells the costliest ({', '.join(told.arms)}): {told.foretold:.3f} "
        f"[{told.low:.3f}, {told.high:.3f}]; measured {told.loss:.3f}, {'inside' if hit else 'outside'} the interval."
    )


def _row(figure: ScalingFigure) -> tuple[str, str, str, str]:
    """Name, value, interval, words."""
    interval = (figure.low, figure.high) if figure.low is not None and figure.high is not None else None
    if figure.name in COUNTS:
        text = parameters_text(round(figure.value)) if figure.value < 1e15 else f"{figure.value:.3g}"
        span = (
            ""
            if interval is None
            else f"[{', '.join(parameters_text(round(edge)) if edge < 1e15 else f'{edge:.3g}' for edge in interval)}]"
        )
    else:
        places = min(decimals(figure.value, interval), 4)
        text = number(figure.value, places)
        span = "" if interval is None else f"[{number(interval[0], places)}, {number(interval[1], places)}]"
    return figure.name.replace("_", " "), text or MISSING, span, figure.words + ("" if figure.settled else " (not settled)")


def _picture(law: ScalingLaw) -> tuple[list[Track], list[tuple[float, str]], Axis]:
    points = [point for point in law.points if math.isfinite(point.loss) and point.loss > 0 and point.flops > 0]
    works = [math.log10(point.flops) for point in points]
    x_axis = axis_over(works, 0.1, LEFT, RIGHT, 5)
    y_axis = axis_over([value for point in points for value in (point.loss, point.fitted or point.loss)], 0.08, BOTTOM, TOP, 4)
    sizes: dict[int, list] = {}
    for point in points:
        sizes.setdefault(point.parameters, []).append(point)
    tracks = []
    for size, members in sorted(sizes.items()):
        dots = [
            Dot(x_axis.at(math.log10(point.flops)), y_axis.at(point.loss), f"{', '.join(point.arms)}: {point.loss:.3f} nats a token")
            for point in members
        ]
        fitted = [(x_axis.at(math.log10(p.flops)), y_axis.at(p.fitted)) for p in members if p.fitted is not None]
        pieces = [(*one, *other) for one, other in zip(fitted, fitted[1:], strict=False)]
        tracks.append(Track(parameters_text(size), dots, pieces, (dots[-1].x, dots[-1].y)))
    low, high = (math.ceil(x_axis.low), math.floor(x_axis.high))
    return tracks, [(x_axis.at(power), f"1e{power}") for power in range(low, high + 1)], y_axis
