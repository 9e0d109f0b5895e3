"""Made-up functions, answers to them and calls, right and wrong in every way: the same on every machine for one seed."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

FUNCTIONS = {
    "garden.water": {
        "properties": {
            "bed": {"type": "string"},
            "litres": {"type": "float"},
            "days": {"type": "array", "items": {"type": "string"}},
            "slowly": {"type": "boolean"},
        },
        "required": ["bed", "litres"],
    },
    "count_sheep": {
        "properties": {
            "number": {"type": "integer"},
            "weights": {"type": "array", "items": {"type": "float"}},
            "span": {"type": "tuple", "items": {"type": "integer"}},
            "mark": {"type": "any"},
        },
        "required": ["number"],
    },
    "order_parts": {
        "properties": {
            "parts": {"type": "array", "items": {"type": "dict"}},
            "address": {"type": "dict", "properties": {"street": {"type": "string"}, "number": {"type": "integer"}}},
            "grid": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
        },
        "required": ["parts"],
    },
}
ANSWERS: dict[str, dict[str, list[Any]]] = {
    "garden.water": {
        "bed": ["Rose bed, north", "north roses"],
        "litres": [2.5, 3.0],
        "days": [["Monday", "Friday"], ["mon.", "fri."], ""],
        "slowly": [True, ""],
    },
    "count_sheep": {"number": [12, "flock_size"], "weights": [[40.5, 41.0], ""], "span": [[1, 9], ""], "mark": ["x's", 7, ""]},
    "order_parts": {
        "parts": [[{"name": ["Bolt M-4", "bolt"], "size": [4, ""]}, {"name": ["nut"]}]],
        "address": [{"street": ["Mill Lane", "mill ln."], "number": [3, ""]}, ""],
        "grid": [[[1, 2], [3, 4]], ""],
    },
}
KINDS = ("simple", "multiple", "parallel")


def made_up(count: int, seed: int) -> list[dict[str, Any]]:
    """Cases of {"category", "function", "answer", "calls"}; calls are (name, JSON of the arguments)."""
    draw, out = random.Random(seed), []
    for number in range(count):
        category = KINDS[number % len(KINDS)]
        names = [draw.choice(list(FUNCTIONS)) for _ in range(draw.randint(1, 3) if category == "parallel" else 1)]
        offered = list(dict.fromkeys(names)) if category == "simple" else list(FUNCTIONS)
        answer = [{name: ANSWERS[name]} for name in names]
        calls = [(name, _arguments(draw, ANSWERS[name], wrong=draw.random() < 0.6)) for name in names]
        draw.shuffle(calls)
        if draw.random() < 0.08:
            calls = calls[:-1] if draw.random() < 0.5 else [*calls, calls[0]]
        if calls and draw.random() < 0.05:
            calls[0] = (draw.choice(list(FUNCTIONS)), calls[0][1])
        functions = [{"name": name, "description": "", "parameters": {"type": "dict", **FUNCTIONS[name]}} for name in offered]
        out.append({"category": category, "function": functions, "answer": answer, "calls": [[n, json.dumps(a)] for n, a in calls]})
    return out


def _arguments(draw: random.Random, allowed: dict[str, list[Any]], wrong: bool) -> dict[str, Any]:
    found = {}
    for name, values in allowed.items():
        if "" in values and draw.random() < 0.4:
            continue
        found[name] = _value(draw, copy.deepcopy(draw.choice([value for value in values if value != ""])))
    if wrong and found:
        name = draw.choice(list(found))
        found[name] = _spoilt(draw, found[name])
        if draw.random() < 0.15:
            del found[name]
        if draw.random() < 0.1:
            found["unheard_of"] = 1
    return found


def _value(draw: random.Random, value: Any) -> Any:
    """A right value: of an object with allowed values, or of a list of them, one that it allows."""
    if isinstance(value, dict):
        return {
            key: draw.choice([one for one in values if one != ""])
            for key, values in value.items()
            if "" not in values or draw.random() < 0.5
        }
    return [_value(draw, part) for part in value] if isinstance(value, list) else value


def _spoilt(draw: random.Random, value: Any) -> Any:
    """A value put otherwise: some are right all the same."""
    ways: list[Any] = [None, str(value), [value], "", value]
    if isinstance(value, bool):
        ways += [not value, int(value)]
    elif isinstance(value, int | float):
        ways += [float(value), int(value), value + 1, -value]
    elif isinstance(value, str):
        ways += [value.upper(), value.replace(" ", "-"), value + "x", value.replace("'", '"')]
    elif isinstance(value, list):
        ways += [value[::-1], value[:-1], [_spoilt(draw, part) for part in value], [*value, value[0]] if value else []]
    elif isinstance(value, dict):
        ways += [{**value, "more": 1}, dict(list(value.items())[1:]), {key: _spoilt(draw, part) for key, part in value.items()}]
    return draw.choice(ways)
