"""Which results head the report: per axis its primary results, on the whole few enough to be read at a glance."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from steelyard.core.axes import AXES
from steelyard.weigh.report.figures import finite
from steelyard.weigh.report.report import Cell, Report

COSTS = ("speed", "memory", "energy", "money")
MOST_QUALITY_TASKS = 4
BY_ARM = "the base's value depends on the arm it is compared with"
_DERIVED = re.compile(r"(.+), (perturbed|right answers)")  # tasks that ask another task's questions in another way
_SHOWN = re.compile(r"(.+) \((perturbed|right answers)\)")


@dataclass(frozen=True)
class Column:
    """One metric of one task (task "" = of the whole arm), the same for all arms."""

    axis: str
    task: str
    metric: str
    unit: str
    higher_is_better: bool

    @property
    def name(self) -> str:
        """Task and metric, as a person would say them."""
        return measure(self)

    @property
    def is_cost(self) -> bool:
        return self.axis in COSTS


def measure(of: Column | Cell) -> str:
    """Task and metric as a person would say them: `facts · right when answered`; once, where both are called the same."""
    metric = of.metric.replace("_", " ")
    if not of.task:
        return f"price {metric}" if metric.startswith("per ") else metric
    return of.task if of.task.replace("_", " ") == metric else f"{task_title(of.task)} · {metric}"


def task_title(task: str) -> str:
    """A task as a person reads it: `facts (perturbed)` where records and `report.json` say `facts, perturbed`, two names in a list."""
    found = _DERIVED.fullmatch(task)
    return f"{found[1]} ({found[2]})" if found else task


def task_key(shown: str) -> str:
    """A task as records call it, from either of its names (see `task_title`)."""
    found = _SHOWN.fullmatch(shown)
    return f"{found[1]}, {found[2]}" if found else shown


def column_of(cell: Cell) -> Column:
    """The column a cell stands in."""
    return Column(cell.axis, cell.task, cell.metric, cell.unit, cell.higher_is_better)


def all_columns(report: Report) -> list[Column]:
    """Every column there is, by axis in their canonical order (axes nobody knows here come last), then as measured."""
    seen = list(dict.fromkeys(column_of(cell) for cell in report.cells))
    rank = {axis: place for place, axis in enumerate(AXES)}
    return sorted(seen, key=lambda column: rank.get(column.axis, len(AXES)))


def headline(report: Report) -> list[Column]:
    """Of every axis its primary results; of quality each task's first; else the first one that is not at floor, or at least could be measured."""
    columns, primary = all_columns(report), {column_of(cell) for cell in report.cells if cell.primary}
    measured = {column_of(cell) for cell in report.cells if cell.verdict != "not measurable"}
    telling = {column_of(cell) for cell in report.cells if cell.verdict not in ("not measurable", "floor")}
    chosen: list[Column] = []
    for axis in dict.fromkeys(column.axis for column in columns):
        mine = [column for column in columns if column.axis == axis]
        heads = [column for column in mine if column in primary]
        if axis == "quality":
            firsts = {column.task: column for column in reversed(mine)}
            heads += [c for c in mine if c in firsts.values() and c.task not in {h.task for h in heads}][
                : max(0, MOST_QUALITY_TASKS - len(heads))
            ]
        chosen += heads or [next((column for good in (telling, measured) for column in mine if column in good), mine[0])]
    return chosen


def grid(report: Report) -> dict[tuple[Column, str], Cell]:
    """(column, arm) -> cell, with the base's side read off the arms' cells where the base has none of its own.

    Such a cell of the base carries value, interval and n only; it was compared with nothing. Its n is the least beside any arm: a sample that
    the base gave no value counts where the arm gave one. Where the base's value depends on the arm
    beside it (`base_spans`), its cell has none.
    """
    base, spans, found = base_name(report), base_spans(report), {}
    least = dict[Column, int]()
    for cell in report.cells:
        if finite(cell.base) is not None:
            least[column_of(cell)] = min(cell.n, least.get(column_of(cell), cell.n))
    for cell in report.cells:
        column = column_of(cell)
        found.setdefault((column, cell.arm), cell)
        if (column, base) not in found and finite(cell.base) is not None:
            one = column not in spans
            found[column, base] = dataclasses.replace(
                cell, arm=base, value=cell.base if one else None, value_interval=cell.base_interval if one else None, base=None,
                base_interval=None, difference=None, low=None, high=None, primary=False, note="" if one else BY_ARM, samples_to_settle=None,
                n=least[column],
            )  # fmt: skip
    for cell in report.cells:
        if cell.arm == base:
            found[column_of(cell), base] = cell
    return found


def base_spans(report: Report) -> dict[Column, tuple[float, float]]:
    """Columns in which the base's value depends on the arm beside it, with the least and the largest of its values.

    So it is where an arm decides which answers are compared (`right_at_equal_coverage`: as many as the more silent side gives), and where
    samples that failed on one arm are left out on both sides.
    """
    base, beside = base_name(report), dict[Column, list[Cell]]()
    own = {column_of(cell) for cell in report.cells if cell.arm == base}
    for cell in report.cells:
        beside.setdefault(column_of(cell), []).append(cell)
    return {column: span for column, cells in beside.items() if column not in own and (span := base_span(cells))}


def base_span(cells: Iterable[Cell]) -> tuple[float, float] | None:
    """The least and the largest of the base's values beside several arms on one metric; None where they are one."""
    values = [value for cell in cells if (value := finite(cell.base)) is not None]
    if not values or math.isclose(min(values), max(values), rel_tol=1e-9, abs_tol=1e-12):
        return None
    return min(values), max(values)


def base_name(report: Report) -> str:
    """The first arm."""
    return next(iter(report.arms), "base")


def others(report: Report) -> list[str]:
    """The arms that are compared with the base, in the recipe's order."""
    return [arm for arm in report.arms if arm != base_name(report)]
