"""From an arm's outputs on a task to per-sample values, and whether two arms gave the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steelyard.core.errors import SteelyardError
from steelyard.weigh.cells.breakdowns import filled, metrics_of
from steelyard.weigh.tasks.task import Metric, Output, Sample, Task, Value


@dataclass(frozen=True)
class Scored:
    """One arm on one task.

    Attributes:
        samples: what was asked.
        outputs: per sample, its trials.
        values: metric -> per-sample value, the trials joined (mean; sums for ratios); None where the metric does not apply.
        failures: per sample, the reason its execution failed, or None.
        obstacle: why the arm could not be asked at all, or None.
    """

    samples: Sequence[Sample]
    outputs: Sequence[Sequence[Output]]
    values: Mapping[str, Sequence[Value]]
    failures: Sequence[str | None]
    obstacle: str | None = None

    @property
    def trials(self) -> int:
        return max((len(trials) for trials in self.outputs), default=1)

    def first(self, count: int) -> Scored:
        """The first samples alone."""
        values = {name: list(column[:count]) for name, column in self.values.items()}
        return Scored(self.samples[:count], self.outputs[:count], values, self.failures[:count], self.obstacle)


ONE_CLUSTER = "all samples come from one document or entity, and are taken as independent pieces of it"


def one_cluster(samples: Sequence[Sample]) -> bool:
    """Whether all samples depend on each other by their own account, so that nothing could be said about chance."""
    return len(samples) > 1 and len({sample.cluster for sample in samples}) == 1 and samples[0].cluster != ""


def clusters_of(samples: Sequence[Sample]) -> list[str]:
    """Each sample's cluster, "" for one of its own; the pieces of a single document count as independent (see `ONE_CLUSTER`)."""
    return [""] * len(samples) if one_cluster(samples) else [sample.cluster for sample in samples]


def unable(task: Task, samples: Sequence[Sample], reason: str) -> Scored:
    """What stands for an arm that could not be asked."""
    nothing: list[Value] = [None] * len(samples)
    values = {metric.name: nothing for metric in metrics_of(task, samples)}
    return Scored(samples, [[] for _ in samples], values, [reason] * len(samples), reason)


def score(task: Task, samples: Sequence[Sample], trials: Sequence[Sequence[Output]]) -> Scored:
    """Scores an arm's outputs.

    Args:
        task: its scorer and metrics.
        samples: what was asked.
        trials: [trial][sample] outputs.

    Raises:
        SteelyardError: the scorer gave something else than the metrics it declares.
    """
    per_sample = [list(outputs) for outputs in zip(*trials, strict=True)]
    values: dict[str, list[Value]] = {metric.name: [] for metric in task.metrics}
    failures: list[str | None] = []
    for sample, outputs in zip(samples, per_sample, strict=True):
        failure = next((output.failure for output in outputs if output.failure is not None), None)
        found: list[Mapping[str, Value]] = []
        try:
            found = [] if failure is not None else [_scores(task, sample, output) for output in outputs]
        except SteelyardError:
            raise
        except Exception as error:  # a scorer is anybody's code; a sample that it breaks on must not sink the others
            failure = f"the scorer broke on this answer: {type(error).__name__}: {error}"
        for metric in task.metrics:
            values[metric.name].append(_joined(metric, [one.get(metric.name) for one in found]))
        failures.append(failure)
    return Scored(samples, per_sample, filled(task, samples, values), failures)


def metrics_in(task: Task, *sides: Scored) -> list[Metric]:
    """The metrics of a task, its own and those by tags, that all of these have."""
    return [metric for metric in metrics_of(task, sides[0].samples) if all(metric.name in side.values for side in sides)]


def _scores(task: Task, sample: Sample, output: Output) -> Mapping[str, Value]:
    found = task.score(sample, output)
    if unknown := set(found) - {metric.name for metric in task.metrics}:
        raise SteelyardError(f"the scorer gave {', '.join(sorted(unknown))}, which the task does not declare", where=f"task `{task.name}`")
    for metric in task.metrics:
        value = found.get(metric.name)
        if isinstance(value, tuple) != (metric.kind != "mean") and value is not None:
            pair = "a pair (numerator, denominator)" if metric.kind == "ratio" else f"a pair, as its kind `{metric.kind}` has"
            expected = "a number" if metric.kind == "mean" else pair
            raise SteelyardError(f"`{metric.name}` is {value!r}, expected {expected}", where=f"task `{task.name}`, sample {sample.id}")
    return found


def _joined(metric: Metric, values: Sequence[Value]) -> Value:
    """Trials as one value. Numbers that are none count as not there."""
    if metric.kind != "mean":
        pairs = [value for value in values if isinstance(value, tuple) and all(map(math.isfinite, value))]
        if metric.kind == "kappa":
            return pairs[0] if pairs else None  # there is no mean of two labels
        share = 1 if metric.kind == "ratio" else max(len(pairs), 1)  # confidence and outcome are averaged
        return (sum(a for a, _ in pairs) / share, sum(b for _, b in pairs) / share) if pairs else None
    numbers = [float(value) for value in values if value is not None and not isinstance(value, tuple) and math.isfinite(value)]
    return sum(numbers) / len(numbers) if numbers else None


def said(output: Output) -> tuple[object, ...]:
    """What an arm said, as far as two arms can be called identical: text, tokens, choices' probabilities, calls, how it ended."""
    return (
        output.text,
        tuple(token.id for token in output.tokens),
        tuple((score.logprob, score.greedy, score.tokens) for score in output.scores),
        tuple((call.name, call.arguments) for call in output.calls),
        output.reason,
        output.failure,
    )


def same_records(base: Scored, arm: Scored) -> bool:
    """Whether both gave the same on every sample, trial by trial."""
    if base.obstacle or arm.obstacle or len(base.outputs) != len(arm.outputs):
        return False
    return all([said(a) for a in one] == [said(b) for b in other] for one, other in zip(base.outputs, arm.outputs, strict=True))
