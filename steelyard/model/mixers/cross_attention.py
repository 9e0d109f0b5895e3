"""Cross-attention: every token of one text takes a weighted mean of what another trunk made of a second text.

y = softmax(Q K^T / sqrt(d)) V,  Q = W_Q x,  K = W_K m,  V = W_V m;  m: the source as its encoder left it (arXiv:1706.03762, 3.2.3;
the idea, with another score: arXiv:1409.0473). With `sees` "last" there is one key, the source's last vector, and so no choice: the
fixed-size summary of the first sequence-to-sequence models (arXiv:1409.3215).
Cost: O(t s width), and 4 width^2 multiply-adds for each token of the source, once a text; memory: keys and values of the source.

Shapes: b rows, t time, s source time, h heads, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from steelyard.core.errors import RecipeError, UnsupportedError
from steelyard.model.linears.linear import Linear
from steelyard.model.mixers.attention import fitting_heads
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.step import Step

SIDE = "encoded"
"""Under this name a call's side inputs hold the source of each row."""


@dataclass(frozen=True)
class Encoded:
    """Sources as their encoder left them, one a row of the call.

    Attributes:
        hidden: [b, s, width].
        lengths: tokens of each source; the rest is padding.
        kept: keys and values each layer made of them, so that decoding makes them once.
    """

    hidden: Tensor
    lengths: tuple[int, ...]
    kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class CrossAttentionPlan:
    """`heads` of `head_width`, over sources of width `source`; `sees` all of a source or its last vector."""

    heads: int
    head_width: int
    source: int
    sees: Literal["all", "last"] = "all"

    def build(self, width: int) -> CrossAttention:
        return CrossAttention(width, self)


class CrossAttention(nn.Module):
    """x [b, t, width] -> [b, t, width]. What it remembers of a text is the source, which comes with every call."""

    grid = 1
    causal = True

    def __init__(self, width: int, plan: CrossAttentionPlan):
        super().__init__()
        self.plan = plan
        inner = plan.heads * plan.head_width
        self.query = Linear(width, inner)
        self.key, self.value = Linear(plan.source, inner), Linear(plan.source, inner)
        self.output = Linear(inner, width)

    def forward(self, x_btd: Tensor, step: Step) -> Tensor:
        encoded = step.side.get(SIDE)
        if not isinstance(encoded, Encoded):
            raise UnsupportedError("cross-attention without a source", do="Call the decoder through its EncoderDecoder.")
        if step.begins is not None:
            raise UnsupportedError("cross-attention reads one text a row, these lines hold several", do="Do not pack pairs.")
        q = self._heads(self.query(x_btd, step))
        k, v = self._of_source(encoded, step)
        mixed = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), attn_mask=self._seen(encoded))
        return self.output(mixed.transpose(1, 2).flatten(2), step)

    def _heads(self, x_btd: Tensor) -> Tensor:
        return x_btd.unflatten(-1, (self.plan.heads, self.plan.head_width)).transpose(1, 2)

    def _of_source(self, encoded: Encoded, step: Step) -> tuple[Tensor, Tensor]:
        if (found := encoded.kept.get(id(self))) is not None:
            return found
        made = self._heads(self.key(encoded.hidden, step)), self._heads(self.value(encoded.hidden, step))
        if not torch.is_grad_enabled():
            encoded.kept[id(self)] = made
        return made

    def _seen(self, encoded: Encoded) -> Tensor:
        """Which vectors of a source are looked at: bool [b, 1, 1, s]."""
        ends = torch.tensor(encoded.lengths, device=encoded.hidden.device)[:, None]
        place = torch.arange(encoded.hidden.shape[1], device=ends.device)
        seen = place < ends if self.plan.sees == "all" else place == ends - 1
        return seen[:, None, None]

    def mixing_flops(self, time: int) -> int:
        """Forward operations of scores and sums over a text of `time` tokens and a source as long, besides its maps'."""
        return 4 * time * (time if self.plan.sees == "all" else 1) * self.plan.heads * self.plan.head_width


class CrossAttentionLever(PartLever):
    """Cross-attention in the decoder of an encoder-decoder; a decoder by itself refuses it."""

    name: ClassVar[str] = "cross_attention"
    idea: ClassVar[str] = (
        "A decoder looks at what an encoder made of another text and takes from it what fits its own next word. "
        "It is how sequence-to-sequence models stopped pressing a whole sentence into one vector."
    )
    equation: ClassVar[str] = "y = softmax((W_Q x) (W_K m)^T / sqrt(d)) W_V m,  m the encoded source"
    paper: ClassVar[str] = "arXiv:1706.03762; arXiv:1409.0473; without a choice arXiv:1409.3215"
    cost: ClassVar[str] = "4 s width operations a token besides its maps; memory 2 width numbers for each of the source's s tokens"
    identity: ClassVar[Any] = "there is none: it brings in another text"
    place: ClassVar[Any] = "mixer"

    heads: int | None = Field(None, ge=1, le=4096, description="heads; unset: one for 64 of the width, at least 2")
    sees: Literal["all", "last"] = Field("all", description="all of the source, or its last vector alone")

    def plan(self, decoder: Decoder, layer: int) -> CrossAttentionPlan:
        raise RecipeError(
            "`cross_attention` looks at a second text, which a decoder by itself does not have",
            do="Use `attention`; cross-attention is for the decoder of an encoder-decoder (`model/encoder_decoder.py`).",
        )

    def beside(self, decoder: Decoder, source: int) -> CrossAttentionPlan:
        """The plan in a decoder whose encoder's vectors are `source` wide.

        Raises:
            RecipeError: the heads do not divide the width.
        """
        heads = self.heads or fitting_heads(decoder.width)
        if decoder.width % heads:
            raise RecipeError(f"`cross_attention`: {heads} heads do not divide the width {decoder.width}", do="Change one of them.")
        return CrossAttentionPlan(heads, decoder.width // heads, source, self.sees)
