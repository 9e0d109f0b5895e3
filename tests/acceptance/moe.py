"""Experts beat one channel of equal operations, and only a loss for their balance keeps them all in use."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from acceptance.experiment import Bench, Claim, Experiment, Finding, compared, counted
from acceptance.small_decoders import bits, library, new, reading, taught
from steelyard.model.channels.moe import Moe, MoeLever, load_entropy
from steelyard.model.cost import flops
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk
from steelyard.weigh.tasks.task import Metric

BITS = Metric("bits_per_byte", "quality", "bits/byte", False, margin=0.01)
WHAT = "Python's standard library, bytes"
TIME = 64
PLAN: dict[str, Any] = {"width": 64, "depth": 2, "context": TIME}


def evenness(trunk: Trunk, ids: torch.Tensor) -> list[float]:
    """Of each layer's experts, over some text."""
    counts: list[torch.Tensor] = []

    def count(module: Moe, given: tuple[torch.Tensor, Step]) -> None:
        counts.append(torch.bincount(module.choose(module.router(given[0]))[1].flatten(), minlength=module.plan.experts))

    hooks = [module.register_forward_pre_hook(count) for module in trunk.modules() if isinstance(module, Moe)]
    with torch.no_grad():
        trunk.logits(ids)
    for hook in hooks:
        hook.remove()
    return [load_entropy(each) for each in counts]


def run(bench: Bench) -> Finding:
    levers = {"experts": MoeLever(), "no balance": MoeLever(balance=0.0)}  # type: ignore[call-arg]
    plans = {"dense": PLAN} | {name: PLAN | {"channel": {"moe": lever.settings}} for name, lever in levers.items()}
    seeds, windows, steps = bench.pick((1, 2, 3), (1,)), bench.pick(300, 24), bench.pick(400, 25)
    learned, kept = library(bench, bench.pick(120, 12))
    read: dict[str, list[float]] = {}
    even: dict[str, list[float]] = {}
    costs: dict[str, tuple[int, int]] = {}
    text = torch.from_numpy(reading(learned, 0, size=16, time=TIME).batch(0, 0).ids)
    for name, plan in plans.items():
        runs = []
        for seed in seeds:
            trunk = new(plan, 257, seed)
            costs[name] = flops(trunk, TIME) // TIME, trunk.parameter_count()
            taught(bench, name, trunk, reading(learned, seed, time=TIME), steps=steps, seed=seed, learning_rate=2e-3)
            runs.append(bits(trunk, kept, windows, TIME))
            even[name] = even.get(name, []) + evenness(trunk, text)
        read[name] = [statistics.fmean(values) for values in zip(*runs, strict=True)]
        bench.say(f"{name}: {statistics.fmean(read[name]):.3f} bits/byte, evenness {[round(value, 3) for value in even[name]]}")

    def evenly(name: str, there_should_be: bool) -> Any:
        hits, count = sum(value > 0.9 for value in even[name]), len(even[name])
        verdict = "identical" if hits == count else "worse" if hits == 0 or there_should_be else "underpowered"
        return counted(name, WHAT, "layers with a load entropy above 0.9", hits, count, verdict)

    better = [] if bench.reduced else [
        Claim("experts read on better than one channel of equal operations", compared("experts", WHAT, BITS, read["dense"], read["experts"]), ("better",)),
    ]  # fmt: skip
    return Finding(
        [
            *better,
            Claim("every layer's experts are chosen evenly", evenly("experts", True), ("identical",)),
            Claim("without the loss for their balance a few take all", evenly("no balance", False), ("worse",), control=True),
        ],
        {"experts": [levers["experts"]]},
        [f"{name}: {cost} operations a token, {weights} weights in all" for name, (cost, weights) in costs.items()]
        + [f"Decoders of width 64 and 2 blocks, {steps} steps of 16 windows of {TIME} bytes, {len(seeds)} seeds."],
    )


EXPERIMENT = Experiment(
    "moe",
    "moe",
    "At equal operations a token, eight experts of which two are chosen read text better than one channel, all of them evenly in use.",
    "Without the loss for their balance a few experts take nearly all tokens.",
    "mechanism",
    run,
)
