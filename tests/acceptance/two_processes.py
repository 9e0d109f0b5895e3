"""What each of two processes does that train together, and one that trains alone: a module of its own, soon imported."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from acceptance.small_decoders import VOCABULARY, Exercises, new
from steelyard.core.run import Run
from steelyard.train import training
from steelyard.train.objectives import next_token_loss
from steelyard.train.parallel.company import Company
from steelyard.train.parallel.processes import Together
from steelyard.train.trainer import TrainerSettings, train

PLAN: dict[str, Any] = {"width": 64, "depth": 2, "context": 64}
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
