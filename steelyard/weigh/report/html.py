"""The report as one page: everything it needs is inside it, and nothing in it can reach a network.

The page is drawn from templates by Jinja with escaping on for everything, and after that every string passes `visible`. Its
content security policy allows the one script and the one style sheet whose digests it names, and scripts that lie beside
it; so even if something a model wrote were taken for markup, it would not run.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import markupsafe
import yaml

from steelyard.core.axes import AXES
from steelyard.core.files import write_text
from steelyard.weigh.report import curves, scaling
from steelyard.weigh.report.checks import checks
from steelyard.weigh.report.columns import (
    BY_ARM,
    Column,
    all_columns,
    base_name,
    base_spans,
    column_of,
    grid,
    headline,
    measure,
    others,
    task_title,
)
from steelyard.weigh.report.details import write_details
from steelyard.weigh.report.diffs import Piece, compare
from steelyard.weigh.report.figures import finite, from_to, moment, scale, words
from steelyard.weigh.report.findings import findings, limits
from steelyard.weigh.report.glossary import glossary
from steelyard.weigh.report.heading import (
    change_text,
    cost_rows,
    machine_rows,
    machine_text,
    model_name,
    parameters_text,
    seeds_text,
    title,
    took,
)
from steelyard.weigh.report.json import plain
from steelyard.weigh.report.plots import HEIGHT, IntervalPlot, interval_plot, tradeoff
from steelyard.weigh.report.report import Cell, Flip, Report
from steelyard.weigh.report.verdicts import MARKS
from steelyard.weigh.report.visible import clip, visible

MOST_BYTES = 3_000_000
PLOT_BYTES, PICTURE_BYTES, CELL_BYTES, CURVE_BYTES = 700_000, 350_000, 800_000, 450_000
MOST_FLIPS = 200
TEXT_LIMITS = (8000, 4000, 2000, 1000, 500, 250, 120)  # characters shown of one text; the first at which all flips fit
LONGEST_NAME, LONGEST_TEXT = 120, 40_000
MOST_COLUMNS = 7  # of a table of results
CELL_HEADS = (
    *("Arm", "Axis", "Task", "Metric", "Verdict", "Unit", "Base", "Arm's value"),
    *("Difference", "In % of base", "Margin", "n", "Remarks"),
)
"""Headings of the table of all cells, in the order of `templates/cell.html.j2`."""
_LABELS = "".join(f'  .cells tbody tr > :nth-child({place})::before {{ content: "{head}"; }}\n' for place, head in enumerate(CELL_HEADS, 1))
"""On narrow windows, where a row is a block: each figure says which it is."""
_TEMPLATES = Path(__file__).parent / "templates"
S = TypeVar("S")
T = TypeVar("T")


def write_html(report: Report, path: Path, details: Mapping[tuple[str, str], list[dict[str, Any]]] | None = None) -> None:
    """Writes `report.html` (at most 3 MB) and, if there are details, the folder `details` beside it.

    Args:
        report: what to show.
        path: where the page goes; written atomically.
        details: (arm, task) -> rows with `sample`, `question`, `expected`, `text`, `values`.

    Raises:
        SteelyardError: when the disk is full; an older page is left as it was.
    """
    manifest = write_details(path.parent, details) if details else []
    write_text(path, page(report, manifest))


def page(report: Report, manifest: Sequence[Mapping[str, Any]] = ()) -> str:
    """The page as text. `manifest` says what lies in `details` beside it."""
    templates = _environment()
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    style += f"@media screen and (max-width: 880px) {{\n{_LABELS}}}\n"
    cells, spans, heads = grid(report), base_spans(report), headline(report)
    plots, plots_left = _drawn("plot", _by_weight(report), lambda column: interval_plot(report, column, cells), PLOT_BYTES)
    pictures, pictures_left = _drawn("picture", _pairs(report, spans), lambda pair: tradeoff(report, *pair, cells), PICTURE_BYTES)
    bends, bends_left = _drawn("curves", curves.drawn(report), lambda one: one, CURVE_BYTES)
    rows, rows_left = _drawn("cell", sorted(report.cells, key=lambda cell: not cell.primary), lambda cell: cell, CELL_BYTES)
    values = {
        "report": report,
        "title": title(report),
        "base": base_name(report),
        "arms": others(report),
        "model": model_name(report),
        "seeds": seeds_text(report),
        "machine": machine_text(report),
        "took": took(report),
        "machine_rows": machine_rows(report),
        "changes": {arm: change_text(report, arm) for arm in report.arms},
        "headline": heads,
        "cells": cells,
        "cell_heads": CELL_HEADS,
        "spans": {column: from_to(*span, column.unit) for column, span in spans.items()},
        "by_arm": BY_ARM,
        "findings": findings(report),
        "checks": checks(report),
        "limits": limits(report),
        "plots": _in_order([one for one in plots if one[0].column in heads]),
        "more_plots": _by_axis([one for one in plots if one[0].column not in heads]),
        "undrawn": _undrawn(report),
        "glossary": glossary(dict.fromkeys(column.metric for column in all_columns(report))),
        "tasks": [task for task in dict.fromkeys(cell.task for cell in report.cells) if task and task_title(task) == task],
        "plots_left": plots_left,
        "pictures": pictures,
        "pictures_left": pictures_left,
        "laws": markupsafe.Markup("").join(_macro("scaling")(law, place) for place, law in enumerate(scaling.drawn(report))),
        "curves": [drawn for _, drawn in bends],
        "curves_left": bends_left,
        "pictures_without": [column.name for column in heads if column in spans and not column.is_cost],
        "quality_columns": list(dict.fromkeys(picture.quality for picture, _ in pictures)),
        "cost_columns": list(dict.fromkeys(picture.cost for picture, _ in pictures)),
        "rows": [drawn for _, drawn in rows],
        "rows_left": rows_left,
        "recipe": clip(yaml.safe_dump(plain(report.recipe, sort=False), sort_keys=False, allow_unicode=True, width=110), LONGEST_TEXT),
        "manifest": [{**entry, "title": task_title(str(entry["task"]))} for entry in manifest],
        "style": markupsafe.Markup(style),
        "script": markupsafe.Markup(script),
        "policy": _policy(style, script),
        "flips": [],
        "flips_left": 0,
    }
    shell = templates.get_template("report.html.j2")
    shown = report.flips[:MOST_FLIPS]
    room = MOST_BYTES - _size(shell.render(values | {"flips": [""], "flips_left": len(report.flips)}))
    drawn = _flips(report, shown, room)
    return shell.render(values | {"flips": drawn, "flips_left": len(report.flips) - len(drawn)}).lstrip()


def _policy(style: str, script: str) -> str:
    """Nothing may be loaded but scripts that lie beside the page; nothing may be sent anywhere."""

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    rules = ["default-src 'none'", f"script-src {digest(script)} 'self' file:", f"style-src {digest(style)}", "img-src data:"]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value,
    )
    environment.filters |= {
        "words": words,
        "moment": moment,
        "measure": measure,
        "task": task_title,
        "parts": _parts,
        "name": lambda text: clip(str(text), LONGEST_NAME)[0] + "…" * (len(str(text)) > LONGEST_NAME),
        "breakable": lambda text: markupsafe.Markup("<wbr>").join(map(visible, re.split(r"(?<=[_/])", text))),
        "costs": cost_rows,
        "parameters": parameters_text,
        "foretold": scaling.foretold_text,
        "factor": lambda unit: scale(unit).factor,
        "unit": lambda unit: scale(unit).unit,
        "clip": clip,
        "short": lambda value: f"{value:.3g}" if isinstance(value, float) else str(value),
    }
    environment.globals |= {"HEIGHT": HEIGHT, "CURVE_HEIGHT": curves.CURVE_HEIGHT, "marks": MARKS}
    return environment


def _size(text: str) -> int:
    return len(text.encode("utf-8"))


def _drawn(
    template: str, things: Iterable[S], prepare: Callable[[S], T | None], budget: int
) -> tuple[list[tuple[T, markupsafe.Markup]], int]:
    """As many things as the budget of bytes allows, prepared and drawn, and how many are left; what prepares to None is passed over."""
    draw = _macro(template)
    kept, used, left = [], 0, 0
    for place, thing in enumerate(things):
        if left:
            left += 1  # all that follow matter less
        elif (ready := prepare(thing)) is not None:
            text = draw(ready, place)
            used += _size(text)
            if used <= budget:
                kept.append((ready, text))
            else:
                left = 1
    return kept, left


def _macro(name: str) -> Callable[..., markupsafe.Markup]:
    return getattr(_environment().get_template(f"{name}.html.j2").module, name)


def _by_weight(report: Report) -> list[Column]:
    """All columns, those of the headline first: what does not fit should be what matters least."""
    heads = headline(report)
    return heads + [column for column in all_columns(report) if column not in heads]


def _in_order(plots: list[tuple[IntervalPlot, markupsafe.Markup]]) -> list[markupsafe.Markup]:
    """The plots by axis, as every list of axes here."""
    rank = {axis: place for place, axis in enumerate(AXES)}
    return [drawn for _, drawn in sorted(plots, key=lambda one: rank.get(one[0].column.axis, len(AXES)))]


def _by_axis(plots: list[tuple[IntervalPlot, markupsafe.Markup]]) -> list[tuple[str, list[markupsafe.Markup]]]:
    """Axis -> its plots, axes in their order."""
    axes = sorted({plot.column.axis for plot, _ in plots}, key=lambda axis: AXES.index(axis) if axis in AXES else len(AXES))
    return [(axis, [drawn for plot, drawn in plots if plot.column.axis == axis]) for axis in axes]


def _undrawn(report: Report) -> list[str]:
    """Measures on which arms were looked at and none has a difference, with the verdicts."""
    verdicts: dict[Column, list[str]] = {}
    for cell in report.cells:
        if cell.arm != base_name(report):
            verdicts.setdefault(column_of(cell), []).append(cell.verdict if finite(cell.difference) is None else "")
    return [f"{column.name} ({', '.join(dict.fromkeys(words))})" for column, words in verdicts.items() if "" not in words]


def _parts(columns: Sequence[T], most: int = MOST_COLUMNS) -> list[Sequence[T]]:
    """The columns in parts of about equal size, none larger than `most`: side by side they would not fit the page."""
    count = math.ceil(len(columns) / most)
    edges = [round(len(columns) * place / max(count, 1)) for place in range(count + 1)]
    return [columns[low:high] for low, high in itertools.pairwise(edges)]


def _pairs(report: Report, spans: Collection[Column]) -> list[tuple[Column, Column]]:
    """Quality and cost columns to draw against each other, those of the headline first; none in which the base has several values (`spans`)."""
    heads, columns = headline(report), all_columns(report)
    answers = [column for column in heads if not column.is_cost and column not in spans]
    costs = [column for column in heads if column.is_cost] + [column for column in columns if column.is_cost and column not in heads]
    ranked = sorted(itertools.product(enumerate(answers), enumerate(costs)), key=lambda pair: pair[0][0] + pair[1][0])
    return [(quality, cost) for (_, quality), (_, cost) in ranked]


@dataclass(frozen=True)
class Changed:
    """A flip as shown: texts clipped to what the page can hold, the answers cut into pieces."""

    flip: Flip
    way: str
    question: tuple[str, int]
    expected: tuple[str, int]
    base: list[Piece]
    base_left: int
    arm: list[Piece]
    arm_left: int


def _flips(report: Report, flips: list[Flip], room: int) -> list[markupsafe.Markup]:
    """The flips drawn with the longest texts at which all fit; with the shortest, as many as fit."""
    draw, metrics = _macro("flip"), {(cell.task, cell.metric): cell for cell in report.cells}
    texts = [[_shown(text) for text in (flip.question, flip.expected, flip.base_text, flip.arm_text)] for flip in flips]
    drawn: list[markupsafe.Markup] = []
    for limit in TEXT_LIMITS:
        least = sum(min(len(text), limit) for four in texts for text, _ in four)
        if least > room and limit != TEXT_LIMITS[-1]:
            continue  # even unescaped it would not fit
        drawn, used = [], 0
        for flip, four in zip(flips, texts, strict=True):
            text = draw(_changed(flip, metrics.get((flip.task, flip.metric)), [_cut(one, limit) for one in four]), len(drawn))
            used += _size(text)
            if used > room:
                break
            drawn.append(text)
        if len(drawn) == len(flips):
            break
    return drawn


Shown = tuple[str, int]  # a text as shown, and how many characters were left out


def _shown(text: str) -> Shown:
    text, left = clip(text, TEXT_LIMITS[0])
    return visible(text), left


def _cut(shown: Shown, limit: int) -> Shown:
    text, left = clip(shown[0], limit)
    return text, left + shown[1]


def _changed(flip: Flip, cell: Cell | None, texts: list[Shown]) -> Changed:
    question, expected, (base, base_left), (arm, arm_left) = texts
    pieces = compare(base, arm)
    way = "changed"
    if flip.base_value is not None and flip.arm_value is not None and flip.base_value != flip.arm_value:
        higher = cell.higher_is_better if cell else True
        way = "gained" if (flip.arm_value > flip.base_value) == higher else "lost"
    sides = ([piece for piece in pieces if piece.kind != other] for other in ("new", "gone"))
    return Changed(flip, way, question, expected, next(sides), base_left, next(sides), arm_left)
