"""Attention as it is computed equals attention as it is defined, forward and backward, and keeps the same of every token at any length."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from acceptance.experiment import Bench, Claim, Experiment, Finding, counted
from acceptance.small_decoders import saved
from steelyard.core.seeds import derive
from steelyard.model.mixers.attention import Attention, AttentionPlan
from steelyard.model.mixers.rotary import Rotary
from steelyard.model.step import Step

NEAR = 1e-5
"""Greatest difference from the definition in float64, over the greatest value of a tensor."""
LENGTHS = (128, 256, 512, 1024, 2048)


def turned(x: Tensor, position: int, base: float) -> Tensor:
    """A head's vector [d] with its pairs (i, i + d/2) turned by position * base^(-2i/d)."""
    half = len(x) // 2
    angles = position * base ** (-torch.arange(half, dtype=torch.float64) * 2 / len(x))
    first, second = x[:half], x[half:]
    return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()])


def defined(attention: Attention, x_btd: Tensor, documents: list[list[int]], ahead: int = 0) -> Tensor:
    """softmax(q k / sqrt d) v, a query at a time, in float64. `ahead`: how many later tokens a query sees (the fault)."""
    plan, rows = attention.plan, []
    groups = plan.heads // plan.key_value_heads
    for x_td, of in zip(x_btd, documents, strict=True):
        queries, keys, values = (
            (x_td @ linear.weight.double().T).unflatten(-1, (-1, plan.head_width))
            for linear in (attention.query, attention.key, attention.value)
        )
        begins = [of.index(document) for document in of]
        out = []
        for t in range(len(of)):
            heads = []
            for head in range(plan.heads):
                seen = [s for s in range(max(begins[t], t + 1 - (plan.window or len(of))), min(len(of), t + 1 + ahead)) if of[s] == of[t]]
                query, group = queries[t, head], head // groups
                near = [keys[s, group] for s in seen]
                if plan.rotary is not None:
                    query = turned(query, t - begins[t], plan.rotary.base)
                    near = [turned(key, s - begins[s], plan.rotary.base) for s, key in zip(seen, near, strict=True)]
                weights = (torch.stack(near) @ query / plan.head_width**0.5).softmax(0)
                heads.append(weights @ torch.stack([values[s, group] for s in seen]))
            out.append(torch.cat(heads))
        rows.append(torch.stack(out) @ attention.output.weight.double().T)
    return torch.stack(rows)


def all_of(attention: Attention, x: Tensor, y: Tensor) -> list[Tensor]:
    """The output, and the gradients of input and weights for one and the same sum of outputs."""
    direction = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y).sin()
    return [y, *torch.autograd.grad((y * direction).sum(), [x, *attention.parameters()])]


def far(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Greatest difference of any tensor, in sizes of its greatest value; of those that are near nothing (who sees one token has no choice,
    and no gradient of it) in tenths."""
    return max(
        float((a.detach() - b).abs().max() / b.abs().max().clamp(min=0.1)) for a, b in zip(found, (x.detach() for x in wanted), strict=True)
    )


def drawn(rng: random.Random) -> tuple[Attention, Tensor, list[list[int]]]:
    """Attention of a random form, and random rows of several documents for it."""
    kv = rng.choice((1, 2, 3))
    heads, width = kv * rng.choice((1, 2, 3)), 2 * rng.randint(2, 9)
    plan = AttentionPlan(
        heads, kv, width, rotary=rng.choice((None, Rotary(width, base=100.0))), window=rng.choice((None, None, rng.randint(1, 12)))
    )
    torch.manual_seed(rng.randrange(2**31))
    rows, time = rng.randint(1, 3), rng.randint(2, 20)
    attention = Attention(rng.randint(3, 40), plan)
    documents = [sorted(rng.randrange(3) for _ in range(time)) for _ in range(rows)]
    return attention, torch.randn(rows, time, attention.query.weight.shape[1]), documents


def bytes_a_token(time: int, readable: bool) -> float:
    """What is kept for the backward pass, bytes for each token of one text."""
    attention = Attention(64, AttentionPlan(4, 2, 16, rotary=None))
    step = replace(Step.whole(1, time, torch.device("cpu")), readable=readable)
    x = torch.randn(1, time, 64, requires_grad=True)
    return saved(lambda: attention(x, step)) / time


def run(bench: Bench) -> Finding:
    rng, count = random.Random(derive(bench.seed, "attention")), bench.pick(60, 6)
    near: dict[str, list[float]] = {"fused": [], "by its equation": [], "seeing one ahead": []}
    for _ in range(count):
        attention, x, documents = drawn(rng)
        x.requires_grad_(True)
        wide = x.detach().double().requires_grad_(True)
        wanted = all_of(attention, wide, defined(attention, wide, documents))
        step = Step.whole(*x.shape[:2], x.device, segments=torch.tensor(documents))
        for name, readable in (("fused", False), ("by its equation", True)):
            near[name].append(far(all_of(attention, x, attention(x, replace(step, readable=readable))), wanted))
        near["seeing one ahead"].append(far(all_of(attention, wide, defined(attention, wide, documents, ahead=1)), wanted))
    hits = {name: sum(error < NEAR for error in errors) for name, errors in near.items()}
    bench.say(f"of {count} forms within {NEAR}: {hits}")
    lengths = bench.pick(LENGTHS, LENGTHS[:3])
    kept = {readable: [bytes_a_token(time, readable) for time in lengths] for readable in (False, True)}
    flat, grown = (sum(share < 1.01 * values[0] for share in values[1:]) for values in (kept[False], kept[True]))
    task, longer = f"{count} random forms", len(lengths) - 1

    def same(name: str) -> Any:
        return counted(name, task, "outputs and gradients as defined", hits[name], count, "identical" if hits[name] == count else "worse")

    return Finding(
        [
            Claim("the fused form gives output and gradients of the definition", same("fused"), ("identical",)),
            Claim("so does the form by its equation", same("by its equation"), ("identical",)),
            Claim(
                "what is kept of a token for the backward pass does not grow with the text",
                counted("fused", "one text", "longer texts that keep no more a token", flat, longer, "identical" if flat == longer else "worse"),
                ("identical",),
            ),
            Claim("a definition that sees one token ahead is told apart", same("seeing one ahead"), ("worse",), control=True),
            Claim(
                "by its equation every longer text keeps more of each token",
                counted("by its equation", "one text", "longer texts that keep no more a token", grown, longer,
                        "worse" if not grown else "identical"),
                ("worse",),
                control=True,
            ),
        ],
        {},
        [
            f"Greatest difference from the definition in float64: fused {max(near['fused']):.1e}, by its equation "
            f"{max(near['by its equation']):.1e} of the greatest value, in float32; forms of 1 to 9 heads of 4 to 18, grouped or not, with "
            "and without rotary positions, windows and documents.",
            f"Kept of a token at lengths {lengths}: {[round(value) for value in kept[False]]} bytes; by its equation "
            f"{[round(value) for value in kept[True]]}. A window or documents add a mask over pairs of tokens.",
        ],
    )  # fmt: skip


EXPERIMENT = Experiment(
    "attention",
    "attention",
    "Fused attention gives the output and the gradients of its definition, and keeps the same of every token at any length.",
    "A definition that sees one token ahead must differ; written by its equation it must keep more of each token the longer the text.",
    "mechanism",
    run,
)
