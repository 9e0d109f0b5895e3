"""Stores of several machines become one: the same recipe, the same arms, different samples.

    steelyard weigh recipe.yaml -o runs/a --shard 1/2        # here
    steelyard weigh recipe.yaml -o runs/b --shard 2/2        # on another machine
    steelyard merge runs/a runs/b -o runs/all
    steelyard weigh recipe.yaml -o runs/all                  # asks what is missing, times the arms, writes the report

Whichever order runs are merged in, and however often, the same records come out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from steelyard.core import recipe_yaml
from steelyard.core.errors import SteelyardError
from steelyard.core.files import write_json, write_text
from steelyard.weigh.asking import roster
from steelyard.weigh.directory import RECIPE, differences, held
from steelyard.weigh.records import Records

STORE = "records.sqlite"


def merge(runs: Sequence[str | Path], directory: str | Path, *, say: Callable[[str], None] = print) -> dict[str, int]:
    """Brings the records of several runs together.

    Args:
        runs: directories of weighings of one recipe; they are left as they are.
        directory: where everything goes; a run that is already there counts as one of them.
        say: told what could not be read, if anything: the rest is taken over.

    Returns:
        `taken`: records taken over; `records`: how many are there now.

    Raises:
        SteelyardError: a directory without a run or without a record that can be read; runs of different recipes; an arm that is not the same in all of them.
    """
    out = Path(directory)
    sources = [Path(run) for run in runs]
    if not sources:
        raise SteelyardError("nothing to merge", do="Name the directories of runs: steelyard merge runs/a runs/b -o runs/all.")
    with held(out):
        every = [*([out] if (out / RECIPE).is_file() and out not in sources else []), *sources]
        recipes = [_recipe(run) for run in every]
        for run, recipe in zip(every[1:], recipes[1:], strict=True):
            if found := [*differences(recipes[0], recipe), *differences(recipe, recipes[0])]:
                told = "; ".join(dict.fromkeys(found))
                raise SteelyardError(
                    f"its recipe is another than that of {every[0]}: {told}", where=str(run), do="Merge runs of one recipe."
                )
        arms: dict[str, dict[str, dict[str, Any]]] = {}
        for run in every:
            _join(arms, roster.read(run), run)
        for run in every:
            Records(run / STORE, reading=True).close()  # what cannot be read at all is refused before anything is written
        with Records(out / STORE, say=say) as records:
            taken = sum(records.merge(run / STORE) for run in every if run != out)
            count = len(records)
        write_json(out / roster.FILE, arms)
        write_text(out / RECIPE, min(recipe_yaml.write(recipe) for recipe in recipes))
    return {"taken": taken, "records": count}


def _recipe(run: Path) -> dict[str, Any]:
    if not (run / RECIPE).is_file() or not (run / STORE).is_file():
        raise SteelyardError("there is no run here", where=str(run), do=f"A run's directory has {RECIPE} and {STORE}.")
    value = recipe_yaml.read(run / RECIPE).value
    if not isinstance(value, dict):
        raise SteelyardError("it does not hold a recipe", where=str(run / RECIPE))
    return value


def _join(arms: dict[str, dict[str, dict[str, Any]]], more: roster.Roster, run: Path) -> None:
    """Adds a run's arms, each of which must be what it was elsewhere.

    Raises:
        SteelyardError: an arm is another here.
    """
    for name, seeds in more.items():
        for seed, told in seeds.items():
            known = arms.setdefault(name, {}).get(seed)
            if known is None:
                arms[name][seed] = dict(told)
                continue
            for what in ("fingerprint", "read_fingerprint"):
                if known.get(what) != told.get(what):
                    how = f" ({known.get('kernels') or 'unknown'} there, {told.get('kernels') or 'unknown'} here)"
                    raise SteelyardError(
                        f"the arm `{name}` is not the same as in the other runs: {known.get(what)} there, {told.get(what)} here{how}",
                        where=str(run),
                        do="Weigh with the same version, weights, data and kind of processor; answers of different arms do not mix.",
                    )
            arms[name][seed] = dict(min(known, told, key=lambda one: json.dumps(one, sort_keys=True)))
