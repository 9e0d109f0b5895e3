"""RWKV's channel mix: a channel that hears the token before, too.

y = sigmoid(W_r (x_t m_r + x_{t-1} (1 - m_r))) * W_down relu(W_up (x_t m_k + x_{t-1} (1 - m_k)))^2        (arXiv:2305.13048, eq. 19-21)

Version 7 leaves the gate out (arXiv:2503.14456, section 4.2). Cost: 2 width (2 hidden + width) operations a token; it remembers the last
token's input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from steelyard.model.activations import activate
from steelyard.model.linears.linear import Linear
from steelyard.model.mixers.recurrence import Recurrence, earlier, last_inputs
from steelyard.model.mixers.rwkv import channel_shares, layer_shares, shifted
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.recurrent_state import Memory
from steelyard.model.step import Step


@dataclass(frozen=True)
class RwkvChannelPlan:
    """Settings of one channel mix.

    Attributes:
        hidden: the inner width.
        receptance: whether a gate decides what passes (version 4).
        layer, depth: the block's place among all; only new weights are drawn after it.
    """

    hidden: int
    receptance: bool = True
    layer: int = field(default=0, compare=False)
    depth: int = field(default=1, compare=False)

    def build(self, width: int) -> RwkvChannel:
        return RwkvChannel(width, self)


class RwkvChannel(Recurrence):
    """x [b, t, width] -> [b, t, width]."""

    vector_parameters = ("mix_key", "mix_receptance")

    def __init__(self, width: int, plan: RwkvChannelPlan):
        super().__init__()
        self.plan, self.width = plan, width
        self.mix_key = nn.Parameter(torch.full((1, 1, width), 0.5))
        self.mix_receptance = nn.Parameter(torch.full((1, 1, width), 0.5)) if plan.receptance else None
        self.up, self.down = Linear(width, plan.hidden, False), Linear(plan.hidden, width, False)
        self.receptance = Linear(width, width, False) if plan.receptance else None

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> list[nn.Parameter]:
        """Sets the shares the paper starts from (appendix E), and returns them."""
        rest = layer_shares(self.plan.layer, self.plan.depth)[1]
        shares = [share for share in (self.mix_key, self.mix_receptance) if share is not None]
        for share in shares:
            share.copy_(channel_shares(self.width) ** rest)
        return shares

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        return {"input": (1, self.width)}

    def run(self, x_btd: Tensor, step: Step, memory: Memory) -> tuple[Tensor, Memory]:
        before = earlier(x_btd, memory["input"], 1, step)
        y = self.down(F.relu(self.up(shifted(x_btd, before, self.mix_key), step)).square(), step)
        if self.receptance is not None and self.mix_receptance is not None:
            heard = self.receptance(shifted(x_btd, before, self.mix_receptance), step)
            y = activate(torch.sigmoid, heard, step.deterministic) * y
        return y, {"input": last_inputs(memory["input"], x_btd, step)}


class RwkvChannelLever(PartLever):
    """RWKV's channel mix as a new decoder's channel."""

    name: ClassVar[str] = "rwkv_channel"
    idea: ClassVar[str] = (
        "Each token passes, mixed with the one before it, through a wide layer with a squared nonlinearity, behind a gate."
    )
    equation: ClassVar[str] = "y = sigmoid(W_r x_r) * W_down relu(W_up x_k)^2;  x_r, x_k: means of this token and the last"
    paper: ClassVar[str] = "arXiv:2305.13048; without its gate arXiv:2503.14456"
    cost: ClassVar[str] = "4 width hidden + 2 width^2 operations a token; remembers one token"
    identity: ClassVar[Any] = "there is none: another channel in the place of the gated one"
    place: ClassVar[Any] = "channel"

    hidden: int | None = Field(None, ge=1, le=2**20, description="inner width; unset: 4 times the width")
    receptance: bool = Field(True, description="a gate decides what passes, as in version 4; version 7 has none")

    def plan(self, decoder: Decoder, layer: int) -> RwkvChannelPlan:
        return RwkvChannelPlan(self.hidden or 4 * decoder.width, self.receptance, layer, decoder.depth)
