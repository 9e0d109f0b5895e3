"""Sparse attention: each token sees a window of its neighbours, every so-manieth token before that, and the first tokens of its text.

sees(i, j) = i - j < window  or  i - j in {stride, 2 stride, .., strided stride}  or  j < globals        (for j <= i)
y_i = softmax over the j that i sees of (q_i . k_j / sqrt(d)) v_j

Windows and global tokens: arXiv:2004.05150, arXiv:2007.14062; strides: arXiv:1904.10509, dilated and of fixed number as in
arXiv:2004.05150, so that a token's keys do not grow in number with its text. Whole texts are computed in blocks: a window of w keys is
two blocks of w keys for each block of w queries; a stride is a window over every stride-th token. Nothing of size t x t is made.
Cost: O(t (window + strided + globals) width); a key and a value of every token are remembered, of which each new token reads as few.
Through n layers a token hears n (window - 1) tokens back without strides.

Shapes: b rows, h heads, t time, s keys, d head width, n blocks, w a block's tokens, m keys of one query.
"""

from __future__ import annotations

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
from steelyard.model.mixers.own_keys import from_memory, gathered
from steelyard.model.mixers.rotary import Rotary
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.state import KeyValuePool, Storage
from steelyard.model.step import Step


@dataclass(frozen=True)
class SparseAttentionPlan:
    """`heads` of `head_width`; `window`, `stride`, `strided` and `globals` say which keys a query sees (see the module's docstring)."""

    heads: int
    head_width: int
    window: int
    stride: int = 1
    strided: int = 0
    globals: int = 0
    rotary: Rotary | None = None

    def sees(self, distance: Tensor, place: Tensor) -> Tensor:
        """Whether a query sees keys `distance` tokens before it that stand at `place` of its text."""
        return (distance >= 0) & (self._near(distance) | self._striding(distance) | (place < self.globals))

    def _near(self, distance: Tensor) -> Tensor:
        return (distance >= 0) & (distance < self.window)

    def _striding(self, distance: Tensor) -> Tensor:
        return (distance > 0) & (distance % self.stride == 0) & (distance <= self.strided * self.stride)

    def near(self, distance: Tensor, place: Tensor) -> Tensor:
        """The keys of the window; `further` and `first` are those of the other two kinds that no earlier kind has."""
        return self._near(distance)

    def further(self, distance: Tensor, place: Tensor) -> Tensor:
        return self._striding(distance) & ~self._near(distance)

    def first(self, distance: Tensor, place: Tensor) -> Tensor:
        return self.sees(distance, place) & ~self._near(distance) & ~self._striding(distance)

    def build(self, width: int) -> SparseAttention:
        return SparseAttention(width, self)


class SparseAttention(nn.Module):
    """x [b, t, width] -> [b, t, width]. Its state is a `KeyValuePool`."""

    grid = 1
    causal = True
    same_input = (("query", "key", "value"),)

    def __init__(self, width: int, plan: SparseAttentionPlan):
        super().__init__()
        self.plan = plan
        inner = plan.heads * plan.head_width
        self.query, self.key, self.value = (Linear(width, inner, False) for _ in range(3))
        self.output = Linear(inner, width, False)
        self.scale = 1 / math.sqrt(plan.head_width)

    def new_pool(self, slots: int, tokens: int, storage: Storage) -> PiecewisePool:
        return PiecewisePool.of(storage, slots, self.plan.heads, tokens, self.plan.head_width)

    def forward(self, x_btd: Tensor, step: Step, state: KeyValuePool | None = None) -> Tensor:
        plan = self.plan
        q, k, v = (
            part.unflatten(-1, (plan.heads, plan.head_width)).transpose(1, 2)
            for part in together(x_btd, step, (self.query, self.key, self.value))
        )
        if plan.rotary is not None:
            q, k = plan.rotary.apply(q, step), plan.rotary.apply(k, step)
        if state is not None:
            state.write(step, k, v)
            mixed = from_memory(q, step, state, self._gathered)
        elif step.readable:
            mixed = self._densely(q, k, v, step)
        else:
            mixed = self._in_blocks(q, k, v, step)
        return self.output(mixed.transpose(1, 2).flatten(2), step)

    def _densely(self, q_bhtd: Tensor, k_bhtd: Tensor, v_bhtd: Tensor, step: Step) -> Tensor:
        """The equation itself: all scores, those unseen masked."""
        places = step.positions.expand(step.rows, -1)
        time = torch.arange(step.time, device=step.device)
        seen = self.plan.sees((time[:, None] - time)[None], places[:, None]) & _one_document(step)
        own = torch.eye(step.time, dtype=torch.bool, device=step.device)  # padding sees itself, so that no softmax is over nothing
        scores = (q_bhtd @ k_bhtd.transpose(-1, -2)).float() * self.scale
        weights = scores.masked_fill(~(seen | own)[:, None], float("-inf")).softmax(-1)
        return weights.to(v_bhtd.dtype) @ v_bhtd

    def _in_blocks(self, q_bhtd: Tensor, k_bhtd: Tensor, v_bhtd: Tensor, step: Step) -> Tensor:
        """As `_densely`, without what is not seen."""
        plan, time = self.plan, step.time
        document = _documents(step)
        line = torch.arange(time, device=step.device).expand(step.rows, -1)
        places = step.positions.expand(step.rows, -1)
        told = torch.stack((line, document, places), -1)[:, None]  # [b, 1, t, 3]

        def allowed(rule, query: Tensor, key: Tensor) -> Tensor:
            distance = query[..., :, None, 0] - key[..., None, :, 0]
            return rule(distance, key[..., None, :, 2]) & (query[..., :, None, 1] == key[..., None, :, 1])

        near = Band(min(plan.window, time), 1)
        bands = [(near, plan.near)]
        if plan.strided and plan.strided * plan.stride >= plan.window and plan.stride < time:
            bands.append((Band(min(plan.strided, (time - 1) // plan.stride) + 1, plan.stride), plan.further))
        parts = []
        for band, rule in bands:
            seen = allowed(rule, band.blocks(told), band.pairs(told, fill=-1))
            if rule == plan.near:
                seen = seen | band.own(seen)
            parts.append(
                (band.blocks(q_bhtd) @ band.pairs(k_bhtd).transpose(-1, -2)).float().mul(self.scale).masked_fill(~seen, float("-inf"))
            )
            parts[-1] = band.flat(parts[-1], time)
        if plan.globals:
            index, there = _firsts(places, plan.globals, step)
            rows = torch.arange(step.rows, device=step.device)[:, None]
            key = told[rows, 0, index].masked_fill(~there[..., None], -1)[:, None]
            k_first, v_first = k_bhtd.transpose(1, 2)[rows, index].transpose(1, 2), v_bhtd.transpose(1, 2)[rows, index].transpose(1, 2)
            scores = (q_bhtd @ k_first.transpose(-1, -2)).float() * self.scale
            parts.append(scores.masked_fill(~(allowed(plan.first, told, key) & there[:, None, None]), float("-inf")))
        weights = torch.cat(parts, -1).softmax(-1).to(v_bhtd.dtype).split([part.shape[-1] for part in parts], -1)
        mixed = sum(band.apply(part, v_bhtd) for (band, _), part in zip(bands, weights, strict=False))
        assert isinstance(mixed, Tensor)
        return mixed + weights[-1] @ v_first if plan.globals else mixed

    def _gathered(self, q_bhtd: Tensor, places_bt: Tensor, k_bhsd: Tensor, v_bhsd: Tensor) -> Tensor:
        """Of the memory, the keys that each query sees."""
        plan, (b, t) = self.plan, places_bt.shape
        near = places_bt[..., None] - torch.arange(plan.window, device=places_bt.device)
        strides = torch.arange(1, plan.strided + 1, device=places_bt.device) * plan.stride
        further = places_bt[..., None] - strides[strides >= plan.window]
        first = torch.arange(plan.globals, device=places_bt.device).expand(b, t, -1)
        index = torch.cat((near, further, first), -1)  # [b, t, m]
        seen = index >= 0
        seen[..., index.shape[-1] - plan.globals :] &= plan.first(places_bt[..., None] - first, first)
        k, v = (gathered(index, x, q_bhtd.dtype) for x in (k_bhsd, v_bhsd))
        scores = (q_bhtd[:, :, :, None] @ k.transpose(-1, -2)).float() * self.scale  # [b, h, t, 1, m]
        weights = scores.masked_fill(~seen[:, None, :, None], float("-inf")).softmax(-1).to(v.dtype)
        return (weights @ v)[:, :, :, 0]

    def mixing_flops(self, time: int) -> int:
        """Forward operations of scores and sums besides its maps'; keys of two kinds count twice."""
        plan = self.plan
        place = torch.arange(time, dtype=torch.float64)
        seen = (place + 1).clamp(max=plan.window) + (place - plan.window + 1).clamp(0, plan.globals)
        seen = seen + ((place // plan.stride).clamp(max=plan.strided) - (plan.window - 1) // plan.stride).clamp(min=0)
        return int(seen.sum()) * 4 * plan.heads * plan.head_width


@dataclass(frozen=True)
class Band:
    """Queries and keys up to `width - 1` tokens apart, counting every `stride`-th token, cut into blocks of `width`.

    Blocks are [b, h, stride, n, width, *]: within each of the `stride` interleaved rows, block n of queries meets the keys of blocks
    n - 1 and n.
    """

    width: int
    stride: int

    def blocks(self, x_bhtd: Tensor, fill: float = 0) -> Tensor:
        block = self.width * self.stride
        x = F.pad(x_bhtd, (0, 0, 0, -x_bhtd.shape[2] % block), value=fill)
        return x.unflatten(2, (-1, self.width, self.stride)).movedim(4, 2)

    def pairs(self, x_bhtd: Tensor, fill: float = 0) -> Tensor:
        """Each block of keys with the one before it: [b, h, stride, n, 2 width, d]."""
        x = self.blocks(x_bhtd, fill)
        return torch.cat((F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[:, :, :, :-1], x), -2)

    def own(self, seen: Tensor) -> Tensor:
        """Each query's own key."""
        return torch.eye(self.width, dtype=torch.bool, device=seen.device).repeat(1, 2) & (
            torch.arange(2 * self.width, device=seen.device) >= self.width
        )

    def flat(self, x: Tensor, time: int) -> Tensor:
        """Blocks of queries as [b, h, t, *]."""
        return x.movedim(2, 4).flatten(2, 4)[:, :, :time]

    def apply(self, weights_bhtm: Tensor, v_bhtd: Tensor) -> Tensor:
        """Sums of values by the weights of this band."""
        return self.flat(self.blocks(weights_bhtm) @ self.pairs(v_bhtd), v_bhtd.shape[2])


def _documents(step: Step) -> Tensor:
    """A number for each token's document, -2 for padding: int64 [b, t]."""
    if step.segments is not None:
        changes = torch.zeros_like(step.segments) if step.begins is None else step.begins.cumsum(1)
        return changes.masked_fill(step.segments < 0, -2)
    document = torch.zeros(step.rows, step.time, dtype=torch.int64, device=step.device)
    return document if step.real is None else document.masked_fill(~step.real, -2)


def _one_document(step: Step) -> Tensor:
    document = _documents(step)
    return document[:, :, None] == document[:, None, :]


def _firsts(places_bt: Tensor, count: int, step: Step) -> tuple[Tensor, Tensor]:
    """Where the first `count` tokens of each document stand: index [b, m], and which of these there are."""
    if step.segments is None:
        index = torch.arange(min(count, step.time), device=step.device).expand(step.rows, -1)
        return index, torch.ones_like(index, dtype=torch.bool)
    flags = places_bt < count
    most = int(flags.sum(1).max())
    index = flags.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return index, flags.gather(1, index)


class SparseAttentionLever(PartLever):
    """Sparse attention as a new decoder's mixer."""

    name: ClassVar[str] = "sparse_attention"
    idea: ClassVar[str] = (
        "Each token sees its neighbours, a few tokens further back at regular strides, and the first tokens of its text. "
        "Time grows with the text and not with its square; what is further away is heard through layers or not at all."
    )
    equation: ClassVar[str] = "softmax over j with i - j < window, or i - j = n stride for n <= strided, or j < globals"
    paper: ClassVar[str] = "arXiv:1904.10509; windows arXiv:2004.05150, global tokens arXiv:2007.14062"
    cost: ClassVar[str] = (
        "4 (window + strided + globals) width operations a token besides its maps; memory 2 width numbers a token, few of them read"
    )
    identity: ClassVar[Any] = "a window as long as the context is attention"
    place: ClassVar[Any] = "mixer"
    main: ClassVar[str | None] = "window"

    heads: int | None = Field(None, ge=1, le=4096, description="heads; unset: one for 64 of the width, at least 2")
    window: int = Field(64, ge=1, description="tokens a query may look back, itself included")
    stride: int = Field(64, ge=1, description="tokens between two that are seen beyond the window")
    strided: int = Field(8, ge=0, description="how many of these are seen")
    globals: int = Field(4, ge=0, description="first tokens of a text that all see")
    base: float = Field(10000.0, gt=1, description="slowest wavelength of rotary positions, in tokens / 2 pi")

    def plan(self, decoder: Decoder, layer: int) -> SparseAttentionPlan:
        heads = self.heads or fitting_heads(decoder.width)
        if decoder.width % heads or (decoder.width // heads) % 2:
            raise RecipeError(
                f"`sparse_attention`: {heads} heads do not cut the width {decoder.width} into even parts", do="Change one of them."
            )
        if self.window > decoder.context:
            raise RecipeError(
                f"`sparse_attention`: the window of {self.window} tokens is longer than the context of {decoder.context}",
                do="Make it shorter, or use `attention`.",
            )
        if self.strided and self.stride >= decoder.context and "stride" in self.model_fields_set:
            raise RecipeError(
                f"`sparse_attention`: no token stands {self.stride} tokens before another within the context of {decoder.context}",
                do="Make `stride` shorter, or set `strided: 0`.",
            )
        width = decoder.width // heads
        return SparseAttentionPlan(heads, width, self.window, self.stride, self.strided, self.globals, Rotary(width, self.base))
