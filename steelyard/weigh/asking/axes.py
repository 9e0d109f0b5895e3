"""Repeatability and diversity: the same questions, asked again under other seeds at temperature 0.8.

*Repeatability*: of all pairs of an item's answers, the share that agree in outcome (right or wrong alike; where the task's first
metric is not yes or no, in text). *Diversity*: distinct-2, the share of different word pairs among all word pairs of an item's
answers (Li et al., arXiv:1510.03055). They pull against each other: a model that always says the same is repeatable and dull.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence

from steelyard.weigh.cells.scoring import score
from steelyard.weigh.tasks.task import Ask, Metric, Output, Sample, Task, Value

TEMPERATURE = 0.8
REPEATS = 3
SUBSET = 12  # items; three answers each, so 36 generations per arm

REPEATABILITY = Metric("agreement", "repeatability", "share", True, margin=0.05)
DIVERSITY = Metric("distinct_2", "diversity", "share", True, margin=0.05)

_WORDS = re.compile(r"\w+")


def repeated_task(tasks: Sequence[tuple[str, Sequence[Sample]]]) -> str | None:
    """The task whose questions are asked again: the first that generates answers."""
    return next((name for name, samples in tasks if any(isinstance(sample.request, Ask) for sample in samples)), None)


def repeated_samples(samples: Sequence[Sample], count: int = SUBSET) -> list[Sample]:
    """The first `count` questions of a task, to be answered at temperature 0.8."""
    out = []
    for sample in samples:
        if isinstance(sample.request, Ask) and len(out) < count:
            settings = dataclasses.replace(sample.request.settings, temperature=TEMPERATURE, top_p=1.0, top_k=0, min_p=0.0)
            out.append(dataclasses.replace(sample, request=dataclasses.replace(sample.request, settings=settings)))
    return out


def agreement(task: Task, sample: Sample, outputs: Sequence[Output]) -> Value:
    """Share of pairs of answers to one item that agree; None where fewer than two answers came."""
    there = [output for output in outputs if output.failure is None]
    first = task.metrics[0]
    outcomes = [_outcome(task, sample, output) if first.binary else None for output in there]
    kept = outcomes if outcomes and None not in outcomes else [output.text.strip() for output in there]
    pairs = list(itertools.combinations(kept, 2))
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else None


def _outcome(task: Task, sample: Sample, output: Output) -> Value:
    """What the task's first metric says of one answer; None where the scorer breaks on it, as `cells.scoring` tells."""
    scored = score(task, [sample], [[output]])
    return scored.values[task.metrics[0].name][0]


def distinct(outputs: Sequence[Output]) -> Value:
    """Distinct-2 over the answers to one item; None where no answer has two words."""
    pairs = [pair for output in outputs if output.failure is None for pair in itertools.pairwise(_WORDS.findall(output.text.lower()))]
    return len(set(pairs)) / len(pairs) if pairs else None
