"""The report as JSON: the same report gives the same bytes, and what a resumed run must repeat can be taken alone.

Not-a-number and infinity have no place in JSON; they become null, which is what a number that could not be measured is.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steelyard.core.files import write_text
from steelyard.weigh.report.columns import COSTS
from steelyard.weigh.report.report import Cell, Report

SIGNIFICANT_DIGITS = 6
ORDERED = ("arms", "recipe")  # the base comes first, arms and steps as written
_SURROGATES = re.compile("[\ud800-\udfff]")


def to_json(report: Report, indent: int | None = None) -> str:
    """The whole report as one JSON document: on one line, or indented.

    Keys are sorted except where their order says something (`arms`, `recipe`); floats keep 6 significant digits.
    """
    return _dump(report.as_dict(), indent)


def quality_part(report: Report) -> str:
    """What a killed and resumed weighing must repeat byte for byte: no speed, memory, energy or money, and no times."""
    return _dump(
        {
            "arms": {name: {"fingerprint": arm.fingerprint, "levers": arm.levers} for name, arm in report.arms.items()},
            "cells": _quality(report.cells),
            "checks": {name: _quality(cells) for name, cells in report.checks.items()},
            "curves": [dataclasses.asdict(curve) for curve in report.curves],
            "flips": [dataclasses.asdict(flip) for flip in report.flips],
            "recipe": report.recipe,
        },
        None,
    )


def write_report_json(report: Report, path: Path) -> None:
    """Writes `report.json`, indented, atomically."""
    write_text(path, to_json(report, indent=1) + "\n")


def _quality(cells: list[Cell]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(cell) for cell in cells if cell.axis not in COSTS]


def _dump(document: dict[str, Any], indent: int | None) -> str:
    ordered = {key: plain(document[key], sort=key not in ORDERED) for key in sorted(document)}
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(ordered, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)
    # UTF-8 has no bytes for half a surrogate pair; they can only stand inside strings, where JSON's escape means the same.
    return _SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def plain(value: Any, sort: bool = True) -> Any:
    """A value as JSON knows it: rounded floats, lists, string keys; what JSON does not know becomes its text."""
    if value is None or isinstance(value, str | bool):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, Mapping):
        pairs = [(str(key), plain(item, sort)) for key, item in value.items()]
        return dict(sorted(pairs) if sort else pairs)
    if isinstance(value, list | tuple):
        return [plain(item, sort) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item, sort) for item in value), key=repr)
    if callable(item := getattr(value, "item", None)) and getattr(value, "shape", None) == ():
        return plain(item(), sort)  # a number of NumPy or torch
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return rounded(value)
    return str(value)


def rounded(value: float) -> float | None:
    """A float to 6 significant digits; None where it is not finite; no negative zero."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") + 0.0 if math.isfinite(value) else None
