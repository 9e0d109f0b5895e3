"""Who answered in a run's directory: `arms.json` says under which fingerprints each arm's records are kept, and what the arm was.

With it a report can be written from records alone (`rescore`), and the stores of several machines can be compared before they are
merged. Nothing in it is needed to weigh: a run that goes on opens its arms again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.core.errors import SteelyardError
from steelyard.core.files import write_json
from steelyard.core.levers import Lever
from steelyard.core.protocols import AnswerSettings, Conversation, Event, Score
from steelyard.core.recipe import Arm, Recipe
from steelyard.weigh.asking.answering import key_for
from steelyard.weigh.asking.arms import OpenArm
from steelyard.weigh.asking.subjects import Question
from steelyard.weigh.records import Records
from steelyard.weigh.report.report import Report, Training

FILE = "arms.json"
_KEPT = ("fingerprint", "slots", "read_fingerprint", "kernels", "parameters", "weight_bytes", "cost", "templated")

Roster = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Arm -> training seed as text ("" for the run's) -> what it was."""


def read(directory: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """What the file says; empty where there is none.

    Raises:
        SteelyardError: it is damaged.
    """
    path = directory / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _damaged(path) from error
    good = isinstance(found, dict) and all(
        isinstance(seeds, dict) and all(isinstance(one, dict) and isinstance(one.get("fingerprint"), str) for one in seeds.values())
        for seeds in found.values()
    )
    if not good:
        raise _damaged(path)
    return found


def _damaged(path: Path) -> SteelyardError:
    return SteelyardError("it does not say who answered", where=str(path), do="Weigh in this directory once more; nothing is asked twice.")


def from_report(recipe: Recipe, report: Report) -> Roster:
    """Who answered in a run of an earlier version that kept no roster, as far as its report tells: the arms' fingerprints.

    Raw texts belong to the engine below what wraps an arm. Whose that was is known of an arm without wraps, and of one that differs from such an
    arm in its wraps alone; of others no raw text is found.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    bare: dict[Any, list[str]] = {}
    for name, arm in recipe.arms.items():
        told = report.arms.get(name)
        marks = told.fingerprint.split("+") if told and told.fingerprint else []
        seeds = [str(seed) for seed in arm.seeds] or [""]
        if len(marks) == len(seeds):
            found[name] = {seed: {"fingerprint": mark, "read_fingerprint": ""} for seed, mark in zip(seeds, marks, strict=True)}
            if _unwrapped(arm) == arm.levers:
                bare[arm.source, arm.levers] = marks
    for name, seeds in found.items():
        below = bare.get((recipe.arms[name].source, _unwrapped(recipe.arms[name])), [])
        for one, mark in zip(seeds.values(), below, strict=False):
            one["read_fingerprint"] = mark
    return found


def _unwrapped(arm: Arm) -> tuple[Lever, ...]:
    return tuple(lever for lever in arm.levers if "wrap" not in lever.hooks())


def enter(directory: Path, arm: OpenArm, seed: int | None) -> None:
    """Adds an arm that has been opened."""
    found = read(directory)
    found.setdefault(arm.name, {})["" if seed is None else str(seed)] = described(arm)
    write_json(directory / FILE, found)


def described(arm: OpenArm) -> dict[str, Any]:
    """An arm as plain data."""
    return {name: getattr(arm, name) for name in _KEPT} | {
        "capabilities": sorted(arm.answerer.capabilities),
        "reads": arm.read is not None,
        "rolls": arm.roll is not None,
        "goes_on": arm.goes_on or arm.engine is not None,
        "trainings": [dataclasses.asdict(one) for one in arm.trainings],
    }


@dataclass(frozen=True)
class _Gone:
    """Stands for an answerer that is not there."""

    fingerprint: str
    capabilities: frozenset[str]

    def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        raise SteelyardError("only what was recorded can be had here")

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        raise SteelyardError("only what was recorded can be had here")


def _nothing(*texts: Any, **how: Any) -> list[Score]:
    raise SteelyardError("only what was recorded can be had here")


def as_it_was(name: str, told: Mapping[str, Any]) -> OpenArm:
    """An arm of which only the records are left.

    Args:
        name: its own.
        told: as `described` gives it.
    """
    return OpenArm(
        name,
        _Gone(told["fingerprint"], frozenset(told.get("capabilities", ()))),
        **{key: told[key] for key in _KEPT if key in told},
        read=_nothing if told.get("reads") else None,
        roll=_nothing if told.get("rolls") else None,
        goes_on=bool(told.get("goes_on")),
        trainings=[Training(**one) for one in told.get("trainings", ())],
    )


def recorded_first(asked: Sequence[Question], recipe: Recipe, records: Records, roster: Roster) -> list[Question]:
    """The questions, those samples first that everybody has answered who answered any of them: two arms are compared on the first samples that
    both have, and merged or damaged stores have gaps. Without gaps the order stays as it is."""
    there = records.keys()

    def answered(told: Mapping[str, Any], name: str, question: Question) -> set[str]:
        arm = as_it_was(name, told)
        trials = range(question.trials(recipe))
        keys = {one.id: [key_for(arm, question.name, one, recipe.seed, trial).text for trial in trials] for one in question.samples}
        return {sample for sample, needed in keys.items() if there.issuperset(needed)}

    def ordered(question: Question) -> Question:
        sides = [answered(told, name, question) for name in recipe.arms for told in roster.get(name, {}).values()]
        common = set[str].intersection(*found) if (found := [side for side in sides if side]) else set[str]()
        return dataclasses.replace(question, samples=sorted(question.samples, key=lambda sample: sample.id not in common))

    return [ordered(question) for question in asked]


class RecordedOpener:
    """Opens arms of which only the records are left. Satisfies `arms.Opener`.

    Raises:
        SteelyardError: the directory does not say who answered in it.
    """

    def __init__(self, directory: Path):
        self.directory, self.roster = directory, read(directory)
        if not self.roster:
            do = "It was weighed by an earlier version: weigh in it once more; nothing is asked twice."
            raise SteelyardError(f"no {FILE} says who answered", where=str(directory), do=do)

    def find(self, arm: Arm) -> None:
        """Nothing has to be found."""

    def open(self, arm: Arm, seed: int | None = None, *, deterministic: bool = True) -> OpenArm:
        """The arm as it was.

        Raises:
            SteelyardError: it was never opened here.
        """
        told = self.roster.get(arm.name, {}).get("" if seed is None else str(seed))
        if told is None:
            of = "" if seed is None else f" with seed {seed}"
            raise SteelyardError(f"the arm{of} was not opened in this run", where=f"arm `{arm.name}`", do="Weigh in the directory first.")
        return as_it_was(arm.name, told)

    def close(self) -> None:
        """Nothing is open."""
