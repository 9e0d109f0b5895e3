"""Cells of what a judge or people prefer: the share of answers in which an arm's is taken over the base's.

The base against itself would be one half, so that is the base's figure, and the difference is how far the arm is from it. A judge is
calibrated on labels first: where it is no better than a coin on them the cell is not measurable, else its error is taken out
(`judge.py`). People's choices are fitted as in `steelyard arena`, and need no correction. Both are descriptive: neither is ever the
primary hypothesis of an arm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from steelyard.core.errors import DataError, SteelyardError
from steelyard.core.recipe import Arm
from steelyard.core.recipe_judged import ChoicesSpec, JudgeSpec
from steelyard.weigh.asking.answering import reason_of
from steelyard.weigh.asking.arms import OpenArm
from steelyard.weigh.asking.subjects import BASE
from steelyard.weigh.asking.sweep import Sweep
from steelyard.weigh.cells.scoring import Scored, clusters_of
from steelyard.weigh.cells.verdicts import verdict
from steelyard.weigh.judged.arena import arena
from steelyard.weigh.judged.comparisons import read_comparisons
from steelyard.weigh.judged.judge import Agreement, Verdict, agreement, corrected
from steelyard.weigh.judged.judging import Pair, judged, labelled_pairs
from steelyard.weigh.report.report import Cell
from steelyard.weigh.statistics.intervals import Interval
from steelyard.weigh.tasks.task import Ask

BY_JUDGE, BY_PEOPLE = "preferred_by_judge", "preferred_by_people"
MARGIN = 0.03
JUDGE = "judge"


def by_judge(spec: JudgeSpec, sweep: Sweep, arms: Sequence[str], open_judge: Callable[[Arm], OpenArm]) -> list[Cell]:
    """A cell for each arm and task that is answered in words.

    Raises:
        SteelyardError: the labels cannot be read. A judge that cannot be opened or gives no verdict is told in the cells.
    """
    labels = labelled_pairs(spec.labels, spec.labelled)
    tasks = [
        question for question in sweep.asked
        if (not spec.tasks or question.name in spec.tasks) and any(isinstance(sample.request, Ask) for sample in question.samples)
    ]  # fmt: skip
    try:
        judge = open_judge(Arm(name=JUDGE, source=spec.source))
    except SteelyardError as error:
        reason = f"the judge could not be opened: {reason_of(error)}"
        return [_cell(arm, task.name, BY_JUDGE, reason=reason) for arm in arms for task in tasks]
    try:
        said = _verdicts(judge, spec, sweep, labels)
        try:
            known = agreement(spec.name, spec.labels.name, said, [pair.cluster for pair in labels])
        except DataError as error:
            return [_cell(arm, task.name, BY_JUDGE, reason=error.what) for arm in arms for task in tasks]
        sweep.run.say(f"judge: {known.judge} {known.told}")
        sweep.run.metric(kind="judge", **known.as_dict())
        own = judge.fingerprint in {summary.fingerprint for summary in sweep.summaries.values()}
        out = []
        for task in tasks:
            base = sweep.base[task.name]
            for arm in arms:
                runs = sweep.arms.get(arm, {}).get(task.name)
                if known.useless or not runs:
                    out.append(_cell(arm, task.name, BY_JUDGE, reason=known.useless or "this arm was not asked"))
                else:
                    out.append(_judged_cell(arm, task.name, known, spec, sweep, judge, base, runs[0], own))
        return out
    finally:
        judge.close()


def _verdicts(judge: OpenArm, spec: JudgeSpec, sweep: Sweep, pairs: Sequence[Pair]) -> list[Verdict | None]:
    return judged(
        judge,
        pairs,
        sweep.records,
        seed=sweep.recipe.seed,
        question=spec.question,
        progress=lambda done, total: sweep.run.progress(JUDGE, done, total, ""),
        stop=sweep.budget.over,
    )


def _judged_cell(
    arm: str, task: str, known: Agreement, spec: JudgeSpec, sweep: Sweep, judge: OpenArm, base: Scored, run: Scored, own: bool
) -> Cell:
    """The share of answers in which the arm's is the better one; equal answers are half a win and are not shown to the judge."""
    pairs: list[Pair] = []
    equal, failed = 0, 0
    names = clusters_of(base.samples)
    for place in range(min(spec.answers, len(base.samples), len(run.samples))):
        sample = base.samples[place]
        if base.failures[place] is not None or run.failures[place] is not None or not isinstance(sample.request, Ask):
            failed += 1
            continue
        mine, theirs = run.outputs[place][0].text.strip(), base.outputs[place][0].text.strip()
        equal += mine == theirs
        if mine != theirs:
            pairs.append(Pair(sample.request.conversation, mine, theirs, names[place]))
    n = equal + len(pairs)
    notes = [f"{known.judge} {known.told}"]
    notes += [f"{equal} of {n} answers are equal and count as half a win"] * bool(equal)
    notes += [f"{failed} samples failed and are left out"] * bool(failed)
    notes += ["the judge is one of those weighed: it may prefer its own words"] * own
    if not n:
        return _cell(arm, task, BY_JUDGE, reason="no answers to compare")
    if not pairs:
        return _cell(arm, task, BY_JUDGE, 0.5, (0.5, 0.5), n, notes, identical=True)
    said = _verdicts(judge, spec, sweep, pairs)
    if not any(said):
        return _cell(arm, task, BY_JUDGE, reason=f"the judge gave no verdict on any of {len(pairs)} pairs")
    found = corrected(said, known, [pair.cluster for pair in pairs], seed=sweep.recipe.seed)
    notes[1:1] = [f"as judged {found.found:.1%} of {found.n}; corrected for the judge's error, as measured on {known.labels}"]
    notes += [f"no verdict on {len(pairs) - found.n} pairs"] * (found.n < len(pairs))
    weight = found.n / (found.n + equal)
    low, high = (0.5 + weight * (end - 0.5) for end in found.interval)
    return _cell(arm, task, BY_JUDGE, 0.5 + weight * (found.value - 0.5), (low, high), found.n + equal, notes)


def by_people(spec: ChoicesSpec, arms: Sequence[str], seed: int) -> list[Cell]:
    """A cell for each arm that people compared with the base.

    Raises:
        DataError: the files cannot be read, or hold nothing that tells arms apart.
    """
    found = read_comparisons(spec.files, settings=spec.settings)
    rated = arena(found.all, seed=seed)
    base = spec.arms.get(BASE, BASE)
    out = []
    for arm in arms:
        name = spec.arms.get(arm, arm)
        met = next((pair for pair in rated.pairs if {pair.first, pair.second} == {base, name}), None)
        if met is None:
            out.append(_cell(arm, "", BY_PEOPLE, reason=f"nobody compared `{name}` with `{base}`"))
            continue
        n = met.first_won + met.second_won + met.ties
        if met.share is None or met.low is None or met.high is None:
            why = next((each.reason for each in rated.arms if each.arm in (base, name) and each.reason), "never won, or never lost")
            out.append(_cell(arm, "", BY_PEOPLE, reason=f"{n} choices, and no finite ratings of both: {why}"))
            continue
        value, interval = met.share, (met.low, met.high)
        if met.first == base:
            value, interval = 1 - value, (1 - interval[1], 1 - interval[0])
        of = f"{n} choices between the two, of {rated.n} in all; resampled by {' and '.join(rated.clusters)}"
        out.append(_cell(arm, "", BY_PEOPLE, value, interval, n, [of, *rated.notes]))
    return out


def _cell(
    arm: str,
    task: str,
    metric: str,
    value: float | None = None,
    interval: Interval | None = None,
    n: int = 0,
    notes: Sequence[str] = (),
    *,
    reason: str = "",
    identical: bool = False,
) -> Cell:
    difference = None if value is None else value - 0.5
    low, high = (None, None) if interval is None else (interval[0] - 0.5, interval[1] - 0.5)
    word = verdict(
        measurable=value is not None,
        identical=identical,
        interval=None if low is None or high is None else (low, high),
        margin=MARGIN,
    )
    return Cell(
        arm=arm, task=task, axis="quality", metric=metric, unit="share", higher_is_better=True, base=None if value is None else 0.5,
        base_interval=None, value=value, value_interval=interval, difference=difference, low=low, high=high, n=n, primary=False,
        verdict=word, margin=MARGIN, note="; ".join([reason] if reason else notes),
    )  # fmt: skip
