"""What an answer takes in requests and tokens, from the records: the cost of levers that ask more than once, or make the model read more.

Counted of every request behind an answer (`Usage` sums them), on the samples that base and arm both answered, so differences are paired.
Speed and energy are measured apart and of single requests; a lever that asks three times shows here, not there. A figure that is the same
for every answer is no news and has no cell.
"""

from __future__ import annotations

from collections.abc import Sequence

from steelyard.core.protocols import Usage
from steelyard.weigh.cells.cells import Draft, contrast
from steelyard.weigh.cells.scoring import Scored, clusters_of
from steelyard.weigh.tasks.task import Metric, Output, Value

REQUESTS = Metric("requests", "money", "requests/answer", False, margin=0.05, relative=True)
READ = Metric("tokens_read", "money", "tokens/answer", False, margin=0.05, relative=True)
WRITTEN = Metric("tokens_written", "money", "tokens/answer", False, margin=0.05, relative=True)
METRICS = (REQUESTS, READ, WRITTEN)


def usage_drafts(arm: str, task: str, base: Scored, run: Scored) -> list[Draft]:
    """One draft for each figure in which the arm's answers to a task differ from the base's."""
    count = min(len(base.samples), len(run.samples))
    left, right = ([_usage(trials) for trials in side.outputs[:count]] for side in (base, run))
    out = []
    for metric in METRICS:
        columns = [[_value(metric, usages) for usages in side] for side in (left, right)]
        both = [(one, other) for one, other in zip(*columns, strict=True) if one is not None and other is not None]
        if all(one == other for one, other in both):
            continue
        kept: list[list[Value]] = [
            [own if one is not None and other is not None else None for own, one, other in zip(column, *columns, strict=True)]
            for column in columns
        ]
        comparison = contrast(metric, kept[0], [kept[1]], clusters_of(base.samples)[:count])
        if comparison is not None:
            out.append(Draft(arm, task, metric, comparison))
    return out


def _usage(trials: Sequence[Output]) -> list[Usage]:
    return [output.usage for output in trials if output.failure is None and output.usage is not None]


def _value(metric: Metric, usages: Sequence[Usage]) -> float | None:
    """The mean over an item's trials; None where nothing was told."""
    if not usages:
        return None
    which = {"requests": "calls", "tokens_read": "prompt_tokens", "tokens_written": "completion_tokens"}[metric.name]
    return sum(getattr(usage, which) for usage in usages) / len(usages)
