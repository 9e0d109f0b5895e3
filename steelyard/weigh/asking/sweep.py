"""Asking every arm everything: the base first, then the arms in order, one engine alive at a time.

What was recorded before is not asked again, so a sweep that was killed goes on where it was. The base answers its first 50
samples of a task before anything else; where it is at floor, arms that stand on it are not asked. Arms that are trained, or
that are another model, are asked all the same: what they can do the base does not tell. Where the time or the money for asking
ends, what was answered until then is compared: the first samples of each task, as many as both sides have.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy

from steelyard.core.errors import SpendError
from steelyard.core.recipe import Arm, Recipe
from steelyard.core.recipe_parts import EndpointSource, written_lever
from steelyard.core.run import Run
from steelyard.weigh.asking import roster
from steelyard.weigh.asking.answering import answer_all, key_for, obstacle
from steelyard.weigh.asking.arms import OpenArm, Opener, added_costs, is_trained
from steelyard.weigh.asking.axes import REPEATS, repeated_samples
from steelyard.weigh.asking.budget import Budget
from steelyard.weigh.asking.calibrate import foreign
from steelyard.weigh.asking.speeds import Speeds
from steelyard.weigh.asking.subjects import BASE, Question
from steelyard.weigh.cells.checks import AGAIN, AGAIN_COUNT, defect_arm, defect_count, writes
from steelyard.weigh.cells.scoring import Scored, clusters_of, score, unable
from steelyard.weigh.cells.verdicts import at_floor
from steelyard.weigh.records import Records
from steelyard.weigh.report.report import ArmSummary
from steelyard.weigh.statistics.paired import as_pair, estimate
from steelyard.weigh.statistics.selective import linearised
from steelyard.weigh.tasks.right_answers import SaidAnswers
from steelyard.weigh.tasks.task import Metric, Output, Sample

FLOOR_SAMPLES = 50
ONE_SEED = "this run: one training seed"
NOT_ASKED = "not asked: the time or money for asking had ended"
NOT_RECORDED = "no answer is recorded"


@dataclass
class Repeated:
    """A task's first questions, answered several times at temperature 0.8: [trial][sample] outputs."""

    question: Question
    samples: Sequence[Sample]
    outputs: Sequence[Sequence[Output]]

    def trial(self, number: int) -> Scored:
        """One trial, scored as if it were a task of its own."""
        return score(self.question.task, self.samples, [self.outputs[number]])


@dataclass
class Sweep:
    """What has been asked and answered so far.

    Attributes:
        recipe, asked, run, records, opener, speeds: what it works with.
        base: task -> the base's values.
        other_bases: task -> the base's values under its second and further training seeds.
        arms: arm -> task -> values, one per training seed.
        repeats: arm -> its repeated questions.
        floored: tasks at which the base is at floor.
        summaries: arm -> who it was.
        failed: arm -> why it could not be made or opened.
        untemplated: arms that read no template.
        budget: how long may be asked.
        cut: what was asked -> (answers, samples), where asking ended early.
        refused: the first request that was not sent because of what it might cost.
        unchecked: why the checks could not be finished; "" where they could.
        outlook: tells how long the whole weighing still takes, in words; given (arm, task, answers that are new, 0 to begin with).
    """

    recipe: Recipe
    asked: Sequence[Question]
    run: Run
    records: Records
    opener: Opener
    speeds: Speeds
    base: dict[str, Scored] = field(default_factory=dict)
    other_bases: dict[str, list[Scored]] = field(default_factory=dict)
    arms: dict[str, dict[str, list[Scored]]] = field(default_factory=dict)
    repeats: dict[str, Repeated] = field(default_factory=dict)
    floored: set[str] = field(default_factory=set)
    summaries: dict[str, ArmSummary] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    untemplated: set[str] = field(default_factory=set)
    budget: Budget = field(default_factory=Budget)
    cut: dict[str, tuple[int, int]] = field(default_factory=dict)
    refused: SpendError | None = None
    unchecked: str = ""
    outlook: Callable[[str, str, int], str] = lambda arm, task, new: ""

    def ask(self, arm: OpenArm, question: Question, count: int | None = None, *, trial: int = 0, trials: int = 1) -> Scored:
        """An arm's values on the first `count` samples of a task."""
        samples = question.samples[:count]
        if reason := obstacle(arm, samples) or foreign(arm.answerer, question.task, self.recipe.seed):
            return unable(question.task, samples, reason)
        label, begun, before = f"{arm.name}: {question.name}", time.perf_counter(), len(self.records)
        label += ", again" if trial == AGAIN else ""
        outputs = [self._answers(arm, question, samples, number, label) for number in range(trial, trial + trials)]
        seconds, new = time.perf_counter() - begun, len(self.records) - before
        if new >= min(8, len(samples)) and trial == 0:
            self.speeds.note(arm.name, key_for(arm, question.name, samples[0], self.recipe.seed).arm, question.name, seconds / new)
        if new:
            self.run.metric(kind="answers", arm=arm.name, task=question.name, answers=new, seconds=round(seconds, 3))
        there = self._shortest(outputs, label, len(samples))
        if not there:
            return unable(question.task, samples, f"not asked: {self.refused.what}" if self.refused else self._silence)
        return score(question.task, samples[:there], [each[:there] for each in outputs])

    def _answers(self, arm: OpenArm, question: Question, samples: Sequence[Sample], trial: int, label: str) -> list[Output]:
        """One trial of an arm's answers; the first ones alone, where the time or the money has ended."""

        there: list[int] = []

        def told(done: int, total: int) -> None:
            note = self.outlook(arm.name, question.name, done - there[-1] if there else 0)
            there.append(done)
            self.run.progress(label, done, total, note)

        def answered(stop: Callable[[], bool]) -> list[Output]:
            return answer_all(arm, question.name, samples, self.records, seed=self.recipe.seed, trial=trial, progress=told, stop=stop)

        try:
            return answered(self.budget.over)
        except SpendError as error:
            self.refused = self.refused or error
            return answered(lambda: True)

    @property
    def _silence(self) -> str:
        """Why there is no answer at all, where nothing failed."""
        return NOT_RECORDED if self.budget.seconds == 0 else NOT_ASKED

    def _shortest(self, trials: Sequence[Sequence[Output]], label: str, wanted: int) -> int:
        """How many of the first samples every trial has answered; noted where these are not all."""
        there = min(map(len, trials))
        if there < wanted:
            self.cut[label] = max(self.cut.get(label, (0, 0)), (there, wanted), key=lambda pair: pair[1])
        return there

    def weigh_base(self, arm: OpenArm, question: Question) -> Scored:
        """The base on one task: floor samples, then the rest unless it is at floor."""
        if question.metrics_with_floor and len(question.samples) > FLOOR_SAMPLES:
            first = self.ask(arm, question, FLOOR_SAMPLES)
            whole = len(first.samples) == FLOOR_SAMPLES and not first.obstacle
            if whole and all(_floored(metric, first) for metric in question.metrics_with_floor):
                self.floored.add(question.name)
                if not any(self.asks_anyway(other) for other in self.recipe.arms.values()):
                    self.base[question.name] = first
                    return first
        self.base[question.name] = self.ask(arm, question, trials=question.trials(self.recipe))
        return self.base[question.name]

    def asks_anyway(self, arm: Arm) -> bool:
        """Whether an arm is asked where the base is at floor."""
        return arm.name != BASE and (is_trained(arm) or arm.source != self.recipe.base)

    def skips(self, arm: Arm, question: Question) -> bool:
        """Whether an arm is spared a task because the base is at floor."""
        return question.name in self.floored and not self.asks_anyway(arm)

    def weigh_arm(self, arm: OpenArm, question: Question) -> Scored:
        """An arm on one task, as many samples as the base answered."""
        base = self.base[question.name]
        if base.obstacle == self._silence:
            scored = unable(question.task, base.samples, self._silence)
        else:
            scored = self.ask(arm, question, len(base.samples), trials=question.trials(self.recipe))
        self.arms.setdefault(arm.name, {}).setdefault(question.name, []).append(scored)
        return scored

    def weigh_base_again(self, arm: OpenArm, question: Question) -> None:
        """The base under another training seed, as many samples as under its first."""
        scored = self.ask(arm, question, len(self.base[question.name].samples), trials=question.trials(self.recipe))
        self.other_bases.setdefault(question.name, []).append(scored)

    def repeat(self, arm: OpenArm, question: Question) -> None:
        """The first questions of a task again, several times, sampled."""
        samples = repeated_samples(question.samples)
        label = f"{arm.name}: {question.name}, sampled"
        outputs = [self._answers(arm, question, samples, trial, label) for trial in range(REPEATS)]
        there = self._shortest(outputs, label, len(samples))
        self.repeats[arm.name] = Repeated(question, samples[:there], [each[:there] for each in outputs])

    def again(self, arm: OpenArm, question: Question) -> tuple[Scored, Scored]:
        """The base's first answers, and the same questions really asked again."""
        count = min(AGAIN_COUNT, len(self.base[question.name].samples))
        return self.ask(arm, question, count), self.ask(arm, question, count, trial=AGAIN)

    def defect(self, question: Question) -> tuple[Scored, Scored]:
        """Base and planted defect on the first samples of a task."""
        base = self.recipe.arms[BASE]
        said = isinstance(question.task, SaidAnswers)  # what is scored there is what would be written
        templated = base.name not in self.untemplated and (said or writes(self.base[question.name].samples))
        seed = base.seeds[0] if base.seeds else None
        broken = defect_arm(base, templated)
        count = min(defect_count(broken), len(self.base[question.name].samples))
        arm = self.opener.open(broken, seed)
        roster.enter(self.run.directory, arm, seed)
        try:
            return self.base[question.name].first(count), self.ask(arm, question, count)
        finally:
            arm.close()

    def introduce(self, opened: OpenArm, arm: Arm) -> None:
        """Notes who an arm was; for the second and further training seeds, who else it was."""
        if not opened.templated:
            self.untemplated.add(arm.name)
        if before := self.summaries.get(arm.name):
            cost = added_costs(before.cost, opened.cost)
            self.summaries[arm.name] = dataclasses.replace(
                before,
                fingerprint=f"{before.fingerprint}+{opened.fingerprint}",
                cost=cost,
                trainings=[*before.trainings, *opened.trainings],
            )
            return
        self.summaries[arm.name] = dataclasses.replace(
            self._unopened(arm),
            fingerprint=opened.fingerprint,
            cost=dict(opened.cost),
            kernels=opened.kernels,
            parameters=opened.parameters,
            trainings=list(opened.trainings),
        )

    def give_up(self, arm: Arm, reason: str) -> None:
        """Notes that an arm could not be made or opened; what its earlier seeds gave is not used."""
        self.summaries[arm.name] = dataclasses.replace(self._unopened(arm), note=f"could not be weighed: {reason}")
        self.arms.pop(arm.name, None)
        self.repeats.pop(arm.name, None)
        self.failed[arm.name] = reason

    def _unopened(self, arm: Arm) -> ArmSummary:
        note = ONE_SEED if is_trained(arm) and len(arm.seeds) < 2 else ""
        if isinstance(arm.source, EndpointSource):
            note = "a remote endpoint: what answered there may change without notice"
        return ArmSummary("", [written_lever(lever) for lever in arm.levers], {}, note=note)


def _floored(metric: Metric, scored: Scored) -> bool:
    """Whether one arm's own value is not better than the metric's floor."""
    (column,) = linearised(metric, [scored.values[metric.name]])
    pairs = numpy.array([as_pair(value) for value in column], dtype=numpy.float64)
    names = [name or position for position, name in enumerate(clusters_of(scored.samples))]
    codes = {name: number for number, name in enumerate(dict.fromkeys(names))}
    found = estimate(
        pairs,
        numpy.array([codes[name] for name in names]),
        binary=metric.binary and scored.trials == 1,
        bounded=metric.unit == "share" and metric.kind == "mean",
    )
    return found is None or at_floor(metric, found.interval)
