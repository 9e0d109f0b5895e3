"""Things found through entry points: this package's own and other people's, met the same way.

A package that cannot be imported must not take the others down with it, so loading keeps two lists: what works, and what is
broken with the reason. Asking for a broken one by name raises that reason.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from steelyard.core.errors import SteelyardError

OURS = "steelyard"
T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """One declared entry point.

    Attributes:
        name: what recipes call it.
        value: `module:Class`.
        package: the distribution that declares it.
        clash: another distribution that declares the same name, or "".
        load: imports the object.
    """

    name: str
    value: str
    package: str
    clash: str
    load: Callable[[], object]


def points(group: str) -> dict[str, Point]:
    """Every entry point of a group by name. Where two packages declare one name, this package's or the first by name stands.

    The one that had to yield is recorded as the `clash` of the one that stands, so that listings can say so.
    """
    found: dict[str, Point] = {}
    for declared in sorted(importlib.metadata.entry_points(group=group), key=_order):
        package = _package(declared)
        earlier = found.get(declared.name)
        if earlier is None:
            found[declared.name] = Point(declared.name, declared.value, package, "", declared.load)
        elif (earlier.package, earlier.value) != (package, declared.value):
            found[declared.name] = Point(earlier.name, earlier.value, earlier.package, package, earlier.load)
    return found


def load(point: Point, kind: type[T], what: str, required: Iterable[str] = ()) -> type[T]:
    """Imports an entry point and holds it to what it claims to be.

    Args:
        point: where it is.
        kind: the class it must derive from.
        what: "lever" or "task", for messages.
        required: class variables it must define.

    Raises:
        SteelyardError: it cannot be imported, is something else, or lacks what every `what` declares or implements.
    """
    where = f"entry point {point.value} of {point.package}"
    try:
        thing = point.load()
    except (Exception, SystemExit) as error:  # someone else's module may fail in any way; the reason is passed on, not hidden
        raise SteelyardError(
            f"the {what} `{point.name}` could not be imported: {type(error).__name__}: {error}",
            where=where,
            do="Install what it needs, or remove the package that declares it.",
        ) from error
    if not (isinstance(thing, type) and issubclass(thing, kind)):
        raise SteelyardError(
            f"the {what} `{point.name}` is not a {kind.__name__} class", where=where, do=f"Point it at a subclass of {kind.__name__}."
        )
    if missing := [name for name in required if not hasattr(thing, name)]:
        raise SteelyardError(f"the {what} `{point.name}` does not declare {', '.join(missing)}", where=where, do="Set it on the class.")
    if lacking := sorted(getattr(thing, "__abstractmethods__", ())):
        raise SteelyardError(f"the {what} `{point.name}` does not implement {', '.join(lacking)}", where=where, do="Write these methods.")
    declared = getattr(thing, "name", point.name)
    if declared != point.name:
        raise SteelyardError(f"the {what} `{point.name}` calls itself `{declared}`", where=where, do="Give both the same name.")
    return thing


def _order(point: importlib.metadata.EntryPoint) -> tuple[bool, str, str]:
    package = _package(point)
    return (package != OURS, package, point.value)


def _package(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unnamed package"
