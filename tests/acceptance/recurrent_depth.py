"""One block that was looped at random while it learned recalls more with two loops than with one, and no more with many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from acceptance.experiment import Bench, Claim, Experiment, Finding, compared
from acceptance.small_decoders import VOCABULARY, Exercises, new, shares, taught
from steelyard.model.depth.recurrent_depth import RecurrentDepthLever, with_loops
from steelyard.weigh.tasks.task import Metric

RECALLED = Metric("recalled", "quality", "share", True, margin=0.05)
WHAT = "associative recall of 3 or 6 pairs"
LENGTHS = (3, 6)
PLAN: dict[str, Any] = {"width": 64, "depth": 1, "context": 64, "mixer": {"attention": {"heads": 2}}}
ALONE = {"prelude": 0, "coda": 0}


def run(bench: Bench) -> Finding:
    levers = {"looped": RecurrentDepthLever(loops=3, **ALONE), "once": RecurrentDepthLever(loops=1, **ALONE)}  # type: ignore[call-arg]
    seeds, steps = bench.pick((1, 2, 3), (1,)), bench.pick(700, 30)
    asked = [Exercises("associative_recall", (length,), bench.pick(150, 20), seed=99).batch(0) for length in LENGTHS]
    found: dict[tuple[str, int], list[list[float]]] = {}
    for seed in seeds:
        for name, lever in levers.items():
            trunk = new(PLAN | {"stack": {"recurrent_depth": lever.settings}}, VOCABULARY, seed)
            taught(bench, name, trunk, Exercises("associative_recall", LENGTHS, 32, seed), steps=steps, seed=seed, learning_rate=3e-3)
            for loops in (1, 2, 3, 6):
                looped = with_loops(trunk, loops)
                found.setdefault((name, loops), []).append([share for batch in asked for share in shares(looped, batch)])
    mean = {key: torch.tensor(runs).mean(0).tolist() for key, runs in found.items()}
    told = ", ".join(f"{name} with {loops} loops {sum(values) / len(values):.3f}" for (name, loops), values in mean.items())
    bench.say(told)

    def claim(what: str, name: str, before: int, after: int, expected: Sequence[Any], control: bool = False) -> Claim:
        cell = compared(f"{name}, {after} loops", WHAT, RECALLED, mean[name, before], mean[name, after], note=f"beside {before} loops")
        return Claim(what, cell, tuple(expected), control)

    full = [] if bench.reduced else [
        claim("two loops recall more than one", "looped", 1, 2, ["better"]),
        claim("three recall more than one", "looped", 1, 3, ["better"]),
        claim("then it flattens: six recall what three do", "looped", 3, 6, ["equivalent"]),
    ]  # fmt: skip
    nothing = ["floor", "identical", "equivalent", "underpowered", "worse"]
    return Finding(
        [
            *full,
            claim("a block that always ran once recalls no more when it is looped", "once", 1, 3, nothing, control=True),
        ],
        {"looped": [levers["looped"]]},
        [
            f"Recalled: {told}.",
            f"Decoders of width 64 and one block, {steps} steps of 32 lines, {len(seeds)} seeds. Recall is learned best by two blocks "
            "of attention one after the other, which one block is in two loops. A step of the looped model costs three times that of the other on average.",
            "The paper's other control, pause tokens for a model without loops, is not part of this.",
        ],
    )


EXPERIMENT = Experiment(
    "recurrent_depth",
    "recurrent_depth",
    "A block that learned with a random number of loops recalls more when it is given two or three, and as much with six.",
    "A block that always ran once must recall no more when it is looped.",
    "mechanism",
    run,
)
