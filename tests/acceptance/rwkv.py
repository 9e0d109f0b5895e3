"""RWKV reads on past the length it was trained on as well as within it, from a memory that never grows, in parallel or step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from acceptance.experiment import Bench, Claim, Experiment, Finding, compared, counted
from acceptance.small_decoders import library, new, reading, taught
from steelyard.data.token_file import TokenFile
from steelyard.data.windows import Windows
from steelyard.model.channels.rwkv import RwkvChannelLever
from steelyard.model.cost import state_bytes
from steelyard.model.mixers.rwkv import RwkvLever
from steelyard.model.state import Dense
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk
from steelyard.weigh.tasks.task import Metric

BITS = Metric("bits_per_byte", "quality", "bits/byte", False, margin=0.05)
WHAT = "Python's standard library, bytes"
TIME, FAR, LAST = 96, 1536, 48
"""Bytes of a text in training, and of one that is read; the last ones are those that count."""
AS_ONE = 1e-3
"""Largest difference of logits between ways of computing that sum in other orders."""

PLAN: dict[str, Any] = {"width": 64, "depth": 2, "context": FAR}
RWKV: dict[str, Any] = {"mixer": "rwkv", "channel": "rwkv_channel", "norm": "layer", "inputs": {"tokens": {"norm": True}}}


def texts(tokens: TokenFile, windows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and targets [n, FAR] of the first texts."""
    batch = Windows(tokens, windows, FAR, order="sequential").batch(0, 0)
    return torch.from_numpy(batch.ids), torch.from_numpy(batch.targets)


@torch.no_grad()
def last_bits(trunk: Trunk, ids: torch.Tensor, targets: torch.Tensor, read: int) -> list[float]:
    """Bits of the last bytes of each text, when its last `read` bytes are read."""
    out: list[float] = []
    for some, wanted in zip(ids[:, -read:].split(8), targets[:, -LAST:].split(8), strict=True):
        logprobs = trunk.logits(some)[:, -LAST:].log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
        out += (-logprobs.mean(1) / np.log(2)).tolist()
    return out


@torch.no_grad()
def step_by_step(trunk: Trunk, ids: torch.Tensor) -> list[float]:
    """For each text, the largest difference of its logits, a byte at a time out of a state, from those of the whole."""
    whole = trunk.logits(ids)
    state = trunk.new_state(len(ids), ids.shape[1], Dense())
    first = Step(tuple(range(len(ids))), (0,) * len(ids), (1,) * len(ids), 1, ids.device, capacity=ids.shape[1])
    apart = torch.zeros(len(ids))
    for at in range(ids.shape[1]):
        step = first.changed(starts=(at,) * len(ids))
        apart = torch.maximum(apart, (trunk.logits(ids[:, at : at + 1], step, state)[:, 0] - whole[:, at]).abs().amax(-1))
    return apart.tolist()


def run(bench: Bench) -> Finding:
    seeds, windows, steps = bench.pick((1, 2), (1,)), bench.pick(320, 8), bench.pick(300, 4)
    learned, kept = library(bench, bench.pick(120, 40))
    ids, targets = texts(kept, windows)
    windows = len(ids)
    near: dict[str, list[float]] = {"rwkv": [], "attention": []}
    far: dict[str, list[float]] = {"rwkv": [], "attention": []}
    apart: list[float] = []
    for name, plan in {"rwkv": PLAN | RWKV, "attention": PLAN}.items():
        for seed in seeds:
            trunk = taught(bench, name, new(plan, 257, seed), reading(learned, seed, time=TIME), steps=steps, seed=seed, learning_rate=3e-3)
            near[name] += last_bits(trunk, ids, targets, TIME)
            far[name] += last_bits(trunk, ids, targets, FAR)
            if name == "rwkv":
                apart += step_by_step(trunk, ids[:8, : bench.pick(512, 128)])
        bench.say(f"{name}: {np.mean(near[name]):.3f} bits a byte after {TIME} bytes, {np.mean(far[name]):.3f} after {FAR}")
    trunk = new(PLAN | RWKV, 257, 1)
    sizes = [state_bytes(trunk, tokens) for tokens in (64, 512, 8192)]
    same, even = sum(value < AS_ONE for value in apart), sum(size == sizes[0] for size in sizes)
    past = f"the last {LAST} bytes of {FAR}, after training on {TIME}"
    stable = ("better", "equivalent", "identical", "underpowered") if bench.reduced else ("better", "equivalent", "identical")
    falls = ("worse", "equivalent", "underpowered", "better") if bench.reduced else ("worse",)
    return Finding(
        [
            Claim(
                f"{FAR} bytes are read no worse than the last {TIME} of them alone",
                compared("rwkv", WHAT, BITS, near["rwkv"], far["rwkv"], note=past),
                stable,
            ),
            Claim(
                f"step by step it says what it says in parallel, within {AS_ONE} of a logit",
                counted("rwkv", WHAT, "texts as one", same, len(apart), "identical" if same == len(apart) else "worse"),
                ("identical",),
            ),
            Claim(
                "what it remembers of 64 tokens and of 8,192 is of one size",
                counted("rwkv", "64, 512 and 8,192 tokens", "as large as the first", even, 3, "identical" if even == 3 else "worse"),
                ("identical",),
            ),
            Claim(
                "attention trained in the same way reads the longer texts worse",
                compared("attention", WHAT, BITS, near["attention"], far["attention"], note=past),
                falls,
                control=True,
            ),
        ],
        {"rwkv": [RwkvLever(), RwkvChannelLever()]},  # type: ignore[call-arg]
        [
            f"{name}: {np.mean(near[name]):.3f} bits a byte where {TIME} bytes are read, {np.mean(far[name]):.3f} where {FAR} are."
            for name in near
        ]
        + [
            f"Decoders of width 64 and 2 blocks, {steps} steps of 16 windows of {TIME} bytes, {len(seeds)} seeds, {windows} texts; "
            f"{sizes[0]} bytes of memory; steps differ from the whole by at most {max(apart):.1e}."
        ],
    )


EXPERIMENT = Experiment(
    "rwkv",
    "rwkv",
    "A decoder of RWKV blocks reads texts 16 times as long as those it was trained on no worse, from a memory of constant size, and says "
    "the same in parallel and step by step.",
    "Attention with rotary positions, trained in the same way, must get worse past its training length.",
    "mechanism",
    run,
)
