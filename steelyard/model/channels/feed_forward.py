"""Feed-forward channel: two maps with a nonlinearity between them.

y = down(activation(up(x)))   (Transformer, arXiv:1706.03762, eq. 2). Cost: 2 * width * hidden multiply-adds a token.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from steelyard.model.channels.activations import ACTIVATIONS, activate
from steelyard.model.linears.linear import Linear
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
