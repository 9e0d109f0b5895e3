"""The report of a weighing, put together from everything that was found: nothing is asked, timed or written here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.core import hardware
from steelyard.core.errors import SteelyardError
from steelyard.core.recipe import Arm, EndpointSource, Recipe
from steelyard.weigh.asking.remote import remarks
from steelyard.weigh.asking.subjects import BASE, Question
from steelyard.weigh.asking.sweep import Sweep
from steelyard.weigh.cells import checks, costs
from steelyard.weigh.cells.cells import Draft, base_cells, finish_all
from steelyard.weigh.cells.curves import all_curves
from steelyard.weigh.cells.flips import chosen, detail_rows, flips_of
from steelyard.weigh.report.columns import task_title
from steelyard.weigh.report.read import read_report
from steelyard.weigh.report.report import ArmSummary, Cell, Report
from steelyard.weigh.statistics.paired import ALPHA
from steelyard.weigh.statistics.scaling_law import scaling_laws


@dataclass(frozen=True)
class Findings:
    """What a weighing found.

    Attributes:
        recipe, directory: what was weighed, and where its records are.
        asked: the questions.
        sweep: answers of every arm, and what became of arms.
        primary: arm -> (task, metric) of its primary hypothesis.
        drafts: of all cells but those of `preferred`.
        checks: cells of the checks, by kind.
        preferred: cells of a judge and of people.
        base_costs: the base's own speed and memory, where there is no arm beside it.
    """

    recipe: Recipe
    directory: Path
    asked: Sequence[Question]
    sweep: Sweep
    primary: Mapping[str, tuple[str, str]]
    drafts: Sequence[Draft]
    checks: dict[str, list[Cell]]
    preferred: Sequence[Cell]
    base_costs: Sequence[Cell]

    @property
    def others(self) -> list[Arm]:
        return [arm for name, arm in self.recipe.arms.items() if name != BASE]

    def report(self, started: str, took: float | None, earlier: int) -> Report:
        """The report of them.

        Args:
            started: when the weighing began.
            took: its seconds, where they are known.
            earlier: answers that were there before.
        """
        sweep = self.sweep
        cells = [*finish_all(self.drafts, self.primary), *self.preferred]
        if not self.others:
            cells = [*self._base_alone(), *self.base_costs]
        trainings = {name: len(arm.seeds) for name, arm in self.recipe.arms.items()}
        cells += costs.training_cells(sweep.summaries, trainings, self.recipe.axes)
        groups = [
            flips_of(arm.name, question.task, sweep.base[question.name], runs[0])
            for arm in self.others
            for question in self.asked
            if (runs := sweep.arms.get(arm.name, {}).get(question.name))
        ]
        notes = [f"The arm {name} could not be weighed: {reason}" for name, reason in sweep.failed.items()]
        notes += checks.complaints(self.checks["a_a"], self.checks["planted_defect"])
        if sweep.unchecked:
            notes.append(f"The checks could not be finished: {sweep.unchecked}. The same command goes on with them.")
        elif self.asked and not self.checks["planted_defect"]:
            notes.append(f"No planted defect was tried: {self._nothing_to_spoil()}.")
        notes += _cut_short(sweep)
        if sweep.floored:
            notes.append(f"The base is at floor on {', '.join(map(task_title, sorted(sweep.floored)))}: nothing can be told there.")
        return Report(
            arms={name: self._told(arm) for name, arm in self.recipe.arms.items()},
            cells=cells,
            checks=self.checks,
            machine=hardware.describe(),
            versions=hardware.versions(),
            recipe=self.recipe.resolved(),
            flips=chosen(groups),
            notes=notes,
            started=started,
            seconds=took,
            earlier=earlier,
            confidence=1 - ALPHA,
            scaling=scaling_laws(sweep.summaries, ALPHA),
            curves=all_curves({question.name: question.task for question in self.asked}, sweep.base, sweep.arms),
        )

    def _nothing_to_spoil(self) -> str:
        """Why there was no task to try a planted defect on."""
        reached = [question.name for question in self.asked if checks.reaches(question.samples)]
        unasked = {name: reason for name in reached if (reason := self.sweep.base[name].obstacle)}
        told = "; ".join(f"{task_title(name)}: {reason}" for name, reason in unasked.items())
        if reached and len(unasked) == len(reached):
            return told
        return "it needs a task that puts questions and is not at floor" + (f" ({told})" if told else "")

    def _told(self, arm: Arm) -> ArmSummary:
        """Who an arm was; of a remote one also what became known while it answered."""
        sweep = self.sweep
        summary = sweep.summaries[arm.name]
        if not isinstance(arm.source, EndpointSource):
            return summary
        runs = [*sweep.base.values()] if arm.name == BASE else [run for runs in sweep.arms.get(arm.name, {}).values() for run in runs]
        return dataclasses.replace(summary, note="; ".join(filter(None, [summary.note, *remarks(arm.source, runs, self.directory)])))

    def _base_alone(self) -> list[Cell]:
        cells = []
        for question in self.asked:
            cells += base_cells(question.task, self.sweep.base[question.name])
        return [cell for cell in cells if cell.axis in self.recipe.axes]

    def details(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """By arm and task: the rows of every answer."""
        sweep = self.sweep
        rows = {(BASE, question.name): detail_rows(sweep.base[question.name], question.task.metrics) for question in self.asked}
        for arm in self.others:
            for question in self.asked:
                if runs := sweep.arms.get(arm.name, {}).get(question.name):
                    rows[arm.name, question.name] = detail_rows(runs[0], question.task.metrics)
        return rows


def weighed_before(directory: Path) -> tuple[str, float | None, int]:
    """When the answers that are now scored anew were asked, how long it took, and how many were there before, as the report says
    that is there; else "", None and 0."""
    try:
        earlier = read_report(directory)
    except SteelyardError:  # stores of several machines, just merged, have none
        return "", None, 0
    return earlier.started, earlier.seconds, earlier.earlier


def _cut_short(sweep: Sweep) -> list[str]:
    """What was not asked because the time or the money had ended."""
    if not sweep.cut:
        return []
    listed = "; ".join(f"{what} {done} of {wanted}" for what, (done, wanted) in sweep.cut.items())
    if sweep.budget.seconds == 0:
        return [f"Only what was recorded is told: {listed}."]
    why = f"{sweep.refused.what}" if sweep.refused else f"asking was allowed to take {sweep.budget.seconds:g} s"
    return [f"Asking stopped early: {why}. Answered: {listed}. The same command goes on from there."]
