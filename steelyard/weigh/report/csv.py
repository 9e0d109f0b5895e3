"""A report's cells as CSV, one row each, numbers unrounded (six digits, as in report.json) and in their stored unit: shares from 0 to 1."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from steelyard.weigh.report.json import rounded
from steelyard.weigh.report.report import Cell, Report
from steelyard.weigh.report.visible import visible

COLUMNS = (
    "arm", "axis", "task", "metric", "unit", "higher_is_better", "base", "base_low", "base_high", "value", "value_low", "value_high",
    "difference", "low", "high", "margin", "n", "primary", "verdict", "source", "samples_to_settle", "note",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def to_csv(report: Report) -> str:
    """All cells, RFC 4180; what was not measured is an empty field.

    A text that a spreadsheet would take for a formula gets an apostrophe before it: arms and notes may hold what others wrote.
    """
    return cells_csv(report.cells)


def cells_csv(cells: Sequence[Cell]) -> str:
    """Cells as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for cell in cells:
        ends = {
            "base_low": cell.base_interval and cell.base_interval[0],
            "base_high": cell.base_interval and cell.base_interval[1],
            "value_low": cell.value_interval and cell.value_interval[0],
            "value_high": cell.value_interval and cell.value_interval[1],
        }
        writer.writerow([_field(ends[name] if name in ends else getattr(cell, name)) for name in COLUMNS])
    return out.getvalue()


def _field(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        kept = rounded(value)
        return "" if kept is None else repr(kept)
    if isinstance(value, int):
        return value
    text = visible(value)
    return "'" + text if text.startswith(_FORMULA) else text
