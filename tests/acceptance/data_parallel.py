"""Two processes that train together are one: the same losses, gradients and weights; where weights are sharded, each holds half of all."""

from __future__ import annotations

from typing import Any

import torch
import torch.multiprocessing as multiprocessing

from acceptance.experiment import Bench, Claim, Experiment, Finding, counted
from acceptance.two_processes import APART, WAYS, one_of_two, trained

NEAR = 1e-5
"""Largest difference of losses, gradient norms and weights between one process and two."""


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest, of losses, gradient norms and weights."""
    pairs = [(a, b) for line, same in zip(one["told"], other["told"], strict=True) for a, b in zip(line, same, strict=True)]
    return max(
        *(abs(a - b) for a, b in pairs), *(float((value - other["weights"][name]).abs().max()) for name, value in one["weights"].items())
    )


def run(bench: Bench) -> Finding:
    seeds, steps = bench.pick((1, 2, 3), (1,)), bench.pick(20, 3)
    bench.directory.mkdir(parents=True, exist_ok=True)
    multiprocessing.spawn(one_of_two, (bench.directory, seeds, steps), nprocs=2)  # type: ignore[attr-defined]
    first, second = (torch.load(bench.directory / f"found {number}.pt") for number in (0, 1))
    one = {seed: trained(bench.directory / f"one {seed}", seed, steps) for seed in seeds}
    apart = {name: [difference(one[seed], first[name, seed]) for seed in seeds] for name in (*WAYS, APART)}
    shares = {name: [found[name, seed]["held"] / one[seed]["held"] for found in (first, second) for seed in seeds] for name in WAYS}

    def same(name: str) -> Any:
        hits = sum(value < NEAR for value in apart[name])
        verdict = "identical" if hits == len(seeds) else "worse"
        return counted(name, "training", "runs as of one process", hits, len(seeds), verdict)

    halves = sum(abs(share - 0.5) < 0.02 for share in shares["sharded"])
    wholes = sum(share == 1 for share in shares["data"])
    return Finding(
        [
            *(Claim(f"{name}: losses, gradient norms and weights of one process, within {NEAR}", same(name), ("identical",)) for name in WAYS),
            Claim(
                "sharded, each process holds half of the weights' and moments' bytes, within 2%",
                counted("sharded", "training", "processes with half", halves, len(shares["sharded"]),
                        "identical" if halves == len(shares["sharded"]) else "worse"),
                ("identical",),
            ),
            Claim(f"where each process learns for itself, they are not one ({NEAR})", same(APART), ("worse",), control=True),
            Claim(
                "where gradients alone are shared, each process holds all of them",
                counted("data", "training", "processes with all", wholes, len(shares["data"]),
                        "identical" if wholes == len(shares["data"]) else "worse"),
                ("identical",),
                control=True,
            ),
        ],
        {},
        [
            "Largest difference by seed: " + "; ".join(f"{name} {', '.join(f'{value:.1e}' for value in values)}" for name, values in apart.items()) + ".",
            f"Two gloo processes, decoders of width 64 and 2 blocks, {steps} steps of 5 lines (3 for one process, 2 for the other) with AdamW, "
            f"{len(seeds)} seeds. Shares held: sharded {min(shares['sharded']):.3f} to {max(shares['sharded']):.3f}.",
        ],
    )  # fmt: skip


EXPERIMENT = Experiment(
    "data_parallel",
    "",
    "Two processes that share batches, or batches and weights, learn what one process learns, step by step.",
    "Where gradients are not added up they must not.",
    "mechanism",
    run,
)
