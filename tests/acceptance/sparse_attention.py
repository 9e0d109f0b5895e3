"""Sparse attention is masked attention without the mask: the same numbers, at a cost that grows with the text alone."""

from __future__ import annotations

import dataclasses
import random
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from acceptance.experiment import Bench, Claim, Experiment, Finding, counted
from acceptance.small_decoders import new
from steelyard.core.seeds import derive
from steelyard.model.mixers.rotary import Rotary
from steelyard.model.mixers.sparse_attention import SparseAttention, SparseAttentionLever, SparseAttentionPlan
from steelyard.model.state import Dense
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk

CPU = torch.device("cpu")
WIDTH = 16
TOLERANCE = 1e-4


def any_part(rng: random.Random) -> SparseAttention:
    plan = SparseAttentionPlan(2, 8, rng.randint(1, 40), rng.randint(1, 12), rng.randint(0, 6), rng.randint(0, 5), Rotary(8))
    return plan.build(WIDTH).requires_grad_(False)


def differing(bench: Bench, cases: int) -> int:
    """In how many random cases blocks, or what is gathered from memory in pieces, differ from the masked dense matrix."""
    count = 0
    for number in range(cases):
        rng = random.Random(derive(bench.seed, "case", number))
        torch.manual_seed(derive(bench.seed, "weights", number))
        part, time = any_part(rng), rng.randint(1, 200)
        for linear in (part.query, part.key, part.value, part.output):
            linear.weight.normal_(std=0.5)
        x = torch.randn(1, time, WIDTH)
        step = Step.whole(1, time, CPU)
        expected = part(x, step.changed(readable=True))
        pool, done, heard = part.new_pool(1, 200, Dense()), 0, []
        while done < time:
            size = min(rng.randint(1, 64), time - done)
            heard.append(part(x[:, done : done + size], Step((0,), (done,), (size,), size, CPU, capacity=200), pool))
            done += size
        wrong = max(float((part(x, step) - expected).abs().max()), float((torch.cat(heard, 1) - expected).abs().max()))
        count += wrong > TOLERANCE
    return count


def wider(plan: SparseAttentionPlan, distance: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """The planted fault: a window one token too long."""
    return (distance >= 0) & (distance <= plan.window)


def operations(part: SparseAttention, time: int, *, dense: bool) -> int:
    """Counted by PyTorch as they are done."""
    step = dataclasses.replace(Step.whole(1, time, CPU), readable=dense)
    with FlopCounterMode(display=False) as counter:
        part(torch.randn(1, time, WIDTH), step)
    return counter.get_total_flops()


def reach(trunk: Trunk, time: int) -> int:
    """How many tokens back the last token hears, through all layers."""
    embedded = trunk.inputs(torch.randint(1, 30, (1, time)), Step.whole(1, time, CPU)).detach().requires_grad_()
    trunk.inputs.register_forward_hook(lambda module, given, made: embedded)
    trunk.logits(torch.zeros(1, time, dtype=torch.int64))[0, -1].square().sum().backward()
    assert embedded.grad is not None
    heard = embedded.grad[0].abs().sum(-1).nonzero()
    return time - 1 - int(heard.min())


def run(bench: Bench) -> Finding:
    cases = bench.pick(300, 12)
    moved = differing(bench, cases)
    with mock.patch.object(SparseAttentionPlan, "_near", lambda plan, distance: wider(plan, distance, distance)):
        # Blocks and mask go by the rule that is changed; what is gathered from memory has its own.
        noticed = differing(bench, bench.pick(60, 12))
    bench.say(f"{moved} of {cases} cases differ; with the planted fault {noticed}")
    torch.manual_seed(bench.seed)
    part = SparseAttentionPlan(2, 8, 16, 16, 4, 4, Rotary(8)).build(WIDTH).requires_grad_(False)
    times = bench.pick((1024, 2048, 4096, 8192), (512, 1024))
    ours, dense = ([operations(part, time, dense=flag) for time in times] for flag in (False, True))
    grown = [[b / a for a, b in zip(each, each[1:], strict=False)] for each in (ours, dense)]
    bench.say(f"operations {ours}; of the masked matrix {dense}")
    reaches, wished = [], []
    for depth in (1, 2, 3):
        for window in (4, 9):
            plan = {"width": 32, "depth": depth, "context": 64, "initial": 0.2}
            only = {"sparse_attention": {"window": window, "strided": 0, "globals": 0}}
            reaches.append(reach(new(plan | {"mixer": only}, 40, bench.seed), 64))
            wished.append(depth * (window - 1))
    right = sum(a == b for a, b in zip(reaches, wished, strict=True))
    bench.say(f"reaches {reaches}, layers x (window - 1) {wished}")
    doublings = len(times) - 1
    linear, square = (sum(low <= g <= high for g in each) for each, (low, high) in zip(grown, ((1.9, 2.1), (3.5, 4.1)), strict=True))
    few = 60 if not bench.reduced else 12
    return Finding(
        [
            Claim(
                "blocks and memory give what the masked dense matrix gives",
                counted("sparse", "random patterns and texts", "same numbers", cases - moved, cases, "worse" if moved else "identical"),
                ("identical",),
            ),
            Claim(
                "operations double with the text",
                counted("sparse", "texts twice as long", "doubled", linear, doublings, "identical" if linear == doublings else "worse"),
                ("identical",),
            ),
            Claim(
                "the last token hears exactly layers x (window - 1) tokens back",
                counted("sparse", "depths and windows", "reach", right, len(wished), "identical" if right == len(wished) else "worse"),
                ("identical",),
            ),
            Claim(
                "a window that is one token too long is noticed",
                counted("off by one", "random patterns and texts", "same numbers", few - noticed, few, "worse" if noticed else "identical"),
                ("worse",),
                control=True,
            ),
            Claim(
                "the masked matrix grows fourfold by the same count",
                counted("masked", "texts twice as long", "fourfold", square, doublings, "identical" if square == doublings else "worse"),
                ("identical",),
                control=True,
            ),
        ],
        {"sparse": [SparseAttentionLever()]},
        [
            f"growth of operations with a text twice as long: {[round(g, 3) for g in grown[0]]}, of the masked matrix {[round(g, 3) for g in grown[1]]}"
        ],
    )


EXPERIMENT = Experiment(
    "sparse_attention",
    "sparse_attention",
    "Sparse attention in blocks and from memory equals masked attention, its operations grow with the text alone, and layers reach layers x (window - 1) back.",
    "A window one token too long must be noticed, and the masked matrix must grow fourfold by the same count.",
    "mechanism",
    run,
)
