"""Performer: the softmax's kernel itself, estimated by positive random features, so that linear attention's sums approach attention.

exp(q . k) = E_w [ phi_w(q) phi_w(k) ],  phi_w(x) = exp(w . x - |x|^2 / 2),  w ~ N(0, I)   (FAVOR+, arXiv:2009.14794, lemma 1)
y_t = sum_{s <= t} phi(q_t) . phi(k_s) v_s / sum_{s <= t} phi(q_t) . phi(k_s), q and k each divided by d^(1/4)

The error of m features falls as m^(-1/2); those of one block of d are orthogonal (section 3.3), which makes it smaller. Exponentials
leave floats' range, so each key's features are divided by their greatest, whose logarithm (its level) goes with them, and sums are
relative to the greatest level so far: a later key can then never wipe out what an earlier query saw. Queries' greatest cancels.
Features are drawn anew from the plan's seed whenever a model is built; they are no weights and are not stored.
Cost: m / d times linear attention's; memory m (d + 1) numbers a head.

Shapes: b rows, h heads, t time, d head width, m features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from steelyard.core.errors import RecipeError
from steelyard.core.seeds import derive
from steelyard.model.linears.joined import together
from steelyard.model.linears.linear import Linear
from steelyard.model.mixers.apart import apart
from steelyard.model.mixers.attention import fitting_heads
from steelyard.model.mixers.linear_attention import CHUNK, NO_LEVEL, Levels, causal_sums
from steelyard.model.mixers.recurrence import Recurrence
from steelyard.model.mixers.rotary import Rotary
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.recurrent_state import Memory
from steelyard.model.step import Step

APART = 1e6
"""Added to levels per document, in float64, so that one running maximum serves all documents of a line."""


@dataclass(frozen=True)
class PerformerPlan:
    """`heads` of `head_width` seen through `features` random directions drawn from `seed`; `rotary` turns queries and keys before."""

    heads: int
    head_width: int
    features: int
    seed: int
    rotary: Rotary | None = None

    def build(self, width: int) -> Performer:
        return Performer(width, self)


class Performer(Recurrence):
    """x [b, t, width] -> [b, t, width]."""

    same_input = (("query", "key", "value"),)
    directions_md: Tensor

    def __init__(self, width: int, plan: PerformerPlan):
        super().__init__()
        self.plan = plan
        inner = plan.heads * plan.head_width
        self.query, self.key, self.value = (Linear(width, inner, False) for _ in range(3))
        self.output = Linear(inner, width, False)
        self.register_buffer("directions_md", directions(plan.features, plan.head_width, plan.seed), persistent=False)

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        plan = self.plan
        return {"sums": (plan.heads, plan.features, plan.head_width), "weights": (plan.heads, plan.features), "level": (plan.heads,)}

    def run(self, x_btd: Tensor, step: Step, memory: Memory) -> tuple[Tensor, Memory]:
        y_bti, memory = apart(step, together(x_btd, step, (self.query, self.key, self.value)), memory, self._mixed)
        return self.output(y_bti.to(x_btd.dtype), step), memory

    def _mixed(self, step: Step, maps: Sequence[Tensor], memory: Memory) -> tuple[Tensor, Memory]:
        q, k, v = (part.unflatten(-1, (self.plan.heads, self.plan.head_width)).transpose(1, 2).float() for part in maps)
        with torch.autocast(q.device.type, enabled=False):  # logarithms of 8 bits would be exponentials of none
            if self.plan.rotary is not None:
                q, k = self.plan.rotary.apply(q, step), self.plan.rotary.apply(k, step)
            q, _ = positive_features(q, self.directions_md)
            k, own = positive_features(k, self.directions_md)
            if step.real is not None:
                k, own = k * step.real[:, None, :, None], own.masked_fill(~step.real[:, None], NO_LEVEL)
            before = torch.where(memory["weights"].sum(-1) > 0, memory["level"], NO_LEVEL)
            levels = Levels(own, running_levels(own, before, step), before)
            y, sums, weights = causal_sums(q, k, v, memory["sums"], memory["weights"], step, levels=levels)
        return y.transpose(1, 2).flatten(2), {"sums": sums, "weights": weights, "level": levels.running_bht[..., -1]}

    def mixing_flops(self, time: int) -> int:
        """Forward operations besides its maps'."""
        d, m, seen = self.plan.head_width, self.plan.features, min(CHUNK, time)
        return self.plan.heads * time * (8 * m * d + 2 * seen * (m + d))


def directions(features: int, width: int, seed: int) -> Tensor:
    """Random directions float32 [m, d]: each as N(0, I) draws them, those of one block of d orthogonal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("cpu"):  # they are there even where a model is only planned
        q, r = torch.linalg.qr(torch.randn(-(-features // width), width, width, generator=generator))
        q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # without the signs the directions are not uniform (math-ph/0609050)
        lengths = torch.randn(features, width, generator=generator).norm(dim=-1, keepdim=True)
        return q.flatten(0, 1)[:features] * lengths


def positive_features(x_bhtd: Tensor, directions_md: Tensor) -> tuple[Tensor, Tensor]:
    """exp(w . x - |x|^2 / 2) of x / d^(1/4), divided by the greatest of each token: [b, h, t, m], and the logarithm of that [b, h, t]."""
    x = x_bhtd * x_bhtd.shape[-1] ** -0.25
    logs = x @ directions_md.T - x.square().sum(-1, keepdim=True) / 2
    greatest = logs.detach().amax(-1)
    return (logs - greatest[..., None]).exp(), greatest


def running_levels(own_bht: Tensor, before_bh: Tensor, step: Step) -> Tensor:
    """The greatest level so far within each token's document; the first document goes on from `before`."""
    if step.begins is None:
        return torch.maximum(own_bht.cummax(-1).values, before_bh[..., None])
    document = step.begins.cumsum(1)[:, None]
    apart = document.double() * APART
    running = ((own_bht.double() + apart).cummax(-1).values - apart).float()
    return torch.where(document == 0, torch.maximum(running, before_bh[..., None]), running)


class PerformerLever(PartLever):
    """Performer as a new decoder's mixer."""

    name: ClassVar[str] = "performer"
    idea: ClassVar[str] = (
        "Random positive features estimate the softmax's own kernel, so attention becomes sums over the past of fixed size. "
        "More features estimate it better; sharp attention, which recalls single tokens, needs the most."
    )
    equation: ClassVar[str] = "exp(q . k) = E_w[phi_w(q) phi_w(k)],  phi_w(x) = exp(w . x - |x|^2 / 2),  w ~ N(0, I)"
    paper: ClassVar[str] = "arXiv:2009.14794"
    cost: ClassVar[str] = (
        "8 features width operations a token besides its maps; memory of fixed size, features (head_width + 1) numbers a head"
    )
    identity: ClassVar[Any] = "there is none: it only approaches attention, as its features grow in number"
    place: ClassVar[Any] = "mixer"
    main: ClassVar[str | None] = "features"

    heads: int | None = Field(None, ge=1, le=4096, description="heads; unset: one for 64 of the width, at least 2")
    features: int = Field(128, ge=1, le=65_536, description="random features of a head")
    seed: int = Field(0, ge=0, lt=2**62, description="of the features")
    rotary: bool = Field(True, description="turn queries and keys by their positions, as attention does")

    def plan(self, decoder: Decoder, layer: int) -> PerformerPlan:
        heads = self.heads or fitting_heads(decoder.width)
        if decoder.width % heads or self.rotary and (decoder.width // heads) % 2:
            raise RecipeError(f"`performer`: {heads} heads do not cut the width {decoder.width} into even parts", do="Change one of them.")
        width = decoder.width // heads
        return PerformerPlan(heads, width, self.features, derive(self.seed, "performer", layer), Rotary(width) if self.rotary else None)
