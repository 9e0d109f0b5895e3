"""The old baseline does what it was made for: it carries letters over a distance, and forget gates that begin open help it to learn that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from acceptance.experiment import Bench, Claim, Experiment, Finding
from acceptance.races import CHANCE, against, beside, raced
from steelyard.model.mixers import lstm
from steelyard.model.mixers.lstm import Lstm, LstmLever

LENGTH = 5


@contextmanager
def without_memory() -> Iterator[None]:
    """Every token a text of its own: the cell is emptied before each."""
    through = Lstm.run

    def run(self: Lstm, x_btd, step, memory):
        rows, time, width = x_btd.shape
        alone = lstm.Step.whole(rows * time, 1, x_btd.device)
        empty = {name: x_btd.new_zeros(rows * time, *shape) for name, shape in self.memory().items()}
        y, _ = through(self, x_btd.reshape(rows * time, 1, width), alone, empty)
        return y.view(rows, time, width), memory

    with mock.patch.object(Lstm, "run", run):
        yield


@contextmanager
def half_open_gates() -> Iterator[None]:
    """Forget gates that begin half open (a bias of 0, as is usual): half of what a cell holds is gone with each token."""
    drawn = Lstm.reset

    def reset(self: Lstm, generator: torch.Generator):
        own = drawn(self, generator)
        with torch.no_grad():
            self.input.bias[self.plan.hidden : 2 * self.plan.hidden] = 0.0  # type: ignore[index]
        return own

    with mock.patch.object(Lstm, "reset", reset):
        yield


def run(bench: Bench) -> Finding:
    steps, lines = bench.pick(500, 10), bench.pick(200, 60)
    given: dict[str, Any] = {"steps": steps, "lines": lines, "learning_rate": 4e-3}

    def raced_as(name: str):
        return raced(bench, {name: {"mixer": "lstm", "depth": 1}}, "copying", (LENGTH,), (LENGTH,), **given)[name, LENGTH]

    plain = raced_as("lstm")
    with half_open_gates():
        half_open = raced_as("half-open gates")
    with without_memory():
        emptied = raced_as("emptied")
    what = f"copying {LENGTH} letters, one layer"
    any_verdict = ("better", "equivalent", "underpowered", "worse")
    return Finding(
        [
            Claim("it copies (above 0.9)", against("lstm", what, plain, 0.9), any_verdict if bench.reduced else ("better",)),
            Claim(
                "and learns it sooner with forget gates that begin open",
                beside("lstm", what, half_open, plain),
                any_verdict if bench.reduced else ("better",),
            ),
            Claim(
                "with a cell that is emptied before every token it stays at chance",
                against("emptied", what, emptied, CHANCE),
                ("equivalent", "underpowered", "identical"),
                control=True,
            ),
        ],
        {"lstm": [LstmLever()]},
    )


EXPERIMENT = Experiment(
    "lstm",
    "lstm",
    "An LSTM carries letters over a distance, and learns to sooner where its forget gates begin open.",
    "With its cell emptied before every token it must stay at chance.",
    "mechanism",
    run,
)
