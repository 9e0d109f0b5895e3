"""Small decoders trained on one kind of exercise, each with several seeds, and what one is worth beside another."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from acceptance.experiment import Bench
from acceptance.small_decoders import VOCABULARY, Exercises, new, shares, taught
from steelyard.data.generated.long_range import Exercise, make_exercise
from steelyard.weigh.cells.cells import Draft, contrast, finish
from steelyard.weigh.report.report import Cell, Verdict
from steelyard.weigh.statistics.intervals import wilson
from steelyard.weigh.tasks.task import Metric

RIGHT = Metric("characters_right", "quality", "share", True, margin=0.05)
PLAN: dict[str, Any] = {"width": 64, "depth": 2, "context": 64}
CHANCE = 1 / 26
"""Of a letter that nothing tells."""

Runs = Sequence[Sequence[float]]
"""For each seed, a value for each line of the test."""


def raced(
    bench: Bench,
    plans: Mapping[str, Mapping[str, Any]],
    kind: str,
    lengths: tuple[int, ...],
    asked: Sequence[int],
    *,
    steps: int,
    lines: int,
    learning_rate: float,
    size: int = 32,
    make: Callable[[str, random.Random, int], Exercise] = make_exercise,
    **settings: Any,
) -> dict[tuple[str, int], Runs]:
    """Trains every plan with every seed on fresh exercises; (plan, length) -> share of the characters of each line that are right.

    All answer the same lines, drawn from another seed than what they learned from. `settings` are further ones of the trainer.
    """
    out: dict[tuple[str, int], list[list[float]]] = {}
    own = dataclasses.replace(bench, directory=bench.directory / kind)  # a training of another kind left there would be gone on with
    for name, plan in plans.items():
        for seed in bench.pick((1, 2, 3), (1,)):
            trunk = new(PLAN | dict(plan), VOCABULARY, seed)
            stream = Exercises(kind, lengths, size, seed, make)
            taught(own, name, trunk, stream, steps=steps, seed=seed, learning_rate=learning_rate, **settings)
            for length in asked:
                values = shares(trunk, Exercises(kind, (length,), lines, 10_000 + bench.seed, make).batch(0))
                out.setdefault((name, length), []).append(values)
                bench.say(f"{name}, seed {seed}, length {length}: {sum(values) / len(values):.3f} of the characters right")
    return dict(out)


def beside(arm: str, what: str, base: Runs, runs: Runs, metric: Metric = RIGHT) -> Cell:
    """Several runs of an arm against the mean of the base's, line by line."""
    means = [sum(values) / len(values) for values in zip(*base, strict=True)]
    return finish(Draft(arm, what, metric, contrast(metric, means, runs, [""] * len(means))))


def against(arm: str, what: str, runs: Runs, value: float, metric: Metric = RIGHT) -> Cell:
    """Several runs of an arm against a value known beforehand, chance for example."""
    return finish(Draft(arm, what, metric, contrast(metric, [value] * len(runs[0]), runs, [""] * len(runs[0]))))


def above(hits: int, count: int, share: float) -> Verdict:
    """A share of lines beside a known one. Nearly all of them are alike, of which an interval of means could make nothing."""
    low, high = wilson(hits, count, 0.05)
    return "better" if low > share else "worse" if high < share else "underpowered"
