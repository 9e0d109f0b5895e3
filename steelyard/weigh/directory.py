"""The directory of a weighing: one process at a time writes there, and it answers one recipe.

A second run in the same directory goes on where the first was, so it has to ask the same. More may be asked (further arms, tasks,
axes, samples, trials), because what is recorded stays right; anything else would silently replace one report by another. To
change the primary hypothesis once results are known is refused for a better reason still.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from steelyard.core import recipe_yaml
from steelyard.core.axes import AXES
from steelyard.core.errors import SteelyardError
from steelyard.core.files import writing
from steelyard.core.locks import lock
from steelyard.core.recipe import Recipe
from steelyard.weigh.records import NoRecordsError, Records
from steelyard.weigh.tasks.perturbed import ITEMS

RECIPE = "recipe.resolved.yaml"
_LOCK = ".lock"
_SHOWN = 8  # differences an error lists
HOW = ("spend", "at_once", "timeout", "deadline", "retries", "backoff")  # how an endpoint is asked, which is no part of what it is asked
_APART = (
    "name",
    "arms",
    "tasks",
    "axes",
    "primary",
    "samples",
    "trials",
    "perturbed",
    "seconds",
    "run",
)  # compared below, or no part of the question
_MAY_GROW = ("arms", "tasks", "axes", "judge", "choices")


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keeps the directory for this process.

    Raises:
        SteelyardError: another process is weighing there, or it cannot be written.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not lock(handle, wait=False):
            raise SteelyardError(
                "another process is weighing here", where=str(directory), do="Wait until it has ended, or use another directory (-o)."
            )
        yield
    finally:
        os.close(handle)


def refuse_another_recipe(recipe: Recipe, directory: Path) -> None:
    """Refuses to go on in a directory that holds the weighing of another recipe.

    Raises:
        SteelyardError: with what differs.
    """
    path = directory / RECIPE
    if not path.exists() or not _holds_results(directory):
        return
    do = f"Use another directory (-o). To go on in this one with what fits of its records, delete {path}: its report will be written anew."
    before = recipe_yaml.read(path).value
    if not isinstance(before, dict):
        raise SteelyardError("it does not hold a recipe", where=str(path), do=do)
    found = differences(before, recipe.resolved())
    if found:
        listed = "; ".join(found[:_SHOWN]) + ("; ..." if len(found) > _SHOWN else "")
        raise SteelyardError(f"the directory holds the weighing of another recipe: {listed}", where=str(directory), do=do)


def _holds_results(directory: Path) -> bool:
    if (directory / "report.json").exists():
        return True
    try:
        with Records(directory / "records.sqlite", reading=True) as records:
            return len(records) > 0
    except NoRecordsError:
        return False


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What `now` asks otherwise than `before`, one phrase each, as resolved recipes tell it; asking for more is no difference."""
    old, new = _comparable(before), _comparable(now)
    found = []
    for key in sorted(old.keys() | new.keys()):
        kind, _, name = key.partition(".")
        if key in old and key in new:
            found += _changes(key, old[key], new[key])
        elif key in old and key not in new:
            found.append(f"{key} is gone")
        elif key not in old and kind not in _MAY_GROW and not (kind == "primary" and f"arms.{name}" not in old):
            found.append(f"{key} is new")
    # Where the recipe names no primary hypothesis, it is quality on the first task: these would exchange it unnoticed.
    first, then = (next((name for task in one.get("tasks") or [] for name in task), None) for one in (before, now))
    if first != then and first is not None:
        found.append(f"the first task was {first} and is {then}")
    if "axes.quality" in new and "axes.quality" not in old:
        found.append("the axis quality is new")
    for key in ("samples", "trials"):
        most = float("inf") if key == "samples" else 1  # what a recipe means that does not say it
        if (now.get(key) or most) < (before.get(key) or most):
            found.append(f"{key} was {before.get(key) or 'all'} and is {now.get(key) or 1}")
    if (now.get("perturbed") or ITEMS) < (before.get("perturbed") or ITEMS):
        found.append(f"perturbed was {before.get('perturbed') or ITEMS} and is {now.get('perturbed') or ITEMS}")
    return found


def _comparable(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved recipe as one flat mapping, parts that may be added under keys of their own."""
    plain = json.loads(json.dumps(resolved))
    for part in (plain, *plain.get("arms", {}).values()):
        if isinstance(part, dict) and isinstance(part.get("endpoint"), dict):
            part["endpoint"] = {key: value for key, value in part["endpoint"].items() if key not in HOW}
    out = {key: value for key, value in plain.items() if key not in _APART}
    out |= {f"arms.{name}": arm for name, arm in plain.get("arms", {}).items()}
    out |= {f"tasks.{name}": settings for task in plain.get("tasks", []) for name, settings in task.items()}
    out |= {f"axes.{axis}": True for axis in (AXES if plain.get("axes") == "all" else plain.get("axes", []))}
    out |= {f"primary.{arm}": choice for arm, choice in plain.get("primary", {}).items()}
    return out


def _changes(path: str, old: Any, new: Any) -> list[str]:
    """What differs between two plain values, down to the setting that does."""
    if isinstance(old, dict) and isinstance(new, dict):
        gone = [f"{path}.{key} is gone" for key in old if key not in new]
        added = [f"{path}.{key} is new" for key in new if key not in old]
        return [line for key in old if key in new for line in _changes(f"{path}.{key}", old[key], new[key])] + gone + added
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [line for place, pair in enumerate(zip(old, new, strict=True)) for line in _changes(f"{path}.{place}", *pair)]
    return [] if old == new else [f"{path} was {_short(old)} and is {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
