"""One machine's part of a weighing: every arm is asked every n-th sample, and no report is written.

What is asked is what `weigh` asks, the checks' samples among it, so that a weighing over the merged stores finds everything there.
Where the base turns out to be at floor the arms' answers are simply not used: a part alone cannot tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from steelyard.core.errors import RecipeError
from steelyard.core.files import write_text
from steelyard.core.progress import shown
from steelyard.core.recipe import Arm, Recipe
from steelyard.core.run import Run
from steelyard.weigh.asking import roster
from steelyard.weigh.asking.answering import answer_all, obstacle
from steelyard.weigh.asking.arms import ArmOpener, OpenArm, Opener
from steelyard.weigh.asking.axes import REPEATS, repeated_samples, repeated_task
from steelyard.weigh.asking.budget import Budget
from steelyard.weigh.asking.calibrate import foreign
from steelyard.weigh.asking.subjects import BASE, Question, questions, wants
from steelyard.weigh.cells.checks import AGAIN, AGAIN_COUNT, defect_arm, defect_count, is_defect, reaches, writes
from steelyard.weigh.directory import RECIPE, held, refuse_another_recipe
from steelyard.weigh.records import Records
from steelyard.weigh.tasks.task import Ask, Sample


def parsed(text: str) -> tuple[int, int]:
    """`1/4` as (1, 4): the first of four parts.

    Raises:
        RecipeError: it is no such thing.
    """
    found = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise RecipeError(f"{text!r:.40} is no part of a weighing", where="--shard", do="Write --shard 1/4 for the first of four parts.")
    return int(found[1]), int(found[2])


def collect(
    recipe: Recipe,
    directory: str | Path | None,
    part: tuple[int, int],
    *,
    say: Callable[[str], None] = print,
    opener: Opener | None = None,
) -> int:
    """Asks one part of a recipe's samples and records the answers; returns how many records there are.

    Args:
        recipe: what is weighed.
        directory: the run's, this part's own; `runs/NAME` if None.
        part: (k, n): every n-th sample from the k-th on, counted from 1.
        say: receives lines for a person.
        opener: opens arms; this machine's own if None.

    Raises:
        SteelyardError: as for `weigh`; and an arm that cannot be made or opened.
    """
    with shown() as draw:
        run = Run(
            Path(directory) if directory is not None else Path("runs") / recipe.name, recipe.seed, recipe.run.place, say=say, progress=draw
        )
        with held(run.directory):
            refuse_another_recipe(recipe, run.directory)
            write_text(run.path(RECIPE), recipe.text())
            return _Part(recipe, run, part, opener or ArmOpener(run)).collect()


class _Part:
    """One call of `collect`."""

    def __init__(self, recipe: Recipe, run: Run, part: tuple[int, int], opener: Opener):
        self.recipe, self.run, self.opener, self.budget = recipe, run, opener, Budget(recipe.seconds)
        self.part, self.asked = part, questions(recipe)
        self.repeated = repeated_task([(question.name, question.samples) for question in self.asked])

    def collect(self) -> int:
        arms = [(arm, seed) for arm in self.recipe.arms.values() for seed in (arm.seeds or (None,))]
        try:
            for arm, _ in arms:
                self.opener.find(arm)
            with Records(self.run.path("records.sqlite"), say=self.run.say) as records:
                templated = True
                for number, (arm, seed) in enumerate(arms):
                    with self.budget.paused():
                        opened = self._opened(arm, seed)
                    templated = opened.templated if number == 0 else templated
                    try:
                        with self.budget.share(len(arms) - number):
                            self._ask(opened, arm, seed, records)
                    finally:
                        opened.close()
                self._plant(templated, records)
                return len(records)
        finally:
            self.opener.close()

    def _opened(self, arm: Arm, seed: int | None) -> OpenArm:
        opened = self.opener.open(arm, seed)
        if any(not isinstance(sample.request, Ask) for question in self.asked for sample in question.samples):
            opened.learn()
        roster.enter(self.run.directory, opened, seed)
        return opened

    def _ask(self, opened: OpenArm, arm: Arm, seed: int | None, records: Records) -> None:
        first = seed is None or seed == arm.seeds[0]
        for question in self.asked:
            for trial in range(question.trials(self.recipe)):
                self._answers(opened, question, question.samples, trial, records)
            if not first or not (question.name == self.repeated or (self.repeated is None and question is self.asked[0])):
                continue
            if self.repeated and (arm.name == BASE or wants(self.recipe, "repeatability", "diversity")):
                for trial in range(REPEATS):
                    self._answers(opened, question, repeated_samples(question.samples), trial, records)
            if arm.name == BASE:
                self._answers(opened, question, question.samples[:AGAIN_COUNT], AGAIN, records)

    def _plant(self, templated: bool, records: Records) -> None:
        """The planted defect, on the first task it can show on; a merged weighing may need another, and asks that itself."""
        question = next((question for question in self.asked if reaches(question.samples)), None)
        if question is None or any(map(is_defect, self.recipe.arms.values())):
            return
        base = self.recipe.arms[BASE]
        broken = defect_arm(base, templated and writes(question.samples))
        opened = self._opened(broken, base.seeds[0] if base.seeds else None)
        try:
            self._answers(opened, question, question.samples[: defect_count(broken)], 0, records)
        finally:
            opened.close()

    def _answers(self, arm: OpenArm, question: Question, samples: Sequence[Sample], trial: int, records: Records) -> None:
        number, count = self.part
        mine, label = samples[number - 1 :: count], f"{arm.name}: {question.name}"
        if obstacle(arm, samples) or foreign(arm.answerer, question.task, self.recipe.seed):
            return
        answer_all(
            arm,
            question.name,
            mine,
            records,
            seed=self.recipe.seed,
            trial=trial,
            progress=lambda done, total: self.run.progress(label, done, total, f"part {number} of {count}"),
            stop=self.budget.over,
        )
