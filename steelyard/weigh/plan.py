"""What a weighing would take and what it could show, said before anything runs.

For every task and arm: the samples, the smallest difference that would be found four times in five, and the minutes. Minutes come
from an earlier run in the same directory where there was one, else from a few samples that the base answers now (they are kept:
the weighing will not ask them again). An arm that has not run yet is taken to be as fast as the base, and the plan says so.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from steelyard.core.errors import SteelyardError
from steelyard.core.recipe import Recipe
from steelyard.core.run import Run
from steelyard.weigh.asking.answering import answer_all, key_for, obstacle
from steelyard.weigh.asking.arms import ArmOpener, OpenArm, Opener, is_trained
from steelyard.weigh.asking.axes import REPEATS, SUBSET, repeated_task
from steelyard.weigh.asking.speeds import Speeds
from steelyard.weigh.asking.subjects import BASE, Question, primaries, questions, wants
from steelyard.weigh.cells.checks import AGAIN_COUNT, defect_arm, defect_count, is_defect
from steelyard.weigh.directory import held, refuse_another_recipe
from steelyard.weigh.measure import PASSES
from steelyard.weigh.records import NoRecordsError, Records, key_of
from steelyard.weigh.statistics.paired import ALPHA
from steelyard.weigh.statistics.power import POWER, detectable
from steelyard.weigh.tasks.task import Metric

CALIBRATION = 8  # samples of each task: one round of the engine's slots
FLIPS = 0.2  # assumed share of samples whose yes/no outcome an arm turns over
SPREAD = 0.3  # assumed standard deviation of a share's paired difference
BLOCK_SECONDS = 4.0  # of the speed passes, where nothing is known
LOAD_SECONDS = 6.0


@dataclass(frozen=True)
class PlanRow:
    """One arm on one task.

    Attributes:
        arm, task: names; the task is "" for measurements of the whole arm.
        metric, unit: of the difference.
        samples: answers needed, and `recorded` how many of them are there already.
        detectable: smallest true difference found with a power of 80 %, in `unit`; None where the spread is not known yet,
            and for shares where so few samples could show no difference at all.
        minutes: expected; None where nothing is known.
        basis: where the minutes come from.
        primary: whether it is the arm's primary hypothesis.
    """

    arm: str
    task: str
    metric: str
    unit: str
    samples: int
    recorded: int
    detectable: float | None
    minutes: float | None
    basis: str
    primary: bool = False


@dataclass(frozen=True)
class Plan:
    """The whole plan; printable by Rich."""

    rows: Sequence[PlanRow]
    notes: Sequence[str]

    @property
    def minutes(self) -> float | None:
        """All rows together; None as soon as one is unknown."""
        return None if any(row.minutes is None for row in self.rows) else sum(row.minutes or 0.0 for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"rows": [dataclasses.asdict(row) for row in self.rows], "minutes": self.minutes, "notes": list(self.notes)}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(title="Before anything runs", title_justify="left", box=None, padding=(0, 2, 0, 0))
        for heading, justify in (
            ("arm", "left"),
            ("task", "left"),
            ("samples", "right"),
            ("difference found 4 times in 5", "left"),
            ("minutes", "right"),
        ):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        for row in self.rows:
            samples = f"{row.samples}" + (f" ({row.recorded} recorded)" if row.recorded else "") if row.samples else ""
            table.add_row(row.arm + (" ◆" if row.primary else ""), row.task or row.metric, samples, _difference(row), _minutes(row.minutes))
        yield table
        total = self.minutes
        yield f"In all about {_minutes(total)} minutes." if total is not None else "How long it takes is not known yet."
        yield from self.notes


def _difference(row: PlanRow) -> str:
    if row.detectable is None and row.unit == "share" and row.arm != BASE:
        return "none: too few samples"
    if row.detectable is None:
        return "" if row.arm == BASE or not row.task else "known once an arm has run"
    return f"{row.metric} ± {row.detectable * 100:.1f} points" if row.unit == "share" else f"{row.metric} ± {row.detectable:.3g} {row.unit}"


def _minutes(minutes: float | None) -> str:
    return "?" if minutes is None else f"{minutes:.1f}"


def plan(
    recipe: Recipe,
    directory: Path | None = None,
    *,
    calibrate: bool = True,
    say: Callable[[str], None] = lambda line: None,
    opener: Opener | None = None,
) -> Plan:
    """Plans a weighing.

    Args:
        recipe: what would be weighed.
        directory: the run's; `runs/NAME` if None.
        calibrate: let the base answer a few samples where no earlier run tells the speed. One that has to be trained first is not: that
            may take hours, and the plan then says so instead.
        say: receives lines for a person.
        opener: opens arms; this machine's own if None.

    Raises:
        SteelyardError: the recipe's tasks, base or an arm's models or documents cannot be had.
    """
    run = Run(directory or Path("runs") / recipe.name, seed=recipe.seed, device=recipe.run.place, say=say)
    with held(run.directory):
        refuse_another_recipe(recipe, run.directory)
        return _planned_in(run, recipe, calibrate, opener)


def _planned_in(run: Run, recipe: Recipe, calibrate: bool, opener: Opener | None) -> Plan:
    asked = questions(recipe)
    speeds = Speeds.read(run.directory, recipe)
    mine = opener or ArmOpener(run)
    try:
        for arm in recipe.arms.values():
            mine.find(arm)  # also where the speed is known: what cannot be weighed is not planned
        if calibrate and not is_trained(recipe.arms[BASE]) and not all(_pace(speeds, BASE, question) for question in asked):
            run.say("Timing the base on a few samples of each task ...")
            base = mine.open(recipe.arms[BASE])
            try:
                with Records(run.path("records.sqlite"), say=run.say) as records:
                    calibrated(base, asked, records, recipe, speeds)
            finally:
                base.close()
            speeds.write(run.directory)
    finally:
        if opener is None:
            mine.close()
    return planned(recipe, asked, speeds, run.directory)


def calibrated(base: OpenArm, asked: Sequence[Question], records: Records, recipe: Recipe, speeds: Speeds) -> None:
    """Lets the base answer the first samples of every task whose speed is not known, and notes it. The answers are kept.

    Raises:
        SteelyardError: the base answered none of them. There is nothing to compare with, and waiting for the rest is in vain.
    """
    failures: list[str | None] = []
    names = {question.name for question in asked}
    for question in asked:
        if question.of in names:
            continue  # as quick as the task whose questions these are
        samples = question.samples[:CALIBRATION]
        if speeds.seconds(BASE, question.name) is None and not obstacle(base, samples):
            begun, before = time.perf_counter(), len(records)
            outputs = answer_all(base, question.name, samples, records, seed=recipe.seed)
            failed = [output.failure for output in outputs]
            failures += failed
            if (new := len(records) - before) and None in failed:
                mark = key_for(base, question.name, samples[0], recipe.seed).arm
                speeds.note(BASE, mark, question.name, (time.perf_counter() - begun) / new)
        else:
            failures.append(None)
    if failures and None not in failures:
        raise SteelyardError(
            f"it answered none of the first {len(failures)} samples; the first failure: {failures[0]}", where=f"arm `{BASE}`"
        )


def planned(recipe: Recipe, asked: Sequence[Question], speeds: Speeds, directory: Path) -> Plan:
    """The plan from what is known about speeds; nothing is opened."""
    chosen = primaries(recipe, asked)
    kept = _recorded(recipe, asked, speeds, directory)
    rows: list[PlanRow] = []
    for name, arm in recipe.arms.items():
        runs = max(len(arm.seeds), 1)
        for question in asked:
            metric = question.shown(chosen.get(name))
            primary = chosen.get(name) == (question.name, metric.name)
            count = len(question.samples)
            needed = count * question.trials(recipe) * runs
            recorded = min(kept.get((name, question.name), 0), needed)
            found = None
            if name != BASE:
                found = _detectable(metric, question.clusters, ALPHA / max(len(chosen), 1) if primary else ALPHA)
            seconds, basis = _pace(speeds, name, question), "earlier run"
            if seconds is None:
                seconds, basis = _pace(speeds, BASE, question), "the base's speed"
            minutes = None if seconds is None else (needed - recorded) * seconds / 60
            rows.append(PlanRow(name, question.name, metric.name, metric.unit, needed, recorded, found, minutes, basis, primary))
    rows += _extras(recipe, asked, speeds)
    return Plan(rows, _notes(recipe, asked, chosen, rows))


def _pace(speeds: Speeds, arm: str, question: Question) -> float | None:
    """Seconds a sample, by the task whose questions these are where they were never asked themselves."""
    own = speeds.seconds(arm, question.name)
    return own if own is not None or not question.of else speeds.seconds(arm, question.of)


def _extras(recipe: Recipe, asked: Sequence[Question], speeds: Speeds) -> list[PlanRow]:
    rows: list[PlanRow] = []
    repeated = repeated_task([(question.name, question.samples) for question in asked])
    seconds = speeds.seconds(BASE, repeated) if repeated else None
    names = {question.name: len(question.samples) for question in asked}
    arms = len(recipe.arms)
    if repeated and wants(recipe, "repeatability", "diversity"):
        count = REPEATS * min(SUBSET, names[repeated]) * arms
        rows.append(
            PlanRow("all", "", "repeatability", "", count, 0, None, None if seconds is None else count * seconds / 60, "the base's speed")
        )
    if asked:
        task = repeated or asked[0].name
        pace = speeds.seconds(BASE, task)
        planted = 0 if any(map(is_defect, recipe.arms.values())) else min(defect_count(defect_arm(recipe.arms[BASE])), names[task])
        count = min(AGAIN_COUNT, names[task]) + planted
        rows.append(
            PlanRow(
                "checks", "", "A/A and planted defect", "", count, 0, None, None if pace is None else count * pace / 60, "the base's speed"
            )
        )
    if wants(recipe, "speed", "memory", "energy", "money"):
        known = speeds.seconds("all", "measuring")
        minutes = (known if known is not None else arms * (LOAD_SECONDS + PASSES * BLOCK_SECONDS)) / 60
        basis = "earlier run" if known is not None else "a guess"
        rows.append(PlanRow("all", "", "speed, memory, energy", "", 0, 0, None, minutes, basis))
    return rows


def _detectable(metric: Metric, samples: int, alpha: float) -> float | None:
    """The smallest difference found four times in five, from the spread assumed before any arm has run; None where there is none."""
    if not metric.binary and metric.unit != "share":
        return None
    found = detectable(math.sqrt(FLIPS) if metric.binary else SPREAD, samples, alpha)
    if metric.binary and 2 * 0.5**samples >= alpha:
        return None  # all outcomes turned over the same way: not even that convinces the exact test
    if metric.unit == "share" and found is not None and found >= 1:
        return None  # no two shares differ by more
    return found


def _recorded(recipe: Recipe, asked: Sequence[Question], speeds: Speeds, directory: Path) -> Mapping[tuple[str, str], int]:
    """How many answers of each arm and task are there already."""
    try:
        with Records(directory / "records.sqlite", reading=True) as records:
            there = records.answered()
    except NoRecordsError:
        return {}
    return {
        (name, question.name): sum(
            key_of(mark, question.name, sample, recipe.seed, trial).text in there
            for sample in question.samples
            for trial in range(question.trials(recipe))
        )
        for name in recipe.arms
        for question in asked
        if (mark := speeds.mark(name, question.name)) is not None
    }


def _notes(recipe: Recipe, asked: Sequence[Question], chosen: Mapping[str, tuple[str, str]], rows: Sequence[PlanRow]) -> list[str]:
    shared = f", shared by {len(chosen)} primary cells (◆, Holm)" if len(chosen) > 1 else ""
    notes = []
    if any(row.detectable is not None for row in rows):
        notes.append(
            f"Differences: power {POWER:.0%} at an error rate of {ALPHA:.0%}{shared}; assumed are {FLIPS:.0%} of yes/no outcomes turned "
            f"over, and a spread of {SPREAD:g} for other shares."
        )
    if any(row.basis == "the base's speed" and row.arm not in (BASE, "all", "checks") for row in rows):
        notes.append("Minutes of arms that have not run yet take them to be as fast as the base.")
    if len(recipe.arms) > 1 and any(question.metrics_with_floor for question in asked):
        notes.append("Where the base turns out to be at floor on its first 50 samples, the arms are not asked.")
    if is_trained(recipe.arms[BASE]) and any(row.arm == BASE and row.minutes is None for row in rows):
        notes.append("The base has to be trained first; its pace, and with it the minutes, is known once it has answered a few samples.")
    if any(len(arm.seeds) > 1 for arm in recipe.arms.values()):
        notes.append("Arms with several seeds are made and asked once per seed; making them is not in these minutes.")
    return notes
