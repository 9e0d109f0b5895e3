"""A reversible stack keeps nothing for the backward pass but its end, whatever its depth, and learns as if it had kept everything."""

from __future__ import annotations

import copy
import statistics
from typing import Any

import torch

from acceptance.experiment import Bench, Claim, Experiment, Finding, compared, counted
from acceptance.small_decoders import bits, library, new, reading, saved, taught
from steelyard.model.depth.reversible import Reversible, ReversibleLever, block_inputs, parts
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk
from steelyard.weigh.tasks.task import Metric

BITS = Metric("bits_per_byte", "quality", "bits/byte", False, margin=0.02)
WHAT = "Python's standard library, bytes"
TIME = 64
PLAN: dict[str, Any] = {"width": 64, "depth": 3, "context": TIME}


class Keeping(Reversible):
    """The same stack with all activations kept."""

    def forward(self, x: torch.Tensor, step: Step, state: Any) -> torch.Tensor:
        return self.forward_plainly(x, step, state)


def keeping(trunk: Trunk) -> Trunk:
    trunk.blocks.__class__ = Keeping
    return trunk


def kept(trunk: Trunk, ids: torch.Tensor) -> float:
    """Megabytes that autograd keeps of a forward pass through the blocks, weights not counted."""
    trunk.train().requires_grad_(True)
    step = Step.whole(*ids.shape, ids.device)
    return saved(lambda: trunk.blocks(trunk.inputs(ids, step), step, None)) / 1e6


@torch.no_grad()
def returned(trunk: Trunk, ids: torch.Tensor, dtype: torch.dtype) -> float:
    """How far the inputs of the first block come back from the outputs of the last: greatest difference over the greatest value."""
    trunk, step = copy.deepcopy(trunk).to(dtype), Step.whole(*ids.shape, ids.device)
    x = first = second = trunk.inputs(ids, step).to(dtype)
    for block in trunk.blocks:
        mixer, channel = parts(block, step)
        first = first + mixer(second)
        second = second + channel(first)
    back = block_inputs(trunk.blocks, first, second, step)  # type: ignore[arg-type]
    return max(float((one - x).abs().max() / max(first.abs().max(), second.abs().max())) for one in back)


def run(bench: Bench) -> Finding:
    lever = ReversibleLever()
    seeds, windows, steps = bench.pick((1, 2, 3), (1,)), bench.pick(300, 24), bench.pick(120, 15)
    learned, aside = library(bench, bench.pick(120, 12))
    plan = PLAN | {"stack": "reversible"}
    runs: dict[str, list[list[float]]] = {"stacked": [], "rebuilding": [], "keeping": []}
    error = rough = 0.0
    for seed in seeds:
        for name in runs:
            trunk = new(PLAN if name == "stacked" else plan, 257, seed)
            trunk = keeping(trunk) if name == "keeping" else trunk
            taught(bench, name, trunk, reading(learned, seed, time=TIME), steps=steps, seed=seed, learning_rate=3e-3)
            runs[name].append(bits(trunk, aside, windows, TIME))
            if name == "rebuilding":
                ids = torch.from_numpy(reading(learned, 0, time=TIME).batch(0, 0).ids)
                error, rough = (max(was, returned(trunk, ids, kind)) for was, kind in ((error, torch.float32), (rough, torch.bfloat16)))
    read = {name: [statistics.fmean(values) for values in zip(*each, strict=True)] for name, each in runs.items()}
    ids = torch.from_numpy(reading(learned, 0, time=TIME).batch(0, 0).ids)
    depths = bench.pick((2, 4, 8, 16, 32), (2, 4, 8))
    flat = [kept(new(plan | {"depth": depth}, 257, 1), ids) for depth in depths]
    grown = [kept(keeping(new(plan | {"depth": depth}, 257, 1)), ids) for depth in depths]
    bench.say(f"MB kept by depth: {dict(zip(depths, flat, strict=True))}, with all activations {dict(zip(depths, grown, strict=True))}")
    return Finding(
        [
            Claim(
                "what is kept does not grow with the depth",
                counted("rebuilding", WHAT, "depths that keep what the first keeps", sum(v == flat[0] for v in flat), len(flat),
                        "identical" if len(set(flat)) == 1 else "worse"),
                ("identical",),
            ),
            Claim(
                "inputs come back within 1e-5 through trained blocks",
                counted("rebuilding", WHAT, "inputs back", int(error < 1e-5), 1, "identical" if error < 1e-5 else "worse"),
                ("identical",),
            ),
            Claim(
                "it learns what the same stack learns with all activations kept",
                compared("rebuilding", WHAT, BITS, read["keeping"], read["rebuilding"]),
                ("equivalent", "identical"),
            ),
            Claim(
                "with all activations kept, every further block keeps more",
                counted("keeping", WHAT, "depths that keep what the first keeps", sum(v == grown[0] for v in grown), len(grown),
                        "worse" if grown == sorted(set(grown)) else "identical"),
                ("worse",),
                control=True,
            ),
            Claim(
                "rounded to bfloat16, inputs do not come back, so the measure sees what it is to see",
                counted("bfloat16", WHAT, "inputs back", int(rough < 1e-5), 1, "identical" if rough < 1e-5 else "worse"),
                ("worse",),
                control=True,
            ),
        ],
        {"rebuilding": [lever]},
        [
            f"Kept by {depths} blocks: {[round(v, 2) for v in flat]} MB; with all activations: {[round(v, 2) for v in grown]} MB.",
            f"Inputs come back with an error of {error:.1e} of the greatest value in float32 and {rough:.1e} in bfloat16.",
            f"Beside it a plain stack of the same blocks: {statistics.fmean(read['stacked']):.3f} bits per byte, the reversible one "
            f"{statistics.fmean(read['rebuilding']):.3f}. They are not the same model: each stream holds half of what blocks say.",
            f"Decoders of width 64 and 3 blocks, {steps} steps of 16 windows of {TIME} bytes, {len(seeds)} seeds.",
        ],
    )  # fmt: skip


EXPERIMENT = Experiment(
    "reversible",
    "reversible",
    "Bytes kept for the backward pass stay flat in depth, inputs come back exactly enough, and it learns as if all activations were kept.",
    "The same stack with all activations kept must keep more with every block; in bfloat16 the inputs must not come back.",
    "mechanism",
    run,
)
