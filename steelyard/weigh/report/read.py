"""A report read back from `report.json`."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from steelyard.core.errors import SteelyardError
from steelyard.weigh.report.report import Report

FILE = "report.json"
T = TypeVar("T")


def read_report(place: Path) -> Report:
    """The report of a run.

    Args:
        place: the run's directory, or a `report.json`. Keys that this version does not know are left out.

    Raises:
        SteelyardError: there is none, or it is damaged: with the key that is missing or of another kind.
    """
    path = place / FILE if place.is_dir() else place
    do = "Name the directory of a finished weighing: runs/NAME."
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SteelyardError("there is no report here", where=str(path), do=do) from None
    except (OSError, ValueError, RecursionError) as error:  # not JSON, not UTF-8, a null byte in the path, nested too deeply
        raise SteelyardError(f"this is not a report: {error}", where=str(path), do=do) from error
    try:
        return _of(Report, value, "report")
    except _NotOne as error:
        raise SteelyardError(f"this is not a report: {error}", where=str(path), do=do) from error


class _NotOne(Exception):
    """The value is not of the kind that is wanted."""


def _of(kind: type[T], value: Any, where: str) -> T:
    """A dataclass from plain data."""
    if not isinstance(value, Mapping):
        raise _NotOne(f"{where} is no object")
    hints, given = typing.get_type_hints(kind), {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # kind is a dataclass
        if field.name in value:
            given[field.name] = _value(hints[field.name], value[field.name], f"{where}.{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise _NotOne(f"{where}.{field.name} is missing")
    return kind(**given)


def _value(hint: Any, value: Any, where: str) -> Any:
    """A value of an annotated kind."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _value(next(one for one in inner if one is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in inner:
            raise _NotOne(f"{where} is {json.dumps(value)[:60]}, which this version does not know")
        return value
    if origin is list:
        return [_value(inner[0], one, f"{where}.{place}") for place, one in enumerate(_kind(list, value, where))]
    if origin is tuple:
        parts = _kind(list, value, where)
        if len(parts) != len(inner):
            raise _NotOne(f"{where} has {len(parts)} parts, expected {len(inner)}")
        return tuple(_value(each, one, where) for each, one in zip(inner, parts, strict=True))
    if origin is dict:
        return {str(key): _value(inner[1], one, f"{where}.{key}") for key, one in _kind(dict, value, where).items()}
    if dataclasses.is_dataclass(hint):
        return _of(typing.cast(type, hint), value, where)
    if hint is float:
        return float(_kind((int, float), value, where))
    return _kind(hint, value, where)


def _kind(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _NotOne(f"{where} is {json.dumps(value)[:60]}")
    return value
