"""Feed-forward channel: two maps with a nonlinearity between them.

y = down(activation(up(x)))   (Transformer, arXiv:1706.03762, eq. 2). Cost: 2 * width * hidden multiply-adds a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from steelyard.model.activations import ACTIVATIONS, activate
from steelyard.model.linears.linear import Linear
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.step import Step


@dataclass(frozen=True)
class FeedForwardPlan:
    """`hidden` is the inner width; `activation` names the nonlinearity."""

    hidden: int
    activation: str = "gelu"
    bias: bool = True

    def build(self, width: int) -> FeedForward:
        return FeedForward(width, self)


class FeedForward(nn.Module):
    """x [b, t, width] -> [b, t, width]; no memory."""

    def __init__(self, width: int, plan: FeedForwardPlan):
        super().__init__()
        self.plan = plan
        self.up = Linear(width, plan.hidden, plan.bias)
        self.down = Linear(plan.hidden, width, plan.bias)
        self.activation = ACTIVATIONS[plan.activation]

    def forward(self, x_btd: Tensor, step: Step) -> Tensor:
        return self.down(activate(self.activation, self.up(x_btd, step), step.deterministic), step)


class FeedForwardLever(PartLever):
    """The plain channel of a new decoder."""

    name: ClassVar[str] = "feed_forward"
    idea: ClassVar[str] = "Each token passes through a wide layer with a nonlinearity, as in the first transformers."
    equation: ClassVar[str] = "y = W_down gelu(W_up x + b) + c"
    paper: ClassVar[str] = "arXiv:1706.03762"
    cost: ClassVar[str] = "4 width hidden operations a token"
    identity: ClassVar[Any] = "there is none: another channel in the place of the gated one"
    place: ClassVar[Any] = "channel"

    hidden: int | None = Field(None, ge=1, le=2**20, description="inner width; unset: 4 times the width")
    activation: Literal["gelu", "relu", "silu"] = Field("gelu", description="nonlinearity")
    bias: bool = Field(True, description="add a learned constant to each map")

    def plan(self, decoder: Decoder, layer: int) -> FeedForwardPlan:
        return FeedForwardPlan(self.hidden or 4 * decoder.width, self.activation, self.bias)
