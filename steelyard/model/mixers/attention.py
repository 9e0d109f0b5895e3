"""Attention: every token takes a weighted mean of values, weighted by how well its query meets their keys.

softmax(Q K^T * scale) V, with grouped queries (arXiv:2305.13245), rotary positions, sliding windows (arXiv:2004.05150),
normalised queries and keys (arXiv:2302.05442) and soft-capped scores (Gemma 2, arXiv:2408.00118).
Cost: time O(t * s * width), memory O(s * key_value_heads * head_width) per slot.

Shapes: b rows, t time, s keys, h query heads, k key/value heads, d head width.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from steelyard.core.errors import RecipeError
from steelyard.model.fixed_step import FixedStep
from steelyard.model.linears.joined import together
from steelyard.model.linears.linear import Linear
from steelyard.model.mixers.rotary import Rotary
from steelyard.model.mixers.tiles import LONGEST, attend_in_tiles
from steelyard.model.norms import NormPlan
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.state import KeyValuePool, Storage
from steelyard.model.step import Step

QUERY_TILE = 8
"""Matrix libraries treat the last few rows of a product apart, with another order of summation; deterministic calls therefore fill
queries up to multiples of this (measured with MKL on AVX-512: 4 is enough; `tests/generate/test_engine.py` watches it)."""


@dataclass(frozen=True)
class AttentionPlan:
    """Settings of one attention layer.

    Attributes:
        heads, key_value_heads, head_width: as in the shapes above.
        bias: biases on query, key and value maps.
        output_bias: bias on the output map.
        rotary: positions, or None (learned or absent positions).
        window: tokens a query may look back, itself included; None = all.
        scale: factor on scores; None = 1 / sqrt(head_width).
        softcap: scores become softcap * tanh(scores / softcap); None = off.
        query_key_norm: norm of queries and keys per head, over the full width, or None.
        norm: the norm's plan where `query_key_norm` is set.
        output_norm: norm of what the heads found, before the output map (BitNet), or None.
        causal: whether later tokens are hidden.
    """

    heads: int
    key_value_heads: int
    head_width: int
    bias: bool = False
    output_bias: bool = False
    rotary: Rotary | None = None
    window: int | None = None
    scale: float | None = None
    softcap: float | None = None
    query_key_norm: Literal["head", "full"] | None = None
    norm: NormPlan = NormPlan()
    causal: bool = True
    output_norm: NormPlan | None = None

    def build(self, width: int) -> Attention:
        return Attention(width, self)


class Attention(nn.Module):
    """x [b, t, width] -> [b, t, width]. Its state is a `KeyValuePool`."""

    grid = 1
    same_input = (("query", "key", "value"),)

    def __init__(self, width: int, plan: AttentionPlan):
        super().__init__()
        self.plan = plan
        self.causal = plan.causal
        inner, outer = plan.heads * plan.head_width, plan.key_value_heads * plan.head_width
        self.query = Linear(width, inner, plan.bias)
        self.key = Linear(width, outer, plan.bias)
        self.value = Linear(width, outer, plan.bias)
        self.output = Linear(inner, width, plan.output_bias)
        if plan.query_key_norm == "head":
            self.query_norm, self.key_norm = plan.norm.build(plan.head_width), plan.norm.build(plan.head_width)
        elif plan.query_key_norm == "full":
            self.query_norm, self.key_norm = plan.norm.build(inner), plan.norm.build(outer)
        else:
            self.query_norm = self.key_norm = None
        self.output_norm = plan.output_norm.build(inner) if plan.output_norm else None
        self.scale = plan.scale if plan.scale is not None else 1 / math.sqrt(plan.head_width)

    def new_pool(self, slots: int, tokens: int, storage: Storage) -> KeyValuePool:
        return KeyValuePool.of(storage, slots, self.plan.key_value_heads, tokens, self.plan.head_width)

    def forward(self, x_btd: Tensor, step: Step, state: KeyValuePool | None = None) -> Tensor:
        plan = self.plan
        q, k, v = together(x_btd, step, (self.query, self.key, self.value))
        if plan.query_key_norm == "full":
            q, k = self.query_norm(q), self.key_norm(k)  # type: ignore[misc]
        q = q.unflatten(-1, (plan.heads, plan.head_width)).transpose(1, 2)
        k = k.unflatten(-1, (plan.key_value_heads, plan.head_width)).transpose(1, 2)
        v = v.unflatten(-1, (plan.key_value_heads, plan.head_width)).transpose(1, 2)
        if plan.query_key_norm == "head":
            q, k = self.query_norm(q), self.key_norm(k)  # type: ignore[misc]
        if plan.rotary is not None:
            q, k = plan.rotary.apply(q, step), plan.rotary.apply(k, step)
        if state is None:
            mixed = self._attend(q, k, v, step, slice(None))
        else:
            state.write(step, k, v)
            mixed = self._attend_cached(q, step, state)
        mixed = mixed.transpose(1, 2).flatten(2)
        return self.output(mixed if self.output_norm is None else self.output_norm(mixed), step)

    def _attend_cached(self, q_bhtd: Tensor, step: Step, state: KeyValuePool) -> Tensor:
        mixed = None
        for rows, extent in step.extents:
            whole = isinstance(rows, slice)
            for times, keys, values in state.views(step, rows, extent):
                if whole and times == slice(None):
                    return self._attend(q_bhtd, keys, values, step, rows)
                mixed = torch.empty_like(q_bhtd) if mixed is None else mixed
                q = (q_bhtd if whole else q_bhtd[list(rows)])[:, :, times]
                mixed[rows if whole else list(rows), :, times] = self._attend(q, keys, values, step, rows, times)
        assert mixed is not None
        return mixed

    def _attend(
        self, q_bhtd: Tensor, k_bksd: Tensor, v_bksd: Tensor, step: Step, rows: slice | tuple[int, ...], times: slice = slice(None)
    ) -> Tensor:
        plan = self.plan
        if step.deterministic or step.readable or plan.softcap is not None:
            return self._attend_readably(q_bhtd, k_bksd, v_bksd, step, rows, times)
        # On CPUs the fused kernel's bfloat16 takes three times as long as float32 (forward and backward 36 against 13 ms for 4 rows of
        # 160 tokens and 9 heads, PyTorch 2.13), so narrow queries go through it in float32; autocast would narrow them again.
        widen = q_bhtd.device.type == "cpu" and q_bhtd.dtype in (torch.bfloat16, torch.float16)
        q = q_bhtd.float() if widen else q_bhtd
        k, v = k_bksd.to(q.dtype), v_bksd.to(q.dtype)
        grouped = plan.heads != plan.key_value_heads
        if grouped and isinstance(step, FixedStep):
            return self._attend_stacked(q, k, v, step).to(q_bhtd.dtype)
        plain = not step.slots and step.segments is None and plan.window is None and min(step.lengths) == step.time
        if widen and plain and plan.causal and step.time <= LONGEST and torch.compiler.is_compiling():
            groups = plan.heads // plan.key_value_heads
            k, v = (x.to(q_bhtd.dtype).repeat_interleave(groups, 1) if grouped else x.to(q_bhtd.dtype) for x in (k_bksd, v_bksd))
            return attend_in_tiles(q_bhtd, k, v, self.scale)
        mask = None if plain else step.mask(rows, k.shape[2], causal=plan.causal, window=plan.window)[:, :, times]
        with torch.autocast("cpu", enabled=False) if widen else contextlib.nullcontext():
            mixed = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=plain and plan.causal, scale=self.scale, enable_gqa=grouped
            )
        return mixed.to(q_bhtd.dtype)

    def _attend_stacked(self, q_bhtd: Tensor, k_bksd: Tensor, v_bksd: Tensor, step: FixedStep) -> Tensor:
        """The same of one token a row: the queries of a key/value head stand in time's place, so that the fused kernels for CUDA that
        take a mask, and know no groups, need no copies of keys."""
        q = q_bhtd.reshape(len(q_bhtd), self.plan.key_value_heads, -1, self.plan.head_width)
        mask = step.mask(slice(None), k_bksd.shape[2], causal=True, window=self.plan.window).expand(-1, -1, q.shape[2], -1)
        return F.scaled_dot_product_attention(q, k_bksd, v_bksd, attn_mask=mask, scale=self.scale).reshape(q_bhtd.shape)

    def _attend_readably(
        self, q_bhtd: Tensor, k_bksd: Tensor, v_bksd: Tensor, step: Step, rows: slice | tuple[int, ...], times: slice
    ) -> Tensor:
        """The equation itself. The queries of one key/value head are stacked, so that grouped queries need no copies of keys."""
        plan = self.plan
        b, h, t, d = q_bhtd.shape
        groups = h // plan.key_value_heads
        q = q_bhtd.reshape(b, plan.key_value_heads, groups * t, d)
        mask = step.mask(rows, k_bksd.shape[2], causal=plan.causal, window=plan.window)[:, :, times].repeat(1, 1, groups, 1)
        padding = -(groups * t) % QUERY_TILE if step.deterministic else 0
        if padding:
            q, mask = F.pad(q, (0, 0, 0, padding)), F.pad(mask, (0, 0, 0, padding), value=True)
        scores = (q.float() @ k_bksd.float().transpose(-1, -2)) * self.scale
        if plan.softcap is not None:
            scores = plan.softcap * torch.tanh(scores / plan.softcap)
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        mixed = (weights @ v_bksd.float())[:, :, : groups * t]
        return mixed.reshape(b, h, t, d).to(q_bhtd.dtype)

    def mixing_flops(self, time: int) -> int:
        """Forward operations of scores and sums over a text of `time` tokens, besides its maps'."""
        window = self.plan.window or time
        seen = (
            min(window, time) * (time - min(window, time)) + min(window, time) * (min(window, time) + 1) // 2
            if self.causal
            else time * time
        )
        return 4 * seen * self.plan.heads * self.plan.head_width


class AttentionLever(PartLever):
    """Attention as a new decoder's mixer."""

    name: ClassVar[str] = "attention"
    idea: ClassVar[str] = (
        "Every token looks at all earlier ones and takes a mean of their values, weighted by how well its query meets their keys. "
        "It recalls anything in the context, at a cost that grows with the square of the text's length and a memory that grows with it."
    )
    equation: ClassVar[str] = "y = softmax(Q K^T / sqrt(d)) V"
    paper: ClassVar[str] = "arXiv:1706.03762; grouped queries arXiv:2305.13245, rotary positions arXiv:2104.09864"
    cost: ClassVar[str] = (
        "4 t width operations a token after t tokens besides its maps; memory 2 key_value_heads head_width numbers a token"
    )
    identity: ClassVar[Any] = "there is none: it is what new decoders have unless they say otherwise"
    place: ClassVar[Any] = "mixer"

    heads: int | None = Field(None, ge=1, le=4096, description="query heads; unset: one for 64 of the width, at least 2")
    key_value_heads: int | None = Field(None, ge=1, le=4096, description="heads of keys and values; unset: as many as query heads")
    head_width: int | None = Field(None, ge=1, le=4096, description="of one head; unset: width / heads")
    positions: Literal["rotary", "none"] = Field("rotary", description="how positions are told; none where the inputs tell them")
    base: float = Field(10000.0, gt=1, description="slowest wavelength of rotary positions, in tokens / 2 pi")
    window: int | None = Field(None, ge=1, description="tokens a query may look back, itself included; unset: all")
    output_norm: bool = Field(False, description="normalise what the heads found before the output map (BitNet)")

    def plan(self, decoder: Decoder, layer: int) -> AttentionPlan:
        heads = self.heads or fitting_heads(decoder.width)
        head_width = self.head_width or decoder.width // heads
        if self.head_width is None and decoder.width % heads:
            raise RecipeError(
                f"`attention`: {heads} heads do not divide the width {decoder.width}", do="Change one of them, or set `head_width`."
            )
        key_value_heads = self.key_value_heads or heads
        if heads % key_value_heads:
            raise RecipeError(f"`attention`: {key_value_heads} key/value heads do not divide {heads} heads", do="Change one of them.")
        if self.positions == "rotary" and head_width % 2:
            raise RecipeError(f"`attention`: rotary positions turn pairs, but a head is {head_width} wide", do="Make it even.")
        if self.window is not None and self.window > decoder.context:
            raise RecipeError(
                f"`attention`: the window of {self.window} tokens is longer than the context of {decoder.context}", do="Leave `window` out."
            )
        rotary = Rotary(head_width, self.base) if self.positions == "rotary" else None
        norm = decoder.norm_plan if self.output_norm else None
        return AttentionPlan(heads, key_value_heads, head_width, rotary=rotary, window=self.window, output_norm=norm)


def fitting_heads(width: int) -> int:
    """The number of heads that makes them about 64 wide, a divisor of the width: at least 2 where the width is even."""
    wished = max(2 if width % 4 == 0 else 1, round(width / 64))
    return next(heads for heads in range(wished, 0, -1) if width % heads == 0 and (width // heads) % 2 == 0 or heads == 1)
