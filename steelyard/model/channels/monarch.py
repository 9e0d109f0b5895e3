"""A channel of Monarch matrices: each map is two block-diagonal ones with a permutation between, so cost grows as width^1.5.

y = down(gelu(up(x))),  up, down = P_3 L P_2 R P_1 with R of p blocks [r, q] and L of r blocks [s, p];  p q inputs, r s outputs
(arXiv:2204.00595 for the matrices, arXiv:2310.12109, section 3.1 for their place). Every output depends on every input, through r p
numbers instead of p q r s. Cost: 2 (r inputs + p outputs) operations a token and map.

Shapes: N tokens, p, q, r, s as above.
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
from steelyard.model.activations import activate
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.step import Step

ROWS = 32
"""Tokens that deterministic calls multiply at once, always as many, so that nothing depends on how many there are."""


@dataclass(frozen=True)
class MonarchChannelPlan:
    """`hidden` is the inner width."""

    hidden: int

    def build(self, width: int) -> MonarchChannel:
        return MonarchChannel(width, self)


class MonarchMatrix(nn.Module):
    """x [..., inputs] -> [..., outputs]."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        p, r = blocks_of(inputs), blocks_of(outputs)
        self.right = nn.Parameter(torch.empty(p, r, inputs // p))
        self.left = nn.Parameter(torch.empty(r, outputs // r, p))
        if not self.left.is_meta:
            self.reset(torch.Generator().manual_seed(0))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> list[nn.Parameter]:
        """Blocks that keep the size of what goes through them."""
        own = [self.right, self.left]
        for parameter in own:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
        return own

    def forward(self, x: Tensor, step: Step | None = None) -> Tensor:
        rows = x.reshape(-1, self.inputs)
        if step is None or not step.deterministic:
            return self._product(rows).view(*x.shape[:-1], self.outputs)
        padded = F.pad(rows, (0, 0, 0, -len(rows) % ROWS))
        return torch.cat([self._product(some) for some in padded.split(ROWS)])[: len(rows)].view(*x.shape[:-1], self.outputs)

    def _product(self, x: Tensor) -> Tensor:
        """[N, inputs] -> [N, outputs]."""
        p, r, q = self.right.shape
        rows = x.reshape(-1, p, q).transpose(0, 1).to(self.right.dtype)  # [p, N, q]
        middle = (rows @ self.right.mT).permute(2, 1, 0)  # [r, N, p]
        y = middle @ self.left.mT  # [r, N, s]
        return y.permute(1, 2, 0).reshape(len(x), self.outputs).to(x.dtype)

    def dense(self) -> Tensor:
        """The matrix as one [outputs, inputs]."""
        return torch.einsum("rsp,prq->srpq", self.left, self.right).reshape(self.outputs, self.inputs)

    def flops(self, time: int) -> int:
        """Forward operations over `time` tokens."""
        return 2 * (self.right.numel() + self.left.numel()) * time


class MonarchChannel(nn.Module):
    """x [b, t, width] -> [b, t, width]; no memory."""

    def __init__(self, width: int, plan: MonarchChannelPlan):
        super().__init__()
        self.plan = plan
        self.up, self.down = MonarchMatrix(width, plan.hidden), MonarchMatrix(plan.hidden, width)

    def forward(self, x_btd: Tensor, step: Step) -> Tensor:
        return self.down(activate(F.gelu, self.up(x_btd, step), step.deterministic), step)


def blocks_of(size: int) -> int:
    """Into how many blocks a width is cut: its greatest divisor not above its root."""
    return next(count for count in range(math.isqrt(size), 0, -1) if size % count == 0)


class MonarchChannelLever(PartLever):
    """Monarch Mixer's mixing along width as a new decoder's channel."""

    name: ClassVar[str] = "monarch_channel"
    idea: ClassVar[str] = (
        "The channel's two maps are products of block-diagonal matrices with a permutation between them, so its weights and time grow "
        "with the width to the power of 1.5 and not with its square."
    )
    equation: ClassVar[str] = "y = M_2 gelu(M_1 x),  M = P L P R P with L and R block-diagonal"
    paper: ClassVar[str] = "arXiv:2310.12109; the matrices arXiv:2204.00595"
    cost: ClassVar[str] = "about 6 hidden sqrt(width) operations a token; levers on linears do not reach these maps"
    identity: ClassVar[Any] = "there is none: another channel"
    place: ClassVar[Any] = "channel"
    main: ClassVar[str | None] = "hidden"

    hidden: int | None = Field(None, ge=1, le=2**20, description="inner width; unset: four times the width")

    def plan(self, decoder: Decoder, layer: int) -> MonarchChannelPlan:
        hidden = self.hidden or 4 * decoder.width
        for what, size in (("width", decoder.width), ("hidden width", hidden)):
            if size > 3 and blocks_of(size) == 1:
                raise RecipeError(f"`monarch_channel`: the {what} {size} is a prime number and cannot be cut into blocks", do="Change it.")
        return MonarchChannelPlan(hidden)
