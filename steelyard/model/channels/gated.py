"""Gated channel (SwiGLU, GeGLU): one map decides how much of another passes.

y = down(activation(gate(x)) * up(x))   (GLU variants, arXiv:2002.05202). Cost: 3 * width * hidden multiply-adds a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from steelyard.model.activations import ACTIVATIONS, activate
from steelyard.model.linears.joined import together
from steelyard.model.linears.linear import Linear
from steelyard.model.norms import NormPlan
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.step import Step


@dataclass(frozen=True)
class GatedPlan:
    """`hidden` is the width of the gate; `activation` names the nonlinearity (silu = SwiGLU, gelu = GeGLU); `inner_norm` stands before the
    last map (BitNet), or is None."""

    hidden: int
    activation: str = "silu"
    bias: bool = False
    inner_norm: NormPlan | None = None

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
        self.inner_norm = plan.inner_norm.build(plan.hidden) if plan.inner_norm else None
        self.activation = ACTIVATIONS[plan.activation]

    def forward(self, x_btd: Tensor, step: Step) -> Tensor:
        gate, up = together(x_btd, step, (self.gate, self.up))
        if self.plan.activation == "silu" and torch.is_grad_enabled() and not (step.deterministic or torch.compiler.is_compiling()):
            product: Any = SiluProduct.apply(gate, up)
            inner: Tensor = product
        else:
            inner = activate(self.activation, gate, step.deterministic) * up
        return self.down(inner if self.inner_norm is None else self.inner_norm(inner), step)


class SiluProduct(torch.autograd.Function):
    """silu(gate) * up, which keeps its two factors alone for the backward pass and computes silu(gate) there again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up) if gate.dtype == up.dtype else F.silu(gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        by_gate = torch.ops.aten.silu_backward(gradient * up, gate)
        return by_gate, F.silu(gate).mul_(gradient)


class GatedLever(PartLever):
    """The gated channel of a new decoder."""

    name: ClassVar[str] = "gated"
    idea: ClassVar[str] = "Each token passes through a wide layer in which one map decides how much of another passes on."
    equation: ClassVar[str] = "y = W_down (silu(W_gate x) * W_up x)"
    paper: ClassVar[str] = "arXiv:2002.05202"
    cost: ClassVar[str] = "6 width hidden operations a token"
    identity: ClassVar[Any] = "there is none: it is what new decoders have unless they say otherwise"
    place: ClassVar[Any] = "channel"

    hidden: int | None = Field(None, ge=1, le=2**20, description="inner width; unset: 8/3 of the width, rounded up to 32s")
    activation: Literal["silu", "gelu", "relu", "relu2"] = Field("silu", description="nonlinearity of the gate")
    inner_norm: bool = Field(False, description="normalise what the last map reads (BitNet)")

    def plan(self, decoder: Decoder, layer: int) -> GatedPlan:
        norm = decoder.norm_plan if self.inner_norm else None
        return GatedPlan(self.hidden or -(-decoder.width * 8 // 3 // 32) * 32, self.activation, inner_norm=norm)
