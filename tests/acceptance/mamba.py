"""What depends on the token makes a recurrence choose: it copies what is scattered, and finds a mark again at lengths it never saw."""

from __future__ import annotations

from typing import Any

from acceptance.experiment import Bench, Claim, Experiment, Finding
from acceptance.races import CHANCE, against, beside, raced
from steelyard.model.mixers.mamba import MambaLever

SCATTERED, WIDEST = (16, 24, 32), 32
LEARNED, FAR, FARTHEST = (8, 16, 32, 64), 512, 4096
MUCH = 0.9
"""Share of characters right from which an exercise counts as solved."""


def run(bench: Bench) -> Finding:
    levers = {"selective": MambaLever(state=32), "time-invariant": MambaLever(state=32, selective=False)}  # type: ignore[call-arg]
    plans: dict[str, dict[str, Any]] = {name: {"mixer": {"mamba": lever.settings}} for name, lever in levers.items()}
    copied = raced(
        bench,
        plans,
        "selective_copying",
        SCATTERED,
        (WIDEST,),
        steps=bench.pick(1200, 6),
        lines=bench.pick(100, 20),
        learning_rate=8e-3,
    )
    lengths = (LEARNED[-1], FAR, FARTHEST)
    found = raced(
        bench,
        {"asked": {"mixer": "mamba"}},
        "induction",
        LEARNED,
        lengths,
        steps=bench.pick(700, 4),
        lines=bench.pick(40, 2),
        learning_rate=5e-3,
    )
    copying, finding = f"8 letters scattered over {WIDEST} places", "what followed a mark {} letters before or fewer"
    selective, invariant = copied["selective", WIDEST], copied["time-invariant", WIDEST]
    shown = ("better", "equivalent", "underpowered", "worse") if bench.reduced else ("better",)
    return Finding(
        [
            Claim("what depends on the token copies letters from among blanks", beside("selective", copying, invariant, selective), shown),
            Claim(
                f"trained over {LEARNED[-1]} letters at most, it finds what it is asked over {FAR} in more than {MUCH:.0%} of the lines",
                against("asked", finding.format(FAR), found["asked", FAR], MUCH),
                shown,
            ),
            Claim(
                f"and over {FARTHEST} more often than by chance",
                against("asked", finding.format(FARTHEST), found["asked", FARTHEST], CHANCE),
                shown,
            ),
            Claim(
                "its time-invariant twin of the same size copies less than half of them",
                against("time-invariant", copying, invariant, 0.5),
                ("worse",),
                control=True,
            ),
        ],
        {"selective": [levers["selective"]], "asked": [MambaLever()]},
        [f"Decoders of width 64 and 2 blocks; induction at lengths {', '.join(map(str, lengths))}."],
    )


EXPERIMENT = Experiment(
    "mamba",
    "mamba",
    "A selective recurrence copies letters from among blanks, which its time-invariant twin cannot, and finds a mark again 64 times farther "
    "back than it was trained.",
    "The twin whose step, B and C are constants must stay below half of the letters.",
    "mechanism",
    run,
)
