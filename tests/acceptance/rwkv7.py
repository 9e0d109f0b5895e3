"""Taking out what stood under a key before writing there anew: who does it knows the latest of several values, who does not mixes them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from acceptance.experiment import Bench, Claim, Experiment, Finding, counted
from acceptance.races import PLAN, against, beside, raced
from acceptance.small_decoders import VOCABULARY, new
from steelyard.data.generated.long_range import BAR, DIGITS, LETTERS, Exercise
from steelyard.model.channels.rwkv import RwkvChannelLever
from steelyard.model.cost import state_bytes
from steelyard.model.mixers import rwkv7
from steelyard.model.mixers.rwkv7 import Rwkv7Lever

KEYS = 4
"""Letters of a line; each is given a digit several times."""
LEARNED, FAR = (4, 8, 16), 48
MUCH = 0.9


def overwritten(kind: str, rng: random.Random, length: int) -> Exercise:
    """`length` letters of four, each with a digit; then those that occurred, each to be followed by its latest digit."""
    letters = rng.choices(rng.sample(LETTERS, KEYS), k=length)
    latest: dict[str, str] = {}
    told = ""
    for letter in letters:
        latest[letter] = rng.choice(DIGITS)
        told += letter + latest[letter]
    asked = rng.sample(sorted(latest), len(latest))
    text = told + BAR + "".join(letter + latest[letter] for letter in asked)
    return Exercise(text, tuple(range(len(told) + 2, len(text), 2)))


@contextmanager
def nothing_taken_out() -> Iterator[None]:
    """The same model with plain sums that decay: nothing is taken out before something is written."""
    rule = rwkv7.delta_rule

    def summed(asked: Any, fall: Any, removed: Any, *others: Any) -> Any:
        return rule(asked, fall, removed * 0, *others)

    with mock.patch.object(rwkv7, "delta_rule", summed):
        yield


def run(bench: Bench) -> Finding:
    plans: dict[str, dict[str, Any]] = {
        "rwkv7": {"mixer": "rwkv7", "channel": {"rwkv_channel": {"receptance": False}}, "norm": "layer", "depth": 1}
    }
    near, lengths = LEARNED[-1], (LEARNED[-1], FAR)
    given: dict[str, Any] = {
        "steps": bench.pick(600, 4),
        "lines": bench.pick(100, 24),
        "learning_rate": 0.02,
        "make": overwritten,
        "optimizer": "muon",
    }
    taking = raced(bench, plans, "overwritten", LEARNED, lengths, **given)
    with nothing_taken_out():
        summing = raced(bench, {"plain sums": plans["rwkv7"]}, "overwritten", LEARNED, lengths, **given)
    trunk = new(PLAN | plans["rwkv7"], VOCABULARY, 1)
    sizes = [state_bytes(trunk, tokens) for tokens in (64, 512, 8192)]
    even = sum(size == sizes[0] for size in sizes)
    what = {length: f"the latest of several digits, {length} written under {KEYS} letters" for length in lengths}
    shown = ("better", "equivalent", "underpowered", "worse", "identical") if bench.reduced else ("better",)
    return Finding(
        [
            Claim(f"it knows more than {MUCH:.0%} of the latest digits", against("rwkv7", what[near], taking["rwkv7", near], MUCH), shown),
            Claim(
                "and more of them than where nothing is taken out",
                beside("rwkv7", what[near], summing["plain sums", near], taking["rwkv7", near]),
                shown,
            ),
            Claim(
                f"also where {FAR // near} times as many are written as it ever saw",
                beside("rwkv7", what[FAR], summing["plain sums", FAR], taking["rwkv7", FAR]),
                shown,
            ),
            Claim(
                "what it remembers of 64 tokens and of 8,192 is of one size",
                counted("rwkv7", "64, 512 and 8,192 tokens", "as large as the first", even, 3, "identical" if even == 3 else "worse"),
                ("identical",),
            ),
            Claim(
                "where nothing is taken out, fewer than that are known",
                against("plain sums", what[near], summing["plain sums", near], MUCH),
                ("worse",),
                control=True,
            ),
        ],
        {"rwkv7": [Rwkv7Lever(), RwkvChannelLever(receptance=False)]},  # type: ignore[call-arg]
        [
            f"Decoders of width 64 and one block, {given['steps']} steps of 32 lines with Muon; {sizes[0]} bytes of memory.",
            "250 steps left two of three seeds unfinished (0.98, 0.52 and 0.85 of the digits, plain sums 0.41, 0.23 and 0.09). With AdamW at rates of "
            "0.003 and 0.01 neither was learned in 600 and 250 steps (one seed each).",
        ],
    )


EXPERIMENT = Experiment(
    "rwkv7",
    "rwkv7",
    "A memory from which the old value of a key is taken out before a new one is written knows the latest value, also where more is "
    "written than it ever saw.",
    "The same model that takes nothing out must know fewer.",
    "mechanism",
    run,
)
