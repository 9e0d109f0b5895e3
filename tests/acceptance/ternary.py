"""Ternary maps trained from the start read nearly as well as floats; floats rounded to three values afterwards hardly read at all."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from acceptance.experiment import Bench, Claim, Experiment, Finding, compared, counted
from acceptance.small_decoders import bits, library, new, reading, taught
from steelyard.model.linears.linear import Linear
from steelyard.model.linears.ternary import PackedTernaryStorage, TernaryLever, TernaryStorage
from steelyard.model.trunk import Trunk
from steelyard.weigh.tasks.task import Metric

BITS = Metric("bits_per_byte", "quality", "bits/byte", False, margin=0.02)
WITHIN_15 = Metric("bits_per_byte", "quality", "bits/byte", False, margin=0.15, relative=True)
WHAT = "Python's standard library, bytes"
TIME = 64
PLAN: dict[str, Any] = {"width": 96, "depth": 2, "context": TIME}


def rounded(trunk: Trunk) -> Trunk:
    """A float trunk whose blocks' maps are rounded to three values, as nobody has trained them to be."""
    for linear in trunk.blocks.modules():
        if isinstance(linear, Linear):
            storage = TernaryStorage(linear.inputs, linear.outputs, linear.bias is not None, packed=True)
            storage.load_state_dict(linear.storage.state_dict())
            linear.storage = storage
    return trunk


def packed(trunk: Trunk) -> tuple[int, int]:
    """Packs a trained trunk's maps in place; their bytes before and after."""
    linears = [module for module in trunk.blocks.modules() if isinstance(module, Linear)]
    before = sum(linear.storage.bytes() for linear in linears)  # type: ignore[operator]
    for linear in linears:
        linear.storage = PackedTernaryStorage.of(linear.storage)  # type: ignore[arg-type]
    return before, sum(linear.storage.bytes() for linear in linears)  # type: ignore[operator]


def run(bench: Bench) -> Finding:
    lever = TernaryLever()  # type: ignore[call-arg]
    seeds, windows, steps = bench.pick((1, 2, 3), (1,)), bench.pick(300, 24), bench.pick(400, 40)
    learned, kept = library(bench, bench.pick(120, 12))
    runs: dict[str, list[list[float]]] = {"floats": [], "ternary": [], "rounded": []}
    same, sizes = 0, (0, 0)
    for seed in seeds:
        # The same rate for both would be the floats' best and too low for ternary maps (section 3 of the paper).
        for name, plan, rate in (("floats", PLAN, 3e-3), ("ternary", PLAN | {"linears": "ternary"}, 6e-3)):
            trunk = taught(bench, name, new(plan, 257, seed), reading(learned, seed, time=TIME), steps=steps, seed=seed, learning_rate=rate)
            runs[name].append(bits(trunk, kept, windows, TIME))
            if name == "ternary":
                ids = torch.from_numpy(reading(kept, 0, time=TIME).batch(0, 0).ids)
                before = trunk.logits(ids)
                sizes = packed(trunk)
                same += torch.equal(trunk.logits(ids), before)
            else:
                runs["rounded"].append(bits(rounded(trunk), kept, windows, TIME))
    read = {name: [statistics.fmean(values) for values in zip(*each, strict=True)] for name, each in runs.items()}
    bench.say(", ".join(f"{name}: {statistics.fmean(values):.3f} bits/byte" for name, values in read.items()))
    return Finding(
        [
            Claim(
                "trained from the start, three values come within 15% of floats",
                compared("ternary", WHAT, WITHIN_15, read["floats"], read["ternary"]),
                ("equivalent", "better"),
            ),
            Claim(
                "and far closer than floats rounded afterwards",
                compared("ternary", WHAT, BITS, read["rounded"], read["ternary"]),
                ("better",),
            ),
            Claim(
                "floats rounded afterwards lose what they had learned",
                compared("rounded", WHAT, BITS, read["floats"], read["rounded"]),
                ("worse",),
                control=True,
            ),
            Claim(
                "packed in 2 bits, models say the same to the bit",
                counted("packed", WHAT, "same logits", same, len(seeds), "identical" if same == len(seeds) else "worse"),
                ("identical",),
                control=True,
            ),
        ],
        {"ternary": [lever]},
        [
            f"The blocks' maps take {sizes[0]} bytes while they are trained and {sizes[1]} packed.",
            f"Decoders of width 96 and 2 blocks, {steps} steps of 16 windows of {TIME} bytes, {len(seeds)} seeds; learning rates "
            "3e-3 (floats) and 6e-3 (ternary).",
        ],
    )


EXPERIMENT = Experiment(
    "ternary",
    "ternary",
    "A decoder trained with ternary maps reads within 15% of one with floats, and its maps pack into 2 bits a weight.",
    "Floats rounded to three values afterwards must lose most of what they learned; packing must change nothing.",
    "mechanism",
    run,
)
