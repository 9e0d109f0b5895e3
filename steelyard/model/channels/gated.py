"""Gated channel (SwiGLU, GeGLU): one map decides how much of another passes.

y = down(activation(gate(x)) * up(x))   (GLU variants, arXiv:2002.05202). Cost: 3 * width * hidden multiply-adds a token.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from steelyard.model.channels.activations import ACTIVATIONS, activate
from steelyard.model.linears.joined import together
from steelyard.model.linears.linear import Linear
from steelyard.model.step import Step


@dataclass(frozen=True)
class GatedPlan:
    """`hidden` is the width of the gate; `activation` names the nonlinearity (silu = SwiGLU, gelu = GeGLU)."""

    hidden: int
    activation: str = "silu"
    bias: bool = False

    def build(self, width: int) -> Gated:
        return Gated(width, self)


class Gated(nn.Module):
    """x [b, t, width] -> [b, t, width]; no memory."""

    same_input = (("gate", "up"),)

    def __init__(self, width: int, plan: GatedPlan):
        super().__init__()
        self.plan = plan
        self.gate = Linear(width, plan.hidden, plan.bias)
        self.up = Linear(width, plan.hidden, plan.bias)
        self.down = Linear(plan.hidden, width, plan.bias)
        self.activation = ACTIVATIONS[plan.activation]

    def forward(self, x_btd: Tensor, step: Step) -> Tensor:
        gate, up = together(x_btd, step, (self.gate, self.up))
        return self.down(activate(self.activation, gate, step.deterministic) * up, step)
