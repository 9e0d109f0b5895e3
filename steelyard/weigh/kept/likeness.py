"""What two runs must have in common to be compared, and what they may differ in, said by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steelyard.core.errors import SteelyardError
from steelyard.core.recipe import Recipe
from steelyard.weigh.cells.checks import is_defect
from steelyard.weigh.kept.stored import Stored
from steelyard.weigh.report.heading import levers_text
from steelyard.weigh.report.report import ArmSummary

_SHOWN = 12  # differences an error names
_MOMENTARY = ("versions", "memory_available_bytes")  # told elsewhere, or another at every moment


# What must be equal


def shared_tasks(first: Recipe, second: Recipe, wanted: Sequence[str]) -> list[str]:
    """The tasks to compare on."""
    sides = [[spec.name for spec in recipe.tasks] for recipe in (first, second)]
    both = [name for name in sides[0] if name in sides[1]]
    if unknown := [name for name in wanted if name not in both]:
        raise SteelyardError(f"not both runs have the task `{unknown[0]}`", where="--task", do=f"Both have: {', '.join(both) or 'none'}.")
    if wanted:
        return [name for name in both if name in wanted]
    if alone := [name for name in dict.fromkeys(sides[0] + sides[1]) if name not in both]:
        told = "; ".join(f"only the {'first' if name in sides[0] else 'second'} run has {name}" for name in alone[:_SHOWN])
        do = f"Compare on what both have: {' '.join(f'--task {name}' for name in both)}." if both else "Weigh the same tasks."
        raise SteelyardError(f"the runs have unequal tasks: {told}", where="tasks", do=do)
    return both


def shared_arms(first: Recipe, second: Recipe, wanted: Sequence[str]) -> list[tuple[str, str]]:
    """The arms to compare; planted defects are checks of each run and nothing to compare."""
    if not wanted:
        return [(name, name) for name, arm in first.arms.items() if name in second.arms and not is_defect(arm)]
    out = []
    for text in wanted:
        before, found, after = text.partition("=")
        pair = (before, after if found else before)
        for name, recipe, which in zip(pair, (first, second), ("first", "second"), strict=True):
            if name not in recipe.arms:
                raise SteelyardError(f"the {which} run has no arm `{name}`", where="--arm", do=f"It has: {', '.join(recipe.arms)}.")
        if pair[1] in [other for _, other in out]:
            raise SteelyardError(f"`{pair[1]}` is named twice", where="--arm")
        out.append(pair)
    return out


def refuse_unlike(first: Recipe, second: Recipe, tasks: Sequence[str], pairs: Sequence[tuple[str, str]]) -> None:
    """Refuses runs that did not ask the same.

    Raises:
        SteelyardError: naming every setting that differs.
    """
    found = []
    specs = [{spec.name: spec.settings | ({"kind": spec.kind} if spec.kind else {}) for spec in recipe.tasks} for recipe in (first, second)]
    alike = []
    for name in tasks:
        old, new = (one[name] for one in specs)
        changed = _changes(f"tasks.{name}", {k: v for k, v in old.items() if k != "path"}, {k: v for k, v in new.items() if k != "path"})
        found += changed
        alike += [] if changed else [name]
    of_tasks = len(found)
    found += _changes("", {"seed": first.seed, "trials": first.trials}, {"seed": second.seed, "trials": second.trials})
    for before, after in pairs:
        seeds = (list(first.arms[before].seeds), list(second.arms[after].seeds))
        if seeds[0] != seeds[1]:
            found.append(f"arms.{after}.seeds was {seeds[0]} and is {seeds[1]}")
    if found:
        told = "; ".join(found[:_SHOWN]) + ("; ..." if len(found) > _SHOWN else "")
        do = "Weigh one of them again as the other was."
        if alike and len(found) == of_tasks:  # nothing but tasks differs
            do = f"{do[:-1]}, or compare on what both asked alike: {' '.join(f'--task {name}' for name in alike)}."
        raise SteelyardError(f"the runs did not ask the same: {told}", where="report", do=do)


def _changes(path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two mappings of settings, one phrase each."""
    out = []
    for key in dict.fromkeys([*old, *new]):
        name = f"{path}.{key}".lstrip(".")
        if old.get(key) != new.get(key):
            out.append(f"{name} was {_short(old.get(key))} and is {_short(new.get(key))}")
    return out


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


# What may differ, and is told


def differences(first: Stored, second: Stored, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """What differs between the runs besides their answers, one phrase each: arms, versions, machine."""
    out = []
    for before, after in pairs:
        old, new = first.report.arms.get(before), second.report.arms.get(after)
        if old is None or new is None:
            continue
        if old.fingerprint == new.fingerprint:
            out.append(f"arm {after}: the same model, levers and numerics (equal fingerprints)")
        else:
            sources = [side.recipe.arms[name].source.written() for side, name in ((first, before), (second, after))]
            out += _of_arm(after, old, new, sources) or [f"arm {after}: another fingerprint (model, a lever's source, numerics or kernels)"]
    out += _changes("versions", first.report.versions, second.report.versions)
    flat = [{key: value for key, value in side.report.machine.items() if key not in _MOMENTARY} for side in (first, second)]
    out += _changes("machine", *flat)
    paths = [{spec.name: spec.settings.get("path") for spec in side.recipe.tasks} for side in (first, second)]
    out += _changes("data", *({name: path for name, path in one.items() if path} for one in paths))
    return out


def _of_arm(name: str, old: ArmSummary, new: ArmSummary, sources: Sequence[Mapping[str, Any]]) -> list[str]:
    sides = [{**source, "kernels": s.kernels, "parameters": s.parameters} for s, source in zip((old, new), sources, strict=True)]
    changes = _changes("", *sides)
    if old.levers != new.levers:
        changes.append(f"levers were {levers_text(old) or 'none'} and are {levers_text(new) or 'none'}")
    return [f"arm {name}: {change}" for change in changes]


def only_one_has(first: Stored, second: Stored, pairs: Sequence[tuple[str, str]]) -> list[str]:
    mine = {name for pair in pairs for name in pair}
    out = []
    for which, side in (("first", first), ("second", second)):
        if alone := [name for name, arm in side.recipe.arms.items() if name not in mine and not is_defect(arm)]:
            out.append(f"Only the {which} run has {', '.join(alone)}; --arm NAME=OTHER compares arms of different names.")
    return out
