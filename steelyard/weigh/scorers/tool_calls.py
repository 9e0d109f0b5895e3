"""Whether calls of functions are those that were wanted, as the Berkeley Function Calling Leaderboard decides it (S. Patil et al., ICML
2025): by the functions' names and the values of their arguments, each of which may have several right ones.

An argument counts as right where it has the type that the function declares and one of its allowed values; an empty text among these
says that it may be left out. Texts are compared without case, spaces and `,./-_*^`. A value of another type than the declared one is
right where the allowed values are of that type too: it stands for a variable. Calls may come in any order, and none may be left over.

What looks odd is theirs, and kept, so that verdicts are equal (`tests/parity/test_tool_calls_parity.py`): a whole number is right for a
`float`, but not within a list of them, and one right list's types are enough for another's values. What stops their checker with an
error (an object where a list was allowed) is wrong here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from steelyard.core.protocols import ToolCall

KINDS: Mapping[str, type] = {
    "string": str,
    "any": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
}
"""The types that functions declare."""
LEFT_OUT = str.maketrans({sign: None for sign in " ,./-_*^"} | {"'": '"'})
Allowed = Mapping[str, Sequence[Any]]
"""An argument's name -> its right values; an empty text among them where it may be left out."""


class Call(NamedTuple):
    """A call that was read: the function's name and its arguments."""

    name: str
    arguments: Mapping[str, Any]


def read(calls: Sequence[ToolCall]) -> list[Call | None]:
    """Calls with their arguments as values; None for one whose arguments are no JSON object."""
    found: list[Call | None] = []
    for call in calls:
        try:
            value = json.loads(call.arguments) if call.arguments.strip() else {}
        except (ValueError, RecursionError):  # a model wrote it: it may be anything
            value = None
        found.append(Call(call.name, value) if isinstance(value, dict) else None)
    return found


def right(functions: Mapping[str, Mapping[str, Any]], calls: Sequence[Call | None], wanted: Sequence[tuple[str, Allowed]]) -> bool:
    """Whether the calls are those that were wanted, in any order.

    Args:
        functions: name -> parameters as they are declared, with the types of `KINDS`.
        calls: what was called.
        wanted: for each call its function and the right values of its arguments.
    """
    left = list(calls)
    for name, allowed in wanted:
        fits = (call is not None and call.name == name and arguments_right(functions[name], call.arguments, allowed) for call in left)
        found = next((place for place, fit in enumerate(fits) if fit), None)
        if found is None:
            return False
        del left[found]
    return not left


def arguments_right(declared: Mapping[str, Any], given: Mapping[str, Any], allowed: Allowed) -> bool:
    """Whether a call's arguments are right: none missing, none unknown, each with a right value."""
    properties = declared["properties"]
    if any(name not in given for name in declared.get("required", ())):
        return False
    if any(name not in properties or name not in allowed for name in given):
        return False
    if any(name not in given and "" not in values for name, values in allowed.items()):
        return False
    return all(value_right(properties[name], value, allowed[name]) for name, value in given.items())


def value_right(declared: Mapping[str, Any], value: Any, allowed: Sequence[Any]) -> bool:
    """Whether one argument is right."""
    kind, other = KINDS[declared["type"]], _kind_of(allowed)
    within = KINDS[declared["items"]["type"]] if kind is list and "items" in declared else None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        return type(value) is other and value in allowed
    if within is not None and not any(_alike(value, one, within) for one in allowed):
        return False
    if other is not None and other is not kind:
        return value in allowed
    if kind is dict:
        return any(_object_right(value, one) for one in allowed)
    if within is dict:
        return any(_objects_right(value, one) for one in allowed)
    if kind is str:
        return _plain(value) in [_plain(one) for one in allowed if isinstance(one, str)]
    if kind is list:
        return [_plain(part) for part in value] in [[_plain(part) for part in one] for one in allowed if isinstance(one, list | str)]
    return value in allowed


def _kind_of(allowed: Sequence[Any]) -> type | None:
    """The type of the first value that is not the empty text."""
    return next((type(one) for one in allowed if one != ""), None)


def _alike(value: Sequence[Any], one: Any, within: type) -> bool:
    """Whether a list's parts have the declared type, or that of the parts of an allowed list."""
    if not isinstance(one, list):
        return True
    other = _kind_of(one)
    return all(type(part) is within or (other is not None and type(part) is other) for part in value)


def _objects_right(value: Sequence[Any], one: Any) -> bool:
    if not isinstance(one, list | str) or len(value) != len(one):
        return False
    return all(_object_right(part, allowed) for part, allowed in zip(value, one, strict=True))


def _object_right(value: Any, allowed: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(allowed, dict) or not all(isinstance(values, list) for values in allowed.values()):
        return False
    if any(name not in allowed or _plain(part) not in [_plain(one) for one in allowed[name]] for name, part in value.items()):
        return False
    return all(name in value or "" in values for name, values in allowed.items())


def _plain(value: Any) -> Any:
    """A text without case, spaces and most punctuation; anything else as it is."""
    return value.translate(LEFT_OUT).lower() if isinstance(value, str) else value
