"""Linformer: keys and values of a whole text are projected along time to a fixed number of rows, to which every query attends.

y = softmax(Q (E K)^T / sqrt(d)) (F V),  E, F in R^{k x longest}   (arXiv:2006.04768, eq. 7; a shorter text uses their first columns)

Attention matrices are nearly of low rank, so a few rows hold most of what they mix; the error falls as k grows and is nothing where
k is the length and E and F are the identity. Every row holds later tokens too: this is a mixer for encoders (that of an encoder-decoder,
say), and a decoder refuses it.
Cost: O(t k width); nothing is remembered.

Shapes: b rows, h heads, t time, d head width, k projected rows, l longest text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from steelyard.core.errors import RecipeError, UnsupportedError
from steelyard.model.linears.joined import together
from steelyard.model.linears.linear import Linear
from steelyard.model.mixers.attention import fitting_heads
from steelyard.model.mixers.documents import each_document
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.recurrent_state import Memory
from steelyard.model.step import Step


@dataclass(frozen=True)
class LinformerPlan:
    """`heads` of `head_width`; texts of at most `longest` tokens are projected to `rows`."""

    heads: int
    head_width: int
    rows: int
    longest: int

    def build(self, width: int) -> Linformer:
        return Linformer(width, self)


class Linformer(nn.Module):
    """x [b, t, width] -> [b, t, width]; no memory."""

    grid = 1
    causal = False
    same_input = (("query", "key", "value"),)

    def __init__(self, width: int, plan: LinformerPlan):
        super().__init__()
        self.plan = plan
        inner = plan.heads * plan.head_width
        self.query, self.key, self.value = (Linear(width, inner, False) for _ in range(3))
        self.output = Linear(inner, width, False)
        self.project_keys = nn.Parameter(torch.empty(plan.rows, plan.longest))
        self.project_values = nn.Parameter(torch.empty(plan.rows, plan.longest))
        if not self.project_keys.is_meta:
            self.reset(torch.Generator().manual_seed(0))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> list[nn.Parameter]:
        """Random projections, which keep scores in the mean (Johnson and Lindenstrauss)."""
        own = [self.project_keys, self.project_values]
        for parameter in own:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * self.plan.rows**-0.5)
        return own

    def forward(self, x_btd: Tensor, step: Step) -> Tensor:
        if x_btd.shape[1] > self.plan.longest:
            raise UnsupportedError(
                f"a line of {x_btd.shape[1]} tokens; this model's projections are made for {self.plan.longest} at most",
                do="Cut the text, or build the model for a longer context.",
            )
        x = torch.cat(together(x_btd, step, (self.query, self.key, self.value)), -1)
        y_btd, _ = each_document(x, step, {}, self._mix)
        return self.output(y_btd, step)

    def _mix(self, x_btd: Tensor, lengths: tuple[int, ...], memory: Memory) -> tuple[Tensor, Memory]:
        """Texts by themselves; what is padding among their keys and values is 0."""
        time = x_btd.shape[1]
        q, k, v = (part.unflatten(-1, (self.plan.heads, -1)).transpose(1, 2) for part in x_btd.chunk(3, -1))
        k = self.project_keys[:, :time].to(k.dtype) @ k
        v = self.project_values[:, :time].to(v.dtype) @ v
        mixed = F.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(self.plan.head_width))
        return mixed.transpose(1, 2).flatten(2), memory

    def mixing_flops(self, time: int) -> int:
        """Forward operations of projections, scores and sums, besides its maps'."""
        return 8 * self.plan.rows * time * self.plan.heads * self.plan.head_width


class LinformerLever(PartLever):
    """Linformer in a new encoder; a decoder refuses it."""

    name: ClassVar[str] = "linformer"
    idea: ClassVar[str] = (
        "Keys and values of a whole text are projected to a few rows that all tokens attend to, so time grows with the text alone. "
        "Each row holds later tokens too, so it suits encoders only; a decoder refuses it."
    )
    equation: ClassVar[str] = "y = softmax(Q (E K)^T / sqrt(d)) (F V),  E and F with k rows"
    paper: ClassVar[str] = "arXiv:2006.04768"
    cost: ClassVar[str] = "8 k width operations a token besides its maps; no text longer than it was built for"
    identity: ClassVar[Any] = "k as long as the text, with E and F the identity, is attention"
    place: ClassVar[Any] = "mixer"
    main: ClassVar[str | None] = "rows"
    causal: ClassVar[bool] = False

    rows: int = Field(64, ge=1, le=65_536, description="rows that keys and values are projected to")

    def plan(self, decoder: Decoder, layer: int) -> LinformerPlan:
        if self.rows > decoder.context:
            raise RecipeError(
                f"`linformer`: {self.rows} rows for texts of at most {decoder.context} tokens project nothing together",
                do=f"Ask for at most {decoder.context} `rows`, or use `attention`.",
            )
        heads = fitting_heads(decoder.width)
        return LinformerPlan(heads, decoder.width // heads, self.rows, decoder.context)
