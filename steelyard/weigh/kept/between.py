"""Two runs of different days, compared: each arm of the one with the arm of the same name of the other, sample by sample.

Only answers to the same samples are compared (equal content, not only equal names), with the statistics of any report. What must be
equal for that is refused by name where it is not: the tasks and their settings, the seed, the trials, the arms' training seeds. What may
differ is what somebody wants to know about, and is listed: levers, models, versions, the machine. Speed, memory, energy and money were not
measured in turn, so their values stand side by side without a verdict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.core.axes import AXES
from steelyard.core.errors import SteelyardError
from steelyard.weigh.asking.subjects import Question, questions
from steelyard.weigh.cells.cells import Draft, draft_cells, finish_all
from steelyard.weigh.cells.flips import chosen, flips_of
from steelyard.weigh.kept.likeness import differences, only_one_has, refuse_unlike, shared_arms, shared_tasks
from steelyard.weigh.kept.stored import RECORDS, Stored, scored_on
from steelyard.weigh.records import Records
from steelyard.weigh.report.columns import COSTS, column_of, grid
from steelyard.weigh.report.report import Cell, Flip, Report
from steelyard.weigh.statistics.paired import ALPHA
from steelyard.weigh.tasks.task import Output, Sample

APART = "not measured in turn with the other run: a drift of the machine cannot be told from a change"


@dataclass(frozen=True)
class Between:
    """What two runs say together.

    Attributes:
        first, second: the runs.
        pairs: (arm of the first, arm of the second); the first is what is compared with.
        cells: as of any report, `arm` being the second's; `base` is the first run's value, `value` the second's.
        flips: samples whose outcome changed.
        differences: what differs besides, one phrase each.
        notes: what a reader should know.
    """

    first: Stored
    second: Stored
    pairs: tuple[tuple[str, str], ...]
    cells: list[Cell]
    flips: list[Flip]
    differences: list[str]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        sides = {
            name: {"directory": str(side.directory), "started": side.report.started} | {"arms": list(side.report.arms)}
            for name, side in (("first", self.first), ("second", self.second))
        }
        cells, flips = ([dataclasses.asdict(one) for one in many] for many in (self.cells, self.flips))
        return sides | {
            "pairs": [list(pair) for pair in self.pairs], "cells": cells, "flips": flips, "differences": self.differences,
            "notes": self.notes,
        }  # fmt: skip

    def report(self) -> Report:
        """One pair of arms as a report that can be drawn: the first run's arm is its base.

        Raises:
            SteelyardError: there are several pairs.
        """
        if len(self.pairs) != 1:
            raise SteelyardError(
                "a page shows one pair of arms", where=", ".join(other for _, other in self.pairs), do="Choose one: --arm NAME."
            )
        ((before, after),) = self.pairs
        names = (f"{before} (first run)", f"{after} (second run)")
        cells = [dataclasses.replace(cell, arm=names[1]) for cell in self.cells]
        flips = [dataclasses.replace(flip, arm=names[1]) for flip in self.flips]
        sides = (self.first.report.arms[before], self.second.report.arms[after])
        recipe = {"base": names[0], "first": self.first.report.recipe, "second": self.second.report.recipe}
        return Report(
            arms=dict(zip(names, sides, strict=True)),
            cells=cells,
            checks={},
            machine=self.second.report.machine,
            versions=self.second.report.versions,
            recipe=recipe | {"seed": self.first.recipe.seed},
            flips=flips,
            notes=[*self.notes, *(f"Between the runs: {difference}." for difference in self.differences)],
            title=f"{names[1]} against {names[0]}",
            started=self.second.report.started,
            confidence=1 - ALPHA,
        )


def between(first: Path, second: Path, arms: Sequence[str] = (), tasks: Sequence[str] = ()) -> Between:
    """Compares two runs.

    Args:
        first: directory of the run that is compared with.
        second: directory of the other.
        arms: which: `NAME`, or `NAME=OTHER` where the second run calls it otherwise; all that both have if empty.
        tasks: which; all if empty, and then both runs must have the same.

    Raises:
        SteelyardError: one is no finished run, or they did not ask the same: with what differs.
    """
    one, other = Stored.open(first), Stored.open(second)
    names = shared_tasks(one.recipe, other.recipe, tasks)
    pairs = shared_arms(one.recipe, other.recipe, arms)
    refuse_unlike(one.recipe, other.recipe, names, pairs)
    asked = [question for question in questions(one.recipe) if {question.name, question.of} & set(names)]
    notes = only_one_has(one, other, pairs) if not arms else []
    drafts: list[Draft] = []
    groups: list[list[Flip]] = []
    with (
        Records(one.directory / RECORDS, reading=True, say=notes.append) as left,
        Records(other.directory / RECORDS, reading=True, say=notes.append) as right,
    ):
        for before, after in pairs:
            for question in asked:
                found = _compared(one, other, left, right, before, after, question)
                if found is None:
                    notes.append(f"No sample of {question.name} was answered by {after} in both runs.")
                    continue
                drafts += found.drafts
                groups.append(found.flips)
                notes += found.notes
    if asked and not drafts:
        raise SteelyardError(
            "no sample is in both runs", where=f"{first} and {second}", do="Weigh the same tasks with the same seed and the same data."
        )
    axes = [axis for axis in AXES if axis in one.recipe.axes and axis in other.recipe.axes]
    drafts = [draft for draft in drafts if draft.metric.axis in axes]
    cells = finish_all(drafts, _primaries(drafts, asked))
    cells += [
        cell
        for pair in pairs
        for cell in _costs(one.report, other.report, *pair)
        if cell.task in ("", *(question.name for question in asked))
    ]
    return Between(one, other, tuple(pairs), cells, chosen(groups), differences(one, other, pairs), notes)


@dataclass(frozen=True)
class _Found:
    drafts: list[Draft]
    flips: list[Flip]
    notes: list[str]


def _compared(one: Stored, other: Stored, left: Records, right: Records, before: str, after: str, question: Question) -> _Found | None:
    """One pair of arms on one task, on the samples that both answered; None where there are none."""
    bases = [one.outputs(left, before, seed, question) for seed in one.seeds(before)]
    runs = [other.outputs(right, after, seed, question) for seed in other.seeds(after)]
    samples = [sample for sample in question.samples if all(sample.id in side for side in (*bases, *runs))]
    if not samples:
        return None
    base, *again = _scored(question, samples, bases)
    arm = _scored(question, samples, runs)
    notes, most = [], max(len(bases[0]), len(runs[0]))
    if len(samples) < most:
        notes.append(f"{after} on {question.name}: {len(samples)} samples are in both runs, {most - len(samples)} in one of them only.")
    return _Found(draft_cells(after, question.task, base, arm, (), again), flips_of(after, question.task, base, arm[0]), notes)


def _scored(question: Question, samples: Sequence[Sample], sides: Sequence[Mapping[str, Sequence[Output]]]) -> list:
    return [scored for side in sides if (scored := scored_on(question, samples, side)) is not None]


def _primaries(drafts: Sequence[Draft], asked: Sequence[Question]) -> dict[str, tuple[str, str]]:
    """Each arm's primary result: the first metric of the first task it could be compared on, quality before others."""
    out: dict[str, tuple[str, str]] = {}
    order = {question.name: place for place, question in enumerate(asked)}
    for draft in sorted(drafts, key=lambda draft: (draft.metric.axis != "quality", order.get(draft.task, 0))):
        out.setdefault(draft.arm, (draft.task, draft.metric.name))
    return out


def _costs(first: Report, second: Report, before: str, after: str) -> list[Cell]:
    """Costs side by side, as each run measured them; there is no difference to judge."""
    cells = []
    sides = [(grid(first), before), (grid(second), after)]
    for column in dict.fromkeys(column_of(cell) for cell in (*first.cells, *second.cells) if cell.axis in COSTS):
        own, new = (found.get((column, arm)) for found, arm in sides)
        if own is None and new is None:
            continue
        shown = new or own
        assert shown is not None
        cells.append(dataclasses.replace(
            shown, arm=after, base=own and own.value, base_interval=own and own.value_interval, value=new and new.value,
            value_interval=new and new.value_interval, difference=None, low=None, high=None, n=new.n if new else 0, primary=False,
            verdict="not measurable", margin=None, note=APART, samples_to_settle=None,
        ))  # fmt: skip
    return cells
