"""Weighing: from a recipe to a report, in a directory that a killed run resumes from.

The order is: base, arms, checks, then (in processes of their own) speed, memory and energy, then statistics and the report.
`runs/NAME/` holds `recipe.resolved.yaml`, `records.sqlite`, `metrics.jsonl`, `report.json`, `report.html`, `details/`, `log.txt`,
`speeds.json` and what weight levers made (`made/`). Answers are drawn once and scored from records, so that a resumed run's
quality part is byte for byte that of one which was never killed.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from steelyard.core import recipe as recipes
from steelyard.core.errors import SpendError, SteelyardError
from steelyard.core.files import write_text
from steelyard.core.meters import money
from steelyard.core.progress import Lines, shown
from steelyard.core.recipe import Arm, Recipe
from steelyard.core.run import Run
from steelyard.weigh.asking import roster
from steelyard.weigh.asking.answering import GoneError, reason_of
from steelyard.weigh.asking.arms import ArmOpener, OpenArm, Opener, is_trained
from steelyard.weigh.asking.axes import DIVERSITY, REPEATABILITY, agreement, distinct, repeated_task
from steelyard.weigh.asking.budget import Budget
from steelyard.weigh.asking.speeds import Speeds
from steelyard.weigh.asking.subjects import BASE, Question, primaries, questions, wants
from steelyard.weigh.asking.sweep import ONE_SEED, Repeated, Sweep
from steelyard.weigh.assembly import Findings, weighed_before
from steelyard.weigh.cells import checks, costs
from steelyard.weigh.cells.cells import Draft, base_cell, contrast, draft_cells, finish, not_run, unmeasured
from steelyard.weigh.cells.costs import MEASURED, METRICS, Measured, draft_measured, values
from steelyard.weigh.cells.scoring import clusters_of, unable
from steelyard.weigh.cells.usage import usage_drafts
from steelyard.weigh.directory import RECIPE, held, refuse_another_recipe
from steelyard.weigh.judged import preferred
from steelyard.weigh.measure import measure, prompts_of
from steelyard.weigh.outlook import Outlook
from steelyard.weigh.plan import calibrated, planned
from steelyard.weigh.records import Records
from steelyard.weigh.report.html import write_html
from steelyard.weigh.report.json import write_report_json
from steelyard.weigh.report.report import Cell, Report
from steelyard.weigh.statistics.paired import ALPHA
from steelyard.weigh.tasks.right_answers import SaidAnswers
from steelyard.weigh.tasks.task import Ask


def weigh(
    recipe: Recipe | str | Path,
    directory: str | Path | None = None,
    *,
    say: Callable[[str], None] = print,
    progress: Callable[[str, int, int, str], None] | None = None,
    on_cell: Callable[[Cell], None] = lambda cell: None,
    overrides: Sequence[str] = (),
    opener: Opener | None = None,
    budget: Budget | None = None,
) -> Report:
    """Weighs a recipe's arms against its base.

    Args:
        recipe: a recipe, or the file it is read from.
        directory: where everything is kept; `runs/NAME` if None. The same directory again goes on where it was.
        say: receives lines for a person.
        progress: receives (what, done, total, note); a bar on a terminal's standard error if None.
        on_cell: receives each quality cell as soon as it is there. Primary cells are then read at Bonferroni's level, which Holm
            can only improve on; the report's cells are final.
        overrides: `key.path=value`, for a recipe given as a file.
        opener: opens arms; this machine's own if None.
        budget: how long may be asked; the recipe's `seconds` if None.

    Raises:
        SpendError: an endpoint's cap was reached; the report of what is there has been written.
        SteelyardError: the recipe, its data, the base or the disk does not allow it, another process is weighing in the directory,
            or it holds the weighing of another recipe. What was recorded stays. An arm that cannot be made or opened is told in
            the report and stops nothing.
    """
    recipe = recipe if isinstance(recipe, Recipe) else recipes.read(recipe, overrides)
    with contextlib.ExitStack() as stack:
        draw = progress if progress is not None else stack.enter_context(shown())
        run = Run(Path(directory) if directory is not None else Path("runs") / recipe.name, recipe.seed, recipe.run.place, say=say)
        logged = Lines(run.log)

        def told(*how_far: Any) -> None:
            draw(*how_far)
            logged(*how_far)

        run.progress = told
        with held(run.directory):
            refuse_another_recipe(recipe, run.directory)
            return _Weighing(recipe, run, on_cell, opener, budget or Budget(recipe.seconds)).report()


def rescore(
    directory: str | Path,
    *,
    say: Callable[[str], None] = print,
    progress: Callable[[str, int, int, str], None] | None = None,
) -> Report:
    """Writes a run's report anew from its records: after a change to scorers, statistics or the page, or once stores are merged.

    No model is opened and nothing is asked or timed: samples without a record are left out and named, speed, memory, energy and
    money are those that were measured last. The same code over the same records gives the same figures.

    Args:
        directory: the run's.
        say, progress: as for `weigh`.

    Raises:
        SteelyardError: the directory holds no run, or one of an earlier version that does not say who answered.
    """
    directory = Path(directory)
    if not (directory / RECIPE).is_file():
        raise SteelyardError(f"there is no {RECIPE} here", where=str(directory), do="Name the directory of a weighing: runs/NAME.")
    recipe = recipes.read(directory / RECIPE)
    with held(directory):
        run = Run(directory, recipe.seed, say=say, progress=progress or (lambda *told: None))
        return _Weighing(recipe, run, lambda cell: None, roster.RecordedOpener(directory), Budget(0.0)).report()


class _Weighing:
    """One call of `weigh`, or of `rescore`: then the budget is nothing, and nothing is asked or timed."""

    def __init__(self, recipe: Recipe, run: Run, on_cell: Callable[[Cell], None], opener: Opener | None, budget: Budget):
        self.recipe, self.run, self.on_cell = recipe, run, on_cell
        self.budget, self.asks = budget, budget.seconds != 0
        self.left = 0  # parts of the sweep that still want some of the time
        self.outlook: Outlook | None = None
        self.asked = questions(recipe)
        self.opener = opener or opener_for(recipe, run)
        self.primary = primaries(recipe, self.asked)
        self.others = [arm for name, arm in recipe.arms.items() if name != BASE]
        self.repeated = self._question(repeated_task([(q.name, q.samples) for q in self.asked]))
        self.drafts: dict[str, list[Draft]] = {arm.name: [] for arm in self.others}
        self.checks: dict[str, list[Cell]] = {"a_a": [], "planted_defect": []}
        self.preferred: list[Cell] = []

    def report(self) -> Report:
        """Runs everything and writes the report."""
        started, begun = datetime.datetime.now().astimezone().isoformat(timespec="seconds"), time.perf_counter()
        goes_on = self.run.path(RECIPE).is_file()  # what a plan asked a moment ago is no earlier call
        write_text(self.run.path(RECIPE), self.recipe.text())
        self.run.log(f"weighing {self.recipe.name}: {len(self.others)} arms, {len(self.asked)} tasks")
        if self.asks:
            where = f"Weighing {self.recipe.name} in {self.run.directory}"
            self.run.say(f"{where}; stopped at any moment, the same command goes on from there.")
        try:
            with Records(self.run.path("records.sqlite"), say=self._tell) as records:
                earlier = len(records) if goes_on else 0
                if not (self.asks or len(records) or not self.asked):
                    do = f"Run `steelyard weigh {self.run.path(RECIPE)} -o {self.run.directory}`: it asks anew. The report stays as it is."
                    raise SteelyardError("there are no records to score", where=str(records.path), do=do)
                if not self.asks:
                    self.asked = roster.recorded_first(self.asked, self.recipe, records, roster.read(self.run.directory))
                    self.repeated = self._question(self.repeated.name if self.repeated else None)
                speeds = Speeds.read(self.run.directory, self.recipe)
                sweep = Sweep(self.recipe, self.asked, self.run, records, self.opener, speeds, budget=self.budget)
                try:
                    self._quality(sweep)
                    self._preferred(sweep)
                finally:
                    sweep.speeds.write(self.run.directory)
        finally:
            self.opener.close()
        base_costs = self._costs(sweep) if wants(self.recipe, *MEASURED) else []
        drafts = [draft for arm in self.others for draft in self.drafts[arm.name]]
        took: float | None = round(time.perf_counter() - begun, 1)
        if not self.asks:
            started, took, earlier = weighed_before(self.run.directory)
        findings = Findings(
            self.recipe, self.run.directory, self.asked, sweep, self.primary, drafts, self.checks, self.preferred, base_costs
        )
        report = findings.report(started, took, earlier)
        write_report_json(report, self.run.path("report.json"))
        write_html(report, self.run.path("report.html"), findings.details())
        self.run.log(f"done in {time.perf_counter() - begun:.1f} s")
        for note in report.notes:
            self.run.say(note)
        if sweep.refused:
            told = f"what is there is told in {self.run.path('report.html')}"
            raise SpendError(f"{sweep.refused.what}; {told}", where=sweep.refused.where, do=sweep.refused.do)
        return report

    def _tell(self, line: str) -> None:
        """Says a line and keeps it."""
        self.run.say(line)
        self.run.log(line)

    # Quality

    def _quality(self, sweep: Sweep) -> None:
        for arm in self.recipe.arms.values():
            self.opener.find(arm)
        seeds = self.recipe.arms[BASE].seeds or (None,)
        self.left = len(seeds) + sum(max(len(arm.seeds), 1) for arm in self.others) + 1
        base = self._opened(self.recipe.arms[BASE], seeds[0])
        try:
            sweep.introduce(base, self.recipe.arms[BASE])
            if self.asks:
                try:
                    calibrated(base, self.asked, sweep.records, self.recipe, sweep.speeds)
                except SpendError as error:  # the report of what is there is written all the same
                    sweep.refused = error
                plan = planned(self.recipe, self.asked, sweep.speeds, self.run.directory)
                self.run.say(_printed(plan))

                def spared(arm: str, task: str) -> bool:
                    return task in sweep.floored and not sweep.asks_anyway(self.recipe.arms[arm])

                self.outlook = Outlook(plan.rows, spared, self.budget.left)
                sweep.outlook = self.outlook.left
            with self._part():
                for question in self._tasks():
                    self._base(sweep, base, question)
        finally:
            base.close()
        for seed in seeds[1:]:
            self._base_again(sweep, seed)
        for arm in self.others:
            self._arm(sweep, arm)
        if self.asked:
            with self._part():
                self._checked(sweep)

    def _opened(self, arm: Arm, seed: int | None) -> OpenArm:
        """An arm, and its entry among those who answered here."""
        with self.budget.paused():
            opened = self.opener.open(arm, seed)
        if any(not isinstance(sample.request, Ask) for question in self.asked for sample in question.samples):
            opened.learn()
        roster.enter(self.run.directory, opened, seed)
        return opened

    @contextlib.contextmanager
    def _part(self) -> Iterator[None]:
        """One arm's part of the time for asking."""
        with self.budget.share(self.left):
            self.left -= 1
            yield

    def _tasks(self, more: int = 0) -> Iterator[Question]:
        """The tasks, each with its part of the time that the arm has (a fourth of one for what asks a task's questions in another way);
        `more` is asked after them."""
        weights = [0.25 if question.of else 1.0 for question in self.asked]
        for number, question in enumerate(self.asked):
            with self.budget.share((sum(weights[number:]) + more) / weights[number]):
                yield question

    def _base(self, sweep: Sweep, base: OpenArm, question: Question) -> None:
        scored, metric = sweep.weigh_base(base, question), question.shown(None)
        found = base_cell(question.name, metric, scored.values[metric.name], clusters_of(scored.samples))
        failed = [reason for reason in scored.failures if reason is not None]
        without = f"no value ({len(failed)} of {len(scored.samples)} samples failed; the first: {failed[0]})" if failed else "no value"
        without = f"no value ({scored.obstacle})" if scored.obstacle else without
        floored = "at floor; the arms are not asked" if question.name in sweep.floored else _own(found) or without
        self.run.say(f"{BASE} · {question.name}: {floored}")

    def _base_again(self, sweep: Sweep, seed: int | None) -> None:
        base = self._opened(self.recipe.arms[BASE], seed)
        try:
            sweep.introduce(base, self.recipe.arms[BASE])
            with self._part():
                for question in self._tasks():
                    sweep.weigh_base_again(base, question)
        finally:
            base.close()

    def _arm(self, sweep: Sweep, arm: Arm) -> None:
        seeds: Sequence[int | None] = arm.seeds or (None,)
        for number, seed in enumerate(seeds):
            try:
                open_arm = self._opened(arm, seed)
            except GoneError:  # no arm is to blame for it
                raise
            except Exception as error:  # made of anybody's levers: one arm that breaks must not cost the others their answers
                return self._give_up(sweep, arm, error)
            try:
                sweep.introduce(open_arm, arm)
                repeats = number == 0 and self._repeats
                with self._part():
                    for question in self._tasks(1 if repeats else 0):
                        if not sweep.skips(arm, question):
                            sweep.weigh_arm(open_arm, question)
                        if number == len(seeds) - 1:
                            self._draft(sweep, arm, question)
                    if repeats and self.repeated and not sweep.skips(arm, self.repeated):
                        sweep.repeat(open_arm, self.repeated)
            finally:
                open_arm.close()

    def _give_up(self, sweep: Sweep, arm: Arm, error: Exception) -> None:
        self.run.log("".join(traceback.format_exception(error)).rstrip())
        sweep.give_up(arm, reason_of(error))
        self.run.say(f"{arm.name}: could not be weighed, the others go on. {reason_of(error)}")
        for question in self.asked:
            self._draft(sweep, arm, question)

    def _draft(self, sweep: Sweep, arm: Arm, question: Question) -> None:
        base = sweep.base[question.name]
        if arm.name in sweep.failed:
            nothing = unable(question.task, base.samples, sweep.failed[arm.name])
            drafts = draft_cells(arm.name, question.task, base, [nothing])
        elif sweep.skips(arm, question):
            drafts = not_run(arm.name, question.task, base)
        else:
            runs = sweep.arms[arm.name][question.name]
            trained = is_trained(arm) and len(runs) == 1
            drafts = draft_cells(
                arm.name, question.task, base, runs, (ONE_SEED,) if trained else (), sweep.other_bases.get(question.name, ())
            )
        kept = [draft for draft in drafts if draft.metric.axis in self.recipe.axes or self._is_primary(draft)]
        self.drafts[arm.name] += kept
        for draft in kept:
            cell = finish(draft, self._is_primary(draft), ALPHA / max(len(self.primary), 1) if self._is_primary(draft) else ALPHA)
            self.on_cell(cell)
            if draft.metric == question.shown(self.primary.get(arm.name)):
                self.run.say(_line(cell))

    def _is_primary(self, draft: Draft) -> bool:
        return self.primary.get(draft.arm) == (draft.task, draft.metric.name)

    @property
    def _repeats(self) -> bool:
        return wants(self.recipe, "repeatability", "diversity")

    def _question(self, name: str | None) -> Question | None:
        return next((question for question in self.asked if question.name == name), None)

    def _preferred(self, sweep: Sweep) -> None:
        """What a judge and people prefer, where the recipe names them."""
        arms = [arm.name for arm in self.others if not checks.is_defect(arm)]
        if self.recipe.judge is not None:
            self.preferred += preferred.by_judge(self.recipe.judge, sweep, arms, lambda arm: self._opened(arm, None))
        if self.recipe.choices is not None:
            self.preferred += preferred.by_people(self.recipe.choices, arms, self.recipe.seed)
        for cell in self.preferred:
            self.on_cell(cell)
            self.run.say(_line(cell))

    # Checks and repeats: the base once more

    def _checked(self, sweep: Sweep) -> None:
        """The checks; where whoever answers them is gone by now, what was answered until then is told all the same."""
        try:
            self._checks(sweep)
        except SpendError as error:
            sweep.refused = sweep.refused or error
        except SteelyardError as error:
            sweep.unchecked = reason = error.what
            self.run.log(f"the checks could not be finished: {error}")
            if self.repeated and BASE not in sweep.repeats:
                metrics = [metric for metric in (REPEATABILITY, DIVERSITY) if metric.axis in self.recipe.axes]
                for arm in self.others:
                    self.drafts[arm.name] += [unmeasured(arm.name, self.repeated.name, metric, reason) for metric in metrics]

    def _checks(self, sweep: Sweep) -> None:
        again, tried = self.repeated or self.asked[0], self._tried(sweep)
        base = self._opened(self.recipe.arms[BASE], next(iter(self.recipe.arms[BASE].seeds), None))
        try:
            if self.repeated:
                sweep.repeat(base, self.repeated)
            self.checks["a_a"] += checks.a_a(checks.GREEDY, again.task, *sweep.again(base, again))
            if tried is not None and tried.name not in sweep.base:
                sweep.base[tried.name] = sweep.ask(base, tried)
        finally:
            base.close()
        if self.repeated:
            mine = sweep.repeats[BASE]
            self.checks["a_a"] += checks.a_a(checks.SAMPLED, self.repeated.task, mine.trial(0), mine.trial(1))
            for arm in self.others:
                self.drafts[arm.name] += self._repeat_drafts(arm.name, sweep.repeats.get(arm.name), mine)
        self._plant(sweep, tried)

    def _repeat_drafts(self, arm: str, run: Repeated | None, base: Repeated) -> list[Draft]:
        drafts, task = [], base.question.task
        count = min(len(base.samples), len(run.samples)) if run else 0
        for metric in (REPEATABILITY, DIVERSITY):
            if metric.axis not in self.recipe.axes:
                continue
            if run is None:
                drafts.append(unmeasured(arm, base.question.name, metric, "this arm was not asked"))
                continue
            columns = []
            for side in (base, run):
                trials = list(zip(*side.outputs, strict=True))
                columns.append(
                    [
                        agreement(task, sample, outputs) if metric is REPEATABILITY else distinct(outputs)
                        for sample, outputs in list(zip(side.samples, trials, strict=True))[:count]
                    ]
                )
            comparison = contrast(metric, columns[0], [columns[1]], clusters_of(base.samples)[:count])
            note = f"{len(base.outputs)} answers each to {count} questions at temperature 0.8"
            draft = unmeasured(arm, base.question.name, metric, "no answers to compare") if comparison is None else None
            drafts.append(draft or Draft(arm, base.question.name, metric, comparison, notes=(note,)))
        return drafts

    def _tried(self, sweep: Sweep) -> Question | None:
        """The questions on which a defect is tried: the first task on which one can show; where the base is at floor on all of them, how
        readily it says the right answers; None where there is nothing of the kind."""
        reached = [question for question in self.asked if checks.reaches(question.samples)]
        mute = {
            question.name
            for question in reached
            if question.name in sweep.floored or checks.shows_nothing(question.task, sweep.base[question.name])
        }
        telling = next((question for question in reached if not mute & {question.name, question.of}), None)
        if telling is not None or any(map(checks.is_defect, self.others)):
            return telling or next((question for question in reached if question.name not in sweep.floored), None)
        if BASE in sweep.untemplated or "weights" not in self.recipe.base.capabilities:
            return None  # words in another order make no answer less likely that was not understood anyway
        said = [SaidAnswers(of=question.task, called=question.name) for question in reached if not question.of]
        found = [Question(one.name, one, one.scored(sweep.base[one.called].samples[: checks.DEFECT_COUNT]), of=one.called) for one in said]
        return next((question for question in found if question.samples), None)

    def _plant(self, sweep: Sweep, question: Question | None) -> None:
        if question is None:
            return
        mine = [arm for arm in self.others if checks.is_defect(arm)]
        if mine:
            for arm in mine:
                runs = sweep.arms.get(arm.name, {}).get(question.name)
                if runs:
                    self.checks["planted_defect"] += checks.defect_cells(question.task, sweep.base[question.name], runs[0], arm.name)
        else:
            if self.asks:
                self.run.say("planting a defect, to see whether the balance notices")
            self.checks["planted_defect"] += checks.defect_cells(question.task, *sweep.defect(question))

    # Costs

    def _costs(self, sweep: Sweep) -> list[Cell]:
        """Drafts of speed, memory, energy and money for every arm; the base's own cells where there is no arm beside it."""
        names = [BASE, *(arm.name for arm in self.others if not checks.is_defect(arm) and arm.name not in sweep.failed)]
        found = self._timed(sweep, names) if self.asks else costs.read(self.run.directory, names)
        currency = money.prices().currency
        for (_, arm), (base, other) in found.items():
            if arm != BASE:
                self.drafts[arm] += draft_measured(arm, base, other, self.recipe.axes, currency)
                self.drafts[arm] += self._usage(sweep, arm)
            self.run.metric(kind="measured", arm=arm, load_seconds=other.load_seconds, blocks=len(other.blocks), failure=other.failure)
        for arm, reason in sweep.failed.items():
            if not checks.is_defect(self.recipe.arms[arm]):
                failed = Measured(failure=reason)
                self.drafts[arm] += draft_measured(arm, failed, failed, self.recipe.axes, currency)
        if self.others:
            return []
        ((base, _),) = found.values()
        cells = [base_cell("", m, values(m, base), [""] * len(base.blocks)) for m in METRICS if m.axis in ("speed", "memory")]
        return [cell for cell in cells if cell is not None]

    def _usage(self, sweep: Sweep, arm: str) -> list[Draft]:
        """Requests and tokens behind an answer, where the arm's are not the base's."""
        asked = sweep.arms.get(arm, {}) if wants(self.recipe, "money") else {}
        return [draft for task, runs in asked.items() for draft in usage_drafts(arm, task, sweep.base[task], runs[0])]

    def _timed(self, sweep: Sweep, names: Sequence[str]) -> dict[tuple[str, str], tuple[Measured, Measured]]:
        """Arms side by side with the base, measured now."""
        self.run.say("timing, in processes of their own")
        begun = time.perf_counter()
        found = measure(
            self.run.directory,
            names,
            prompts_of([question.samples for question in self.asked]),
            lambda done, total: self.run.progress("timing", done, total, self.outlook.timing(done, total) if self.outlook else ""),
        )
        costs.keep(self.run.directory, found)
        sweep.speeds.note("all", "", "measuring", time.perf_counter() - begun)
        sweep.speeds.write(self.run.directory)
        return found


def opener_for(recipe: Recipe, run: Run) -> Opener:
    """What opens a recipe's arms: this process, or Ray's workers."""
    if recipe.run.ray is None:
        return ArmOpener(run)
    from steelyard.weigh.asking.ray_workers import RayOpener  # Ray is imported only where it is asked for

    return RayOpener(run, recipe.run)


def _printed(plan: Any) -> str:
    """The plan as plain text."""
    text = io.StringIO()
    Console(file=text, width=110).print(plan)
    return text.getvalue().rstrip()


def _own(cell: Cell | None) -> str:
    """The base's value in words; empty where there is none."""
    if cell is None or cell.value is None:
        return ""
    span = f" [{cell.value_interval[0]:.3g} to {cell.value_interval[1]:.3g}]" if cell.value_interval else ""
    return f"{cell.metric} {cell.value:.3g}{span} over {cell.n} sample{'s' * (cell.n != 1)}"


def _line(cell: Cell) -> str:
    """A cell in one line, while the weighing goes on."""
    name = f"{cell.arm} · {cell.task} · {cell.metric}"
    if cell.value is None or cell.difference is None:
        return f"{name}: {cell.verdict} ({cell.note})"
    span = "" if cell.low is None else f" [{cell.low:+.3g} to {cell.high:+.3g}]"
    return f"{name}: {cell.base:.3g} -> {cell.value:.3g}, difference {cell.difference:+.3g}{span}: {cell.verdict}"
