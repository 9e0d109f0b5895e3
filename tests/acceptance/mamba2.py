"""A state several times as large holds more of the past, and what is written to it must depend on the token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from acceptance.experiment import Bench, Claim, Experiment, Finding, counted
from acceptance.races import PLAN, beside, raced
from acceptance.small_decoders import VOCABULARY, new
from steelyard.model.cost import state_bytes
from steelyard.model.mixers import mamba2
from steelyard.model.mixers.mamba2 import Mamba2Lever

LEARNED, ASKED = (4, 8), 8
"""Pairs of a line."""
LARGE, SMALL = 64, 4
"""Columns of a head's memory."""


@contextmanager
def time_invariant() -> Iterator[None]:
    """Steps, B and C are constants that are learned: what a token says goes into the values alone."""
    through = mamba2.together

    def deaf(x: torch.Tensor, step: Any, linears: Any) -> Any:
        gate, into, time_step = through(x, step, linears)
        inner = gate.shape[-1]
        return gate, torch.cat((into[..., :inner], into[..., inner:] * 0), -1), time_step * 0

    with mock.patch.object(mamba2, "together", deaf):
        yield


def run(bench: Bench) -> Finding:
    levers = {name: Mamba2Lever(state=state) for name, state in (("large", LARGE), ("small", SMALL))}  # type: ignore[call-arg]
    plans: dict[str, dict[str, Any]] = {name: {"mixer": {"mamba2": lever.settings}} for name, lever in levers.items()}
    given: dict[str, Any] = {"steps": bench.pick(400, 4), "lines": bench.pick(150, 24), "learning_rate": 0.02, "optimizer": "muon"}
    found = raced(bench, plans, "associative_recall", LEARNED, (ASKED,), **given)
    with time_invariant():
        found |= raced(bench, {"time-invariant": plans["large"]}, "associative_recall", LEARNED, (ASKED,), **given)
    large, small, deaf = (found[name, ASKED] for name in ("large", "small", "time-invariant"))
    trunk = new(PLAN | plans["large"], VOCABULARY, 1)
    sizes = [state_bytes(trunk, tokens) for tokens in (64, 512, 8192)]
    even = sum(size == sizes[0] for size in sizes)
    what = f"associative recall of {ASKED} pairs"
    shown = ("better", "equivalent", "underpowered", "worse", "identical") if bench.reduced else ("better",)
    return Finding(
        [
            Claim(f"{LARGE} columns of memory recall more than {SMALL}", beside("large", what, small, large), shown),
            Claim(
                "what it remembers of 64 tokens and of 8,192 is of one size",
                counted("large", "64, 512 and 8,192 tokens", "as large as the first", even, 3, "identical" if even == 3 else "worse"),
                ("identical",),
            ),
            Claim(
                "its twin of constants recalls less",
                beside("time-invariant", what, large, deaf),
                shown if bench.reduced else ("worse",),
                control=True,
            ),
        ],
        {name: [lever] for name, lever in levers.items()},
        [
            f"Decoders of width 64 and 2 blocks, {given['steps']} steps of 32 lines of {LEARNED[0]} or {LEARNED[-1]} pairs with Muon; memory of "
            f"{sizes[0]} bytes. "
            + "; ".join(f"{name} {', '.join(f'{sum(run) / len(run):.2f}' for run in runs)} by seed" for (name, _), runs in found.items())
            + ".",
            "Induction over lengths beyond those trained, which Mamba is shown by, was tried first (one seed): over 8 times the longest it found "
            "0.47 of the marks after 600 steps with AdamW, its twin 0.33; after 250 with Muon 0.39.",
        ],
    )


EXPERIMENT = Experiment(
    "mamba2",
    "mamba2",
    "A recurrence with one decay a head recalls more the more columns its memory has, from steps, B and C that come from the token.",
    "The twin whose steps, B and C are constants must recall less.",
    "mechanism",
    run,
)
