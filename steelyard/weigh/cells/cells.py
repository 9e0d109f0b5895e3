"""From two arms' values to the cells of a report.

A cell is drafted as soon as its values are there and finished when it is known at which error rate its interval is to be read:
0.05 for a descriptive cell, Holm's level for a primary one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from steelyard.weigh.cells.drafts import Draft
from steelyard.weigh.cells.gates import gated, is_mute, why
from steelyard.weigh.cells.remarks import remarks, why_none
from steelyard.weigh.cells.scoring import ONE_CLUSTER, Scored, clusters_of, metrics_in, one_cluster, same_records
from steelyard.weigh.cells.verdicts import at_floor, margin_of, verdict
from steelyard.weigh.report.columns import COSTS
from steelyard.weigh.report.report import Cell
from steelyard.weigh.statistics.corrected import correct_estimate, corrected, note, useless
from steelyard.weigh.statistics.gaps import favoured, own_interval
from steelyard.weigh.statistics.intervals import Interval
from steelyard.weigh.statistics.multiplicity import holm_levels
from steelyard.weigh.statistics.paired import ALPHA, Comparison, Estimate, compare, estimate, pair, spread_over_seeds
from steelyard.weigh.statistics.power import samples_to_settle
from steelyard.weigh.statistics.selective import linearised
from steelyard.weigh.tasks.task import Metric, Task, Value

MORE_SEEDS = "training seeds differ more than samples do: more seeds narrow it, more samples hardly"
"""What is said of a cell that is not settled because of its seeds."""


def draft_cells(
    arm: str, task: Task, base: Scored, runs: Sequence[Scored], notes: tuple[str, ...] = (), again: Sequence[Scored] = ()
) -> list[Draft]:
    """One draft per metric of a task.

    Args:
        arm: its name.
        task: with its metrics.
        base: the base's values.
        runs: the arm's values, one per training seed (one for an arm that is not trained).
        notes: what a reader should know of this arm.
        again: the base's values under its second and further training seeds. Where the arm has as many seeds, each of its runs is
            compared with the base's of the same place, so that the doubt about both is told; else with the base's first.
    """
    metrics = metrics_in(task, base, *runs, *again)
    count = min(len(base.samples), *(len(run.samples) for run in (*runs, *again)))
    base, runs = base.first(count), [run.first(count) for run in runs]
    bases = [base, *(run.first(count) for run in again)]
    bases = bases if len(bases) == len(runs) else [base]
    if reason := base.obstacle or next((run.obstacle for run in runs if run.obstacle), None):
        return [unmeasured(arm, task.name, metric, reason, _alone(metric, base)) for metric in metrics]
    failed = [any(run.failures[i] is not None for run in (*bases, *runs)) for i in range(count)]
    if any(failed):
        why = next(run.failures[i] for i in range(count) for run in (*bases, *runs) if run.failures[i] is not None)
        notes = (*notes, f"{sum(failed)} of {count} samples failed and are left out on both sides; the first: {why}")
    if one_cluster(base.samples):
        notes = (*notes, ONE_CLUSTER)
    same = all(same_records(base, run) for run in runs)
    return gated([_draft(arm, task.name, metric, bases, runs, failed, same, notes) for metric in metrics])


def _draft(
    arm: str,
    task: str,
    metric: Metric,
    bases: Sequence[Scored],
    runs: Sequence[Scored],
    failed: Sequence[bool],
    same: bool,
    notes: tuple[str, ...],
) -> Draft:
    base = bases[0]
    kept = [i for i, failure in enumerate(failed) if not failure]
    grouped = clusters_of(base.samples)
    clusters = [grouped[i] for i in kept]
    lefts = [[one.values[metric.name][i] for i in kept] for one in bases]
    left = lefts[0]
    columns = [[run.values[metric.name][i] for i in kept] for run in runs]
    if metric.detector is not None:
        if reason := useless(metric.detector):
            return unmeasured(arm, task, metric, reason)
        notes = (*notes, note(metric.detector))
    if metric.groups is not None:
        notes = (*notes, *favoured(metric.groups, left, columns[0]))
    comparison = contrast(metric, left, columns, clusters, trials=base.trials, again=lefts[1:])
    if comparison is None:
        reason = notes[0] if notes and not kept else why_none(metric, [left, columns[0]])
        return unmeasured(arm, task, metric, reason, _alone(metric, base))
    equal = same and all(column == left for column in columns)
    floored = at_floor(metric, comparison.base.interval) and at_floor(metric, comparison.value.interval)
    return Draft(arm, task, metric, comparison, equal, floored, notes=(*notes, *remarks(metric, [left, columns[0]])))


def contrast(
    metric: Metric,
    base: Sequence[Value],
    runs: Sequence[Sequence[Value]],
    clusters: Sequence[str],
    trials: int = 1,
    again: Sequence[Sequence[Value]] = (),
) -> Comparison | None:
    """Compares per-sample values of the base with those of one or several runs of an arm; `again` are those of further runs of the base."""
    found = _contrast(metric, base, runs, clusters, trials, again)
    if found is not None and metric.kind == "gap":
        groups = len({name or place for place, (name, value) in enumerate(zip(clusters, base, strict=True)) if value is not None})
        left, right = (own_interval(one, metric.span, groups) for one in (found.base, found.value))
        found = dataclasses.replace(found, base=left, value=right)
    return corrected(found, metric.detector) if found is not None and metric.detector is not None else found


def _contrast(
    metric: Metric,
    base: Sequence[Value],
    runs: Sequence[Sequence[Value]],
    clusters: Sequence[str],
    trials: int,
    again: Sequence[Sequence[Value]],
) -> Comparison | None:
    base, *others = linearised(metric, [base, *again, *runs])
    again, runs = others[: len(again)], others[len(again) :]
    bases = [base, *again] if again else [base] * len(runs)
    bounded = metric.unit == "share" and metric.kind == "mean"
    binary = metric.binary and trials == 1
    found = [
        compare(pair(left, run, clusters), binary=binary and len(runs) == 1, bounded=bounded, span=metric.span)
        for left, run in zip(bases, runs, strict=True)
    ]
    if any(one is None for one in found):
        return None
    each = [one for one in found if one is not None]
    if len(each) == 1:
        return each[0]
    left = _mean_over_runs(bases) if again else base
    pooled = compare(pair(left, _mean_over_runs(runs), clusters), bounded=bounded, span=metric.span)
    return pooled and spread_over_seeds(pooled, [one.difference for one in each])


def _mean_over_runs(runs: Sequence[Sequence[Value]]) -> list[Value]:
    out: list[Value] = []
    for values in zip(*runs, strict=True):
        there = [value for value in values if value is not None]
        if not there:
            out.append(None)
        elif isinstance(there[0], tuple):
            pairs = [value for value in there if isinstance(value, tuple)]
            out.append((sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs)))
        else:
            out.append(sum(value for value in there if not isinstance(value, tuple)) / len(there))
    return out


def _alone(metric: Metric, scored: Scored) -> Comparison | None:
    """The base against itself: carries its value for cells in which the arm has none."""
    values = [value for value, failure in zip(scored.values[metric.name], scored.failures, strict=True) if failure is None]
    clusters = [name for name, failure in zip(clusters_of(scored.samples), scored.failures, strict=True) if failure is None]
    return contrast(metric, values, [values], clusters, scored.trials)


def unmeasured(arm: str, task: str, metric: Metric, reason: str, base: Comparison | None = None) -> Draft:
    """A cell that cannot be measured, with the reason."""
    return Draft(arm, task, metric, None, notes=(reason,), base=base)


def not_run(arm: str, task: Task, base: Scored) -> list[Draft]:
    """Cells of an arm that was not asked because the base is at floor."""
    note = f"the base is at floor on the first {len(base.samples)} samples, so this arm was not asked"
    return [
        Draft(arm, task.name, metric, None, floored=True, notes=(note,), base=_alone(metric, base)) for metric in metrics_in(task, base)
    ]


def finish(draft: Draft, primary: bool = False, alpha: float = ALPHA) -> Cell:
    """The cell, its interval read at an error rate."""
    metric, comparison = draft.metric, draft.comparison
    cell = Cell(
        arm=draft.arm,
        task=draft.task,
        axis=metric.axis,
        metric=metric.name,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        base=None,
        base_interval=None,
        value=None,
        value_interval=None,
        difference=None,
        low=None,
        high=None,
        n=0,
        primary=primary,
        verdict="floor" if draft.floored else "not measurable",
        source="modelled" if draft.source == "modelled" else "measured",
        margin=None,
        note="; ".join(note for note in draft.notes if note),
    )
    alone = comparison or draft.base
    if alone is not None:
        cell = dataclasses.replace(
            cell,
            base=alone.base.value,
            base_interval=_possible(metric, alone.base.interval),
            margin=margin_of(metric, alone.base.value),
            n=alone.base.n,
        )
    if comparison is None or cell.margin is None:
        return cell
    interval = comparison.interval(alpha)
    if interval is not None:
        interval = (interval[0] + draft.shift[0], interval[1] + draft.shift[1])
    word = verdict(
        measurable=True,
        floor=draft.floored,
        identical=draft.identical,
        interval=interval,
        margin=cell.margin,
        higher_is_better=metric.higher_is_better,
    )
    if word == "identical":
        interval = None  # equal records leave chance nothing to move
    more, remark = None, cell.note
    if word == "underpowered" and interval is not None:
        if comparison.by_seeds < 0.5:
            more = samples_to_settle(comparison.difference, interval, cell.margin, comparison.n, alpha)
        else:
            remark = "; ".join(filter(None, (remark, MORE_SEEDS)))
    return dataclasses.replace(
        cell,
        value=comparison.value.value,
        value_interval=_possible(metric, comparison.value.interval),
        difference=comparison.difference,
        low=None if interval is None else interval[0],
        high=None if interval is None else interval[1],
        n=comparison.n,
        verdict=word,
        note=remark,
        samples_to_settle=more,
    )


def _possible(metric: Metric, interval: Interval | None) -> Interval | None:
    """The part of a value's interval that the metric can have: the interval of a ratio or of few readings may reach beyond.

    What is cut off holds no possible value, so the interval holds the true one as often as before.
    """
    if interval is None or metric.axis not in COSTS and interval[0] == interval[1]:
        return None  # samples that are all alike do not tell how far others may be apart; bytes and prices are counted
    least, most = metric.reach or ((0.0, 1.0) if metric.unit == "share" else (0.0 if metric.axis in COSTS else -math.inf, math.inf))
    return max(interval[0], least), min(interval[1], most)


def finish_all(drafts: Sequence[Draft], primary: Mapping[str, tuple[str, str]], alpha: float = ALPHA) -> list[Cell]:
    """All cells of a report; the primary ones are read at Holm's levels, together.

    Args:
        drafts: every cell's.
        primary: arm -> (task, metric) of its one primary hypothesis.
        alpha: family-wise error rate of the primary cells, and each descriptive cell's own.
    """
    chosen = [draft for draft in drafts if primary.get(draft.arm) == (draft.task, draft.metric.name)]
    p_values = [1.0 if (c := draft.comparison) is None or c.p_value is None else c.p_value for draft in chosen]
    levels = dict(zip(map(id, chosen), holm_levels(p_values, alpha), strict=True))
    return [finish(draft, id(draft) in levels, levels.get(id(draft), alpha)) for draft in drafts]


def base_cells(task: Task, scored: Scored) -> list[Cell]:
    """The base's own values, for a weighing with no arm beside it; those behind a closed gate are at floor."""
    metrics, clusters = {metric.name: metric for metric in metrics_in(task, scored)}, clusters_of(scored.samples)
    own = {name: base_estimate(metric, scored.values[name], clusters) for name, metric in metrics.items()}
    out = []
    for name, metric in metrics.items():
        cell, found = base_cell(task.name, metric, scored.values[name], clusters), own[name]
        gate = metrics[metric.gate] if metric.gate else None
        if cell is not None and found is not None and gate is not None and is_mute(metric, found, gate, own[gate.name]):
            cell = dataclasses.replace(cell, verdict="floor", note=f"{cell.note}; {why('it', gate)}")
        out.append(cell)
    return [cell for cell in out if cell is not None]


def base_estimate(metric: Metric, values: Sequence[Value], clusters: Sequence[str]) -> Estimate | None:
    """The base's own value with its interval; None where there is none."""
    (values,) = linearised(metric, [values])
    both = pair(values, values, clusters)
    bounded = metric.unit == "share" and metric.kind == "mean"
    found = estimate(both.base, both.clusters, binary=metric.binary, bounded=bounded)
    if found is not None and metric.kind == "gap":
        return own_interval(found, metric.span, len(set(both.clusters.tolist())))
    if found is not None and metric.detector is not None:
        return None if useless(metric.detector) else correct_estimate(found, metric.detector)
    return found


def base_cell(task: str, metric: Metric, values: Sequence[Value], clusters: Sequence[str]) -> Cell | None:
    """One of them."""
    found = base_estimate(metric, values, clusters)
    if found is None:
        return None
    notes = ["the base itself"]
    notes += [note(metric.detector)] if metric.detector is not None else []
    notes += favoured(metric.groups, values) if metric.groups is not None else ()
    notes += remarks(metric, [values])
    return Cell(
        "base", task, metric.axis, metric.name, metric.unit, metric.higher_is_better, None, None, found.value, _possible(metric, found.interval),
        None, None, None, found.n, False, "identical", note="; ".join(notes),
    )  # fmt: skip
