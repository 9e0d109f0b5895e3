"""Transformer-XL: attention within segments that also sees the segments before, whose keys and values take no gradient.

For a query i of segment n and every key j <= i of segments n - memory .. n, at distance i - j with its encoding r_{i-j}:
score = (q_i + u) . k_j + (q_i + v) . W_R r_{i-j},   y_i = softmax(score / sqrt(d)) V      (arXiv:1901.02860, section 3.3)
keys and values of earlier segments are W SG(x_j): the maps learn from them, what lies before does not (section 3.2).

Through n layers a token hears n memory segments back. Distances take the place of positions, so a text may be longer than any seen in
training. Going forward nothing tells a gradient from none, so texts may be cut anywhere, not at segments alone.
Cost: O(t (memory + 1) segment width); the queries' second product, with encodings, is half as much again. In training keys and values
are computed twice, with and without gradient.

Shapes: b rows, h heads, t time, s keys, d head width, n segments, a tokens of a segment, r distances.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from steelyard.core.errors import RecipeError
from steelyard.model.linears.joined import together
from steelyard.model.linears.linear import Linear
from steelyard.model.mixers.apart import PiecewisePool
from steelyard.model.mixers.attention import fitting_heads
from steelyard.model.mixers.documents import each_document
from steelyard.model.mixers.own_keys import from_memory, gathered
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.recurrent_state import Memory
from steelyard.model.state import KeyValuePool, Storage
from steelyard.model.step import Step


@dataclass(frozen=True)
class TransformerXLPlan:
    """`heads` of `head_width`; segments of `segment` tokens, of which the `memory` before a token's own are seen."""

    heads: int
    head_width: int
    segment: int
    memory: int = 1

    @property
    def reach(self) -> int:
        """Distances there are, that of a token from itself included."""
        return (self.memory + 1) * self.segment

    def build(self, width: int) -> TransformerXL:
        return TransformerXL(width, self)


class TransformerXL(nn.Module):
    """x [b, t, width] -> [b, t, width]. Its state is a `KeyValuePool`."""

    grid = 1
    causal = True
    same_input = (("query", "key", "value"),)
    vector_parameters = ("content_bias", "distance_bias")

    def __init__(self, width: int, plan: TransformerXLPlan):
        super().__init__()
        self.plan, self.width = plan, width
        inner = plan.heads * plan.head_width
        self.query, self.key, self.value = (Linear(width, inner, False) for _ in range(3))
        self.output = Linear(inner, width, False)
        self.distance = Linear(width, inner, False)
        self.content_bias = nn.Parameter(torch.zeros(plan.heads, plan.head_width))
        self.distance_bias = nn.Parameter(torch.zeros(plan.heads, plan.head_width))
        self.scale = 1 / math.sqrt(plan.head_width)

    def new_pool(self, slots: int, tokens: int, storage: Storage) -> PiecewisePool:
        return PiecewisePool.of(storage, slots, self.plan.heads, tokens, self.plan.head_width)

    def forward(self, x_btd: Tensor, step: Step, state: KeyValuePool | None = None) -> Tensor:
        q, k, v = together(x_btd, step, (self.query, self.key, self.value))
        encoded = sinusoids(self.plan.reach, self.width, x_btd.device).to(x_btd.dtype)
        r_hrd = self._heads(self.distance(encoded[None]))[0]
        if state is not None:
            state.write(step, self._heads(k), self._heads(v))
            mixed = from_memory(self._heads(q), step, state, functools.partial(self._gathered, r_hrd)).transpose(1, 2).flatten(2)
        else:
            stopped = (k, v)
            if torch.is_grad_enabled() and self.plan.memory:
                stopped = (self.key(x_btd.detach(), step), self.value(x_btd.detach(), step))
            every = torch.cat((q, k, v, *stopped), -1)
            mixed, _ = each_document(every, step, {}, lambda rows, lengths, memory: self._in_segments(rows, r_hrd, memory))
        return self.output(mixed, step)

    def _heads(self, x_btd: Tensor) -> Tensor:
        return x_btd.unflatten(-1, (self.plan.heads, self.plan.head_width)).transpose(1, 2)

    def _in_segments(self, x_btd: Tensor, r_hrd: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Texts by themselves, all segments at once: each with the keys of those before it, whose gradient is stopped."""
        plan, time = self.plan, x_btd.shape[1]
        x = F.pad(x_btd, (0, 0, 0, -time % plan.segment)).unflatten(1, (-1, plan.segment))  # [b, n, a, 5 inner]
        q, k, v, k_stopped, v_stopped = (
            part.unflatten(-1, (plan.heads, plan.head_width)).movedim(3, 1) for part in x.chunk(5, -1)
        )  # [b, h, n, a, d]
        segments, size = q.shape[2], plan.segment

        def seen(own: Tensor, stopped: Tensor) -> Tensor:
            before = [F.pad(stopped, (0, 0, 0, 0, back, 0))[:, :, :segments] for back in range(plan.memory, 0, -1)]
            return torch.cat((*before, own), -2)  # [b, h, n, s, d]

        query, key = torch.arange(size, device=x.device), torch.arange(plan.reach, device=x.device)
        distance = query[:, None] + plan.memory * size - key  # [a, s]
        place = torch.arange(segments, device=x.device)[:, None] * size - plan.memory * size + key  # [n, s]
        allowed = (distance >= 0) & (place >= 0)[:, None]
        mixed = self._attend(q, seen(k, k_stopped), seen(v, v_stopped), r_hrd[:, None], distance, allowed)
        return mixed.movedim(1, 3).flatten(1, 2).flatten(2)[:, :time], memory

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, r: Tensor, distance: Tensor, allowed: Tensor) -> Tensor:
        """The equation: q [b, h, .., a, d], k and v [b, h, .., s, d], r [h, .., r, d]; distance and allowed broadcast to [.., a, s]."""
        shape = (-1, *[1] * (q.dim() - 3), self.plan.head_width)
        content = (q + self.content_bias.view(shape).to(q.dtype)) @ k.transpose(-1, -2)
        by_distance = (q + self.distance_bias.view(shape).to(q.dtype)) @ r.transpose(-1, -2)
        index = distance.clamp(0, self.plan.reach - 1).expand(content.shape)
        scores = (content + by_distance.gather(-1, index)).float() * self.scale
        weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
        return weights.to(v.dtype) @ v

    def _gathered(self, r_hrd: Tensor, q_bhtd: Tensor, places_bt: Tensor, k_bhsd: Tensor, v_bhsd: Tensor) -> Tensor:
        """Of the memory, the keys of each query's own segment and of those before it."""
        plan = self.plan
        first = (places_bt // plan.segment - plan.memory) * plan.segment
        index = first[..., None] + torch.arange(plan.reach, device=places_bt.device)  # [b, t, s]
        distance = places_bt[..., None] - index
        k, v = (gathered(index, x, q_bhtd.dtype) for x in (k_bhsd, v_bhsd))
        allowed = (distance >= 0) & (index >= 0)
        mixed = self._attend(q_bhtd[..., None, :], k, v, r_hrd[:, None], distance[:, None, :, None], allowed[:, None, :, None])
        return mixed[..., 0, :]

    def flops(self, time: int) -> int:
        """Forward operations over a text of `time` tokens; distances are encoded once."""
        plan, inner = self.plan, self.plan.heads * self.plan.head_width
        tokens = torch.arange(time)
        seen = tokens + 1 - (tokens // plan.segment - plan.memory).clamp(min=0) * plan.segment
        return 2 * inner * (4 * self.width * time + self.width * plan.reach + 2 * int(seen.sum()) + plan.reach * time)


def sinusoids(count: int, width: int, device: torch.device) -> Tensor:
    """Encodings of the distances 0..count-1: float32 [count, width], sines in the first half and cosines in the second."""
    half = -(-width // 2)
    rates = 10000.0 ** (-torch.arange(half, device=device) / half)
    angles = torch.arange(count, device=device)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), -1)[:, :width]


class TransformerXLLever(PartLever):
    """Transformer-XL's attention as a new decoder's mixer."""

    name: ClassVar[str] = "transformer_xl"
    idea: ClassVar[str] = (
        "A text is read in segments; each also attends to the segment before it, kept without gradient, and positions are distances. "
        "Through layers a token hears further back than any training step reached."
    )
    equation: ClassVar[str] = "score = (q_i + u) . k_j + (q_i + v) . W_R r_{i-j};  k_j = W_K SG(x_j) in earlier segments"
    paper: ClassVar[str] = "arXiv:1901.02860"
    cost: ClassVar[str] = (
        "6 (memory + 1) segment width operations a token besides its maps; memory 2 width numbers a token, of which a few segments are read"
    )
    identity: ClassVar[Any] = "there is none: its positions are distances that are learned"
    place: ClassVar[Any] = "mixer"
    main: ClassVar[str | None] = "segment"

    heads: int | None = Field(None, ge=1, le=4096, description="heads; unset: one for 64 of the width, at least 2")
    segment: int = Field(64, ge=1, le=65_536, description="tokens of a segment")
    memory: int = Field(1, ge=0, le=64, description="segments before a token's own that it sees; 0 leaves each segment to itself")

    def plan(self, decoder: Decoder, layer: int) -> TransformerXLPlan:
        heads = self.heads or fitting_heads(decoder.width)
        if decoder.width % heads:
            raise RecipeError(f"`transformer_xl`: {heads} heads do not divide the width {decoder.width}", do="Change one of them.")
        if self.segment > decoder.context:
            raise RecipeError(
                f"`transformer_xl`: a segment of {self.segment} tokens is longer than the context of {decoder.context}",
                do="Make it shorter, or use `attention`.",
            )
        return TransformerXLPlan(heads, decoder.width // heads, self.segment, self.memory)
