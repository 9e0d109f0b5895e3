"""Activations computed again in the backward pass: a block keeps its input alone, gradients are the same bits, and learning is the same."""

from __future__ import annotations

import contextlib
import gc
import statistics
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd.profiler import profile
from torch.utils.checkpoint import CheckpointError

from acceptance.experiment import Bench, Claim, Experiment, Finding, compared, counted
from acceptance.small_decoders import bits, library, new, reading, taught
from steelyard.data.windows import Windows
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk
from steelyard.train import recompute
from steelyard.train.objectives import next_token_loss
from steelyard.train.recompute import recomputed
from steelyard.weigh.tasks.task import Metric

BITS = Metric("bits_per_byte", "quality", "bits/byte", False, margin=0.02)
WHAT = "Python's standard library, bytes"
TIME, ROWS, WIDTH = 64, 16, 64
PLAN: dict[str, Any] = {"width": WIDTH, "depth": 3, "context": TIME}
PARTS = {
    "attention": {},
    "mamba": {"mixer": "mamba"},
    "experts": {"channel": "moe"},
    "lstm": {"mixer": "lstm"},
}


def kept(trunk: Trunk, ids: Tensor, again: bool) -> float:
    """Megabytes that are held between the forward pass of the blocks and their backward pass, by what the allocator gave and took back.

    Hooks on saved tensors do not see what a block that is computed again keeps.
    """
    trunk.train().requires_grad_(True)
    step = Step.whole(*ids.shape, ids.device)
    x = trunk.inputs(ids, step)
    gc.collect()
    with recomputed(trunk, again), profile(profile_memory=True) as told:
        y = trunk.blocks(x, step, None)
    del y
    events = told.function_events
    assert events is not None
    return sum(event.self_cpu_memory_usage for event in events) / 1e6


def gradients(trunk: Trunk, windows: Windows, again: bool) -> list[Tensor]:
    """Gradients of every weight on a batch."""
    trunk.train().requires_grad_(True).zero_grad(set_to_none=True)
    with recomputed(trunk, again):
        next_token_loss(trunk)(windows.batch(0, 0))[0].backward()
    return [weight.grad.clone() for weight in trunk.parameters() if weight.grad is not None]


@contextlib.contextmanager
def rounded_inputs() -> Iterator[None]:
    """The fault of keeping a block's input in fewer bits than it was read in: what is computed again is not what was computed."""
    checkpoint = recompute.checkpoint

    def keeps_less(forward: Any, x: Tensor, *rest: Any, **settings: Any) -> Any:
        first = [True]

        def once(x: Tensor, *rest: Any) -> Tensor:
            if first:
                first.clear()
                return forward(x, *rest)
            return forward(x + (x.bfloat16().float() - x).detach(), *rest)

        return checkpoint(once, x, *rest, **settings)

    with mock.patch.object(recompute, "checkpoint", keeps_less):
        yield


def run(bench: Bench) -> Finding:
    seeds, windows, steps = bench.pick((1, 2, 3), (1,)), bench.pick(200, 16), bench.pick(80, 8)
    learned, aside = library(bench, bench.pick(120, 12))
    same = faulty = n = 0
    for seed in seeds:
        for name, part in PARTS.items():
            trunk, text = new(PLAN | part, 257, seed), reading(learned, seed, time=TIME)
            whole = gradients(trunk, text, False)
            again = gradients(trunk, text, True)
            try:
                with rounded_inputs():
                    rounded = gradients(trunk, text, True)
            except CheckpointError:  # experts chose otherwise the second time: other shapes, which PyTorch refuses by itself
                rounded = []
            n += 1
            same += all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
            faulty += bool(rounded) and all(torch.equal(a, b) for a, b in zip(whole, rounded, strict=True))
            bench.say(f"{name}, seed {seed}: {len(whole)} gradients")
    depths = bench.pick((2, 4, 8, 16, 32), (2, 4, 8))
    ids = torch.from_numpy(reading(learned, 0, size=ROWS, time=TIME).batch(0, 0).ids)
    one = ROWS * TIME * WIDTH * 4 / 1e6
    each: dict[bool, list[float]] = {}
    for again in (False, True):
        held = [kept(new(PLAN | {"depth": depth}, 257, 1), ids, again) for depth in depths]
        each[again] = [
            (more - less) / (deeper - depth) / one for less, more, depth, deeper in zip(held, held[1:], depths, depths[1:], strict=False)
        ]
        bench.say(f"computed again: {again}; MB held by depth {dict(zip(depths, [round(mb, 2) for mb in held], strict=True))}")
    read: dict[bool, list[list[float]]] = {False: [], True: []}
    for seed in seeds:
        for again in read:
            trunk = new(PLAN, 257, seed)
            with recomputed(trunk, again):
                taught(bench, f"again {again}", trunk, reading(learned, seed, time=TIME), steps=steps, seed=seed, learning_rate=3e-3)
            read[again].append(bits(trunk, aside, windows, TIME))
    means = {again: [statistics.fmean(values) for values in zip(*by_seed, strict=True)] for again, by_seed in read.items()}
    only = sum(share < 1.1 for share in each[True])
    plain = sum(share < 1.1 for share in each[False])
    return Finding(
        [
            Claim(
                "gradients of every weight are the same bits",
                counted("recomputed", f"{', '.join(PARTS)}; {len(seeds)} seeds", "models with the same gradients", same, n,
                        "identical" if same == n else "worse"),
                ("identical",),
            ),
            Claim(
                "a further block keeps its input and no more",
                counted("recomputed", WHAT, "steps of depth that keep at most 1.1 inputs a block", only, len(each[True]),
                        "identical" if only == len(each[True]) else "worse"),
                ("identical",),
            ),
            Claim(
                "training comes to the same weights",
                compared("recomputed", WHAT, BITS, means[False], means[True]),
                ("identical",),
            ),
            Claim(
                "with all activations kept a further block keeps more",
                counted("keeping", WHAT, "steps of depth that keep at most 1.1 inputs a block", plain, len(each[False]),
                        "worse" if not plain else "identical"),
                ("worse",),
                control=True,
            ),
            Claim(
                "inputs kept in fewer bits give other gradients or are refused, so the comparison sees what it is to see",
                counted("rounded inputs", f"{', '.join(PARTS)}; {len(seeds)} seeds", "models with the same gradients", faulty, n,
                        "worse" if not faulty else "identical"),
                ("worse",),
                control=True,
            ),
        ],
        {},
        [
            f"Kept by a further block, in sizes of its input of {one:.2f} MB: {[round(share, 2) for share in each[True]]}; with all "
            f"activations: {[round(share, 1) for share in each[False]]} (depths {depths}).",
            f"Decoders of width {WIDTH} and 3 blocks, {steps} steps of {ROWS} windows of {TIME} bytes, {len(seeds)} seeds; in float32.",
            "Resident memory is not told: the allocator keeps what was freed.",
        ],
    )  # fmt: skip


EXPERIMENT = Experiment(
    "recompute",
    "",
    "Computed again, a block keeps its input alone, gradients are the same bits, and training comes to the same weights.",
    "With all activations kept every block must keep more; inputs kept in fewer bits must give other gradients or be refused.",
    "mechanism",
    run,
)
