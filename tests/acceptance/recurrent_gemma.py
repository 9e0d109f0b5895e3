"""Gates that hear the token let a recurrence choose what to keep: it finds a mark again, farther back than it was trained."""

from __future__ import annotations

from typing import Any

from acceptance.experiment import Bench, Claim, Experiment, Finding, counted
from acceptance.races import PLAN, above, against, beside, raced
from acceptance.small_decoders import VOCABULARY, new
from steelyard.model.cost import state_bytes
from steelyard.model.mixers.recurrent_gemma import RecurrentGemmaLever

LEARNED, FARTHEST = (8, 16, 32), 256
MUCH, BEYOND = 0.8, 0.4
"""Shares of lines right: within the lengths of training, and at eight times the longest (chance is 0.04)."""


def run(bench: Bench) -> Finding:
    levers = {"gated": RecurrentGemmaLever(), "constant rates": RecurrentGemmaLever(selective=False)}  # type: ignore[call-arg]
    plans: dict[str, dict[str, Any]] = {name: {"mixer": {"recurrent_gemma": lever.settings}} for name, lever in levers.items()}
    steps, near = bench.pick(400, 6), LEARNED[-1]
    found = raced(bench, plans, "induction", LEARNED, (near, FARTHEST), steps=steps, lines=bench.pick(100, 20), learning_rate=1e-2)
    trunk = new(PLAN | plans["gated"], VOCABULARY, 1)
    sizes = [state_bytes(trunk, tokens) for tokens in (64, 512, 8192)]
    even = sum(size == sizes[0] for size in sizes)
    within, beyond = (f"what followed a mark up to {length} letters before" for length in (near, FARTHEST))
    lines = [value for run in found["gated", near] for value in run]
    hits, count = int(sum(lines)), len(lines)
    shown = ("better", "equivalent", "underpowered", "worse") if bench.reduced else ("better",)
    return Finding(
        [
            Claim(
                "gates that hear the token find what constant rates do not",
                beside("gated", within, found["constant rates", near], found["gated", near]),
                shown,
            ),
            Claim(
                f"in {MUCH:.0%} of the lines or more at the lengths it was trained on",
                counted("gated", within, "lines right", hits, count, above(hits, count, MUCH), base=MUCH),
                shown,
            ),
            Claim(
                f"and at {FARTHEST // near} times the longest of them in {BEYOND:.0%} or more",
                against("gated", beyond, found["gated", FARTHEST], BEYOND),
                shown,
            ),
            Claim(
                "what it remembers of 64 tokens and of 8,192 is of one size",
                counted("gated", "64, 512 and 8,192 tokens", "as large as the first", even, 3, "identical" if even == 3 else "worse"),
                ("identical",),
            ),
            Claim(
                "its twin of constant rates finds it in less than half of the lines",
                against("constant rates", within, found["constant rates", near], 0.5),
                ("worse",),
                control=True,
            ),
        ],
        {"gated": [levers["gated"]]},
        [
            f"Decoders of width 64 and 2 blocks, {steps} steps of 32 lines of {', '.join(map(str, LEARNED))} letters; "
            f"{sizes[0]} bytes of memory."
        ],
    )


EXPERIMENT = Experiment(
    "recurrent_gemma",
    "recurrent_gemma",
    "A linear recurrence whose gates hear the token finds a mark again, also 8 times farther back than it was trained, from one number a "
    "channel; constant rates find nothing.",
    "The twin whose gates are constants must stay below half of the lines.",
    "mechanism",
    run,
)
