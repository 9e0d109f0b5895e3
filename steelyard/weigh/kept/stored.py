"""An earlier run, read from its directory: what it asked, who answered, and every answer, scored anew from its records.

Nothing is asked and no model is opened. Scoring needs the task's own data where it has any (a JSONL file of yours), since records hold
answers and not what they are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from steelyard.core import recipe as recipes
from steelyard.core.errors import SteelyardError
from steelyard.core.recipe import Recipe
from steelyard.weigh.asking import roster
from steelyard.weigh.asking.answering import key_for
from steelyard.weigh.asking.arms import OpenArm
from steelyard.weigh.asking.subjects import Question, questions
from steelyard.weigh.cells.flips import detail_rows
from steelyard.weigh.cells.scoring import Scored, score
from steelyard.weigh.directory import RECIPE
from steelyard.weigh.records import Records
from steelyard.weigh.report.read import read_report
from steelyard.weigh.report.report import Report
from steelyard.weigh.tasks.task import Output, Sample

RECORDS = "records.sqlite"


@dataclass(frozen=True)
class Stored:
    """A run that has ended.

    Attributes:
        directory: where it lies.
        recipe: what it asked, every default said.
        report: what it found.
        arms: arm -> training seed ("" for the run's) -> what answered.
    """

    directory: Path
    recipe: Recipe
    report: Report
    arms: roster.Roster

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Reads recipe, report and who answered.

        Raises:
            SteelyardError: the directory holds no finished run, or a damaged one.
        """
        report = read_report(directory)
        if not (directory / RECIPE).is_file() or not (directory / RECORDS).is_file():
            missing = RECIPE if not (directory / RECIPE).is_file() else RECORDS
            raise SteelyardError(f"there is no {missing} here", where=str(directory), do="Name the directory of a weighing: runs/NAME.")
        recipe = recipes.read(directory / RECIPE)
        return cls(directory, recipe, report, roster.read(directory) or roster.from_report(recipe, report))

    def seeds(self, arm: str) -> Sequence[int | None]:
        """The training seeds an arm was weighed under."""
        return self.recipe.arms[arm].seeds or (None,)

    def outputs(self, records: Records, arm: str, seed: int | None, question: Question) -> dict[str, list[Output]]:
        """Sample -> its trials, of the samples that are recorded whole."""
        told = self.arms.get(arm, {}).get("" if seed is None else str(seed))
        if told is None:
            return {}
        opened, found = roster.as_it_was(arm, told), {}
        for sample in question.samples:
            trials = self._trials(records, opened, question, sample)
            if trials is not None:
                found[sample.id] = trials
        return found

    def _trials(self, records: Records, arm: OpenArm, question: Question, sample: Sample) -> list[Output] | None:
        trials = []
        for number in range(question.trials(self.recipe)):
            output = records.get(key_for(arm, question.name, sample, self.recipe.seed, number))
            if output is None:
                return None
            trials.append(output)
        return trials

    def rows(self, arm: str) -> dict[str, list[dict[str, Any]]]:
        """Task -> every recorded sample of an arm with its question, answer and values, as the page's details have them.

        Raises:
            SteelyardError: a task's data are not there any more.
        """
        out = {}
        with Records(self.directory / RECORDS, reading=True) as records:
            for question in questions(self.recipe):
                found = self.outputs(records, arm, self.seeds(arm)[0], question)
                scored = scored_on(question, [sample for sample in question.samples if sample.id in found], found)
                if scored is not None:
                    out[question.name] = detail_rows(scored, question.task.metrics)
        return out


def scored_on(question: Question, samples: Sequence[Sample], outputs: Mapping[str, Sequence[Output]]) -> Scored | None:
    """Recorded answers to these samples, scored; None where there are none."""
    if not samples:
        return None
    trials = [list(column) for column in zip(*(outputs[sample.id] for sample in samples), strict=True)]
    return score(question.task, samples, trials)
