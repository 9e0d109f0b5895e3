"""Two processes that train together are one: the same losses, gradients and weights; where weights are sharded, each holds half of all."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.multiprocessing as multiprocessing

from acceptance.experiment import Bench, Claim, Experiment, Finding, counted
from acceptance.small_decoders import VOCABULARY, Exercises, new
from steelyard.core.run import Run
from steelyard.train import training
from steelyard.train.objectives import next_token_loss
from steelyard.train.parallel.company import Company
from steelyard.train.parallel.processes import Together
from steelyard.train.trainer import TrainerSettings, train

PLAN: dict[str, Any] = {"width": 64, "depth": 2, "context": 64}
NEAR = 1e-5
"""Largest difference of losses, gradient norms and weights between one process and two."""
WAYS = ("data", "sharded")
APART = "each for itself"
"""The control: gradients are not added up."""


def trained(directory: Path, seed: int, steps: int, company: Company | None = None, way: str = "data") -> dict[str, Any]:
    """Losses and gradient norms of every step, the weights at the end, and the bytes of weights and moments this process holds."""
    trunk = new(PLAN, VOCABULARY, seed).requires_grad_(True)
    if company is not None:
        company.prepare(trunk, way)  # type: ignore[arg-type]
    made: list[torch.optim.Optimizer] = []
    optimizers = training.optimizers

    def seen(*given: Any, **more: Any) -> Any:
        made.extend(optimizers(*given, **more))
        return made

    # A batch of five lines is shared out unevenly.
    stream = Exercises("associative_recall", (3, 5), 5, seed)
    settings = TrainerSettings(steps=steps, learning_rate=2e-3, warmup=0.1, weight_decay=0.1)
    with mock.patch.object(training, "optimizers", seen):
        train(trunk, next_token_loss(trunk), stream, settings, Run(directory, seed, say=lambda line: None), company=company)
    whole = company.whole if company is not None else lambda tensor: tensor
    weights = {name: whole(value.detach()).clone() for name, value in trunk.state_dict().items()}
    tensors = [*trunk.parameters(), *(value for one in made for state in one.state.values() for value in state.values())]
    held = sum(local(value).nbytes for value in tensors if isinstance(value, torch.Tensor) and value.dim())
    lines = (
        [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()] if company is None or company.first else []
    )
    return {"told": [(line["loss"], line["grad_norm"]) for line in lines], "weights": weights, "held": held}


def local(tensor: Any) -> torch.Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def one_of_two(number: int, directory: Path, seeds: tuple[int, ...], steps: int) -> None:
    """What each of the two processes does; what it found is left in a file."""
    import torch.distributed as dist

    from steelyard.train.parallel.launched import company

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": str(number)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/meeting", rank=number, world_size=2)
    crew = company(torch.device("cpu"))
    found = {}
    for name in (*WAYS, APART):
        alone = mock.patch.object(Together, "share_gradients", lambda self, parameters: None) if name == APART else nullcontext()
        for seed in seeds:
            with alone:
                found[name, seed] = trained(directory / f"{name} {seed}", seed, steps, crew, "sharded" if name == "sharded" else "data")
    torch.save(found, directory / f"found {number}.pt")
    dist.destroy_process_group()


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest, of losses, gradient norms and weights."""
    pairs = [(a, b) for line, same in zip(one["told"], other["told"], strict=True) for a, b in zip(line, same, strict=True)]
    return max(
        *(abs(a - b) for a, b in pairs), *(float((value - other["weights"][name]).abs().max()) for name, value in one["weights"].items())
    )


def run(bench: Bench) -> Finding:
    seeds, steps = bench.pick((1, 2, 3), (1,)), bench.pick(20, 4)
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
    in_ci=False,  # tests/train/test_parallel.py holds two processes to one for every change
)
