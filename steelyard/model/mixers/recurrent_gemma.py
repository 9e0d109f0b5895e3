"""Griffin's recurrent block (RecurrentGemma): a short convolution, then a gated linear recurrence with one number a channel.

r_t = sigmoid(W_r x_t + b_r);  i_t = sigmoid(W_i x_t + b_i);  a_t = exp(-8 softplus(l) r_t)
h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t);  y_t = W_o (gelu(W_g u_t) h_t),  x = conv(W_x u)     (arXiv:2402.19427, eq. 1-4)

The gates' maps are block-diagonal, one block a head. The first token of a text enters whole, as the public code has it (no root).
Without `selective` both gates are constants a channel: the linear recurrent unit that the paper starts from.
Cost: 4 inner^2 / heads operations a token for the gates besides its maps; memory inner taps numbers, whatever the text's length.

Shapes: b rows, t time, d inner channels, h heads, i channels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from steelyard.core.errors import RecipeError
from steelyard.model.activations import ACTIVATIONS, activate
from steelyard.model.linears.joined import together
from steelyard.model.linears.linear import Linear
from steelyard.model.mixers import native_scan
from steelyard.model.mixers.attention import QUERY_TILE, fitting_heads
from steelyard.model.mixers.mamba import even
from steelyard.model.mixers.recurrence import Recurrence, causal_convolution, last_inputs, last_states
from steelyard.model.mixers.scan import linear_scan
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.recurrent_state import Memory
from steelyard.model.step import Step

SHARPNESS = 8.0
"""c: how far an open recurrence gate reaches (section 2.4)."""

LEAST_KEPT, MOST_KEPT = 0.9, 0.999
"""New channels keep a share of their past between these, evenly by its square, where their gate is open (section 2.4)."""

LEAST_SQUARE = 1e-12
"""Under the root, so that its slope stays finite where nothing is forgotten."""


@dataclass(frozen=True)
class RecurrentGemmaPlan:
    """Settings of one recurrent block.

    Attributes:
        inner: channels of the recurrence.
        heads: blocks of the gates' maps.
        taps: tokens the convolution sees, the newest included.
        activation: of what the recurrence is multiplied with.
        selective: whether the gates depend on the token.
    """

    inner: int
    heads: int
    taps: int = 4
    activation: str = "gelu_pytorch_tanh"
    selective: bool = True

    @property
    def block(self) -> int:
        """Channels of a head."""
        return self.inner // self.heads

    def build(self, width: int) -> RecurrentGemma:
        return RecurrentGemma(width, self)


class RecurrentGemma(Recurrence):
    """x [b, t, width] -> [b, t, width]."""

    same_input = (("input", "gate"),)
    vector_parameters = ("convolution", "input_gate_bias", "recurrence_gate_bias")

    def __init__(self, width: int, plan: RecurrentGemmaPlan):
        super().__init__()
        self.plan = plan
        self.input, self.gate = Linear(width, plan.inner, True), Linear(width, plan.inner, True)
        self.convolution = nn.Parameter(torch.zeros(plan.inner, 1, plan.taps))
        self.convolution_bias = nn.Parameter(torch.zeros(plan.inner))
        blocks = (plan.heads, plan.block, plan.block)
        self.input_gate = nn.Parameter(torch.zeros(blocks)) if plan.selective else None
        self.recurrence_gate = nn.Parameter(torch.zeros(blocks)) if plan.selective else None
        self.input_gate_bias = nn.Parameter(torch.zeros(plan.heads, plan.block))
        self.recurrence_gate_bias = nn.Parameter(torch.zeros(plan.heads, plan.block))
        self.decay = nn.Parameter(torch.zeros(plan.inner))
        self.output = Linear(plan.inner, width, True)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> list[nn.Parameter]:
        """Draws what the paper draws in its own way: how much of its past each channel keeps; and returns it."""
        plan, drawn = self.plan, [self.convolution, self.input_gate_bias, self.recurrence_gate_bias]
        self.convolution.copy_(even(self.convolution.shape, plan.taps**-0.5, generator))
        self.input_gate_bias.zero_()
        self.recurrence_gate_bias.zero_()
        square = LEAST_KEPT**2 + (MOST_KEPT**2 - LEAST_KEPT**2) * torch.rand(plan.inner, generator=generator)
        # Kept is a^c with a = sigmoid(..): softplus(l) = -log(kept) / c where the gate is 1.
        self.decay.copy_(torch.log(torch.expm1(-0.5 * square.log() / SHARPNESS)))
        for gate in (self.input_gate, self.recurrence_gate):
            if gate is not None:
                gate.copy_(torch.randn(gate.shape, generator=generator) * plan.block**-0.5)
                drawn.append(gate)
        return drawn

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        return {"inputs": (self.plan.taps - 1, self.plan.inner), "states": (self.plan.inner,)}

    def run(self, x_btd: Tensor, step: Step, memory: Memory) -> tuple[Tensor, Memory]:
        into, gate = together(x_btd, step, (self.input, self.gate))
        x = self._convolved(into, step, memory["inputs"]).float()
        states = self._recurrence(x, step, memory["states"])
        y = states.to(x_btd.dtype) * activate(ACTIVATIONS[self.plan.activation], gate, step.deterministic)
        return self.output(y, step), {
            "inputs": last_inputs(memory["inputs"], into, step),
            "states": last_states(memory["states"], states, step),
        }

    def _convolved(self, into_btd: Tensor, step: Step, before_bkd: Tensor) -> Tensor:
        weights, bias, pool = self.convolution[:, 0], self.convolution_bias, native_scan.pool_for(into_btd, step)
        if pool is None:
            return causal_convolution(into_btd, weights, bias, before_bkd, step)
        return native_scan.convolution(pool, into_btd, weights, bias, before_bkd, step, silu=False)  # type: ignore[call-arg]

    def _recurrence(self, x_btd: Tensor, step: Step, before_bd: Tensor) -> Tensor:
        """h of every token, float32 [b, t, d]."""
        keep = activate(torch.sigmoid, self._mapped(x_btd, self.recurrence_gate, self.recurrence_gate_bias, step), step.deterministic)
        admit = activate(torch.sigmoid, self._mapped(x_btd, self.input_gate, self.input_gate_bias, step), step.deterministic)
        log_decay = -SHARPNESS * keep * F.softplus(self.decay.float())
        first = (step.positions == 0)[..., None]
        square = activate(torch.expm1, 2 * log_decay, step.deterministic).neg().clamp(min=LEAST_SQUARE)
        inputs = x_btd * admit * torch.where(first, torch.ones_like(square), square.sqrt())
        decay = activate(torch.exp, log_decay, step.deterministic).masked_fill(first, 0.0)
        return linear_scan(decay, inputs, before_bd)

    def _mapped(self, x_btd: Tensor, blocks_hij: Tensor | None, bias_hi: Tensor, step: Step) -> Tensor:
        """Each head's channels through its own block; only the bias where gates are constants."""
        bias = bias_hi.float().flatten()
        if blocks_hij is None:
            return bias.expand_as(x_btd)
        rows = x_btd.reshape(-1, x_btd.shape[-1])
        # Matrix products treat their last few rows apart (`QUERY_TILE`).
        padded = F.pad(rows, (0, 0, 0, -len(rows) % QUERY_TILE)) if step.deterministic else rows
        mapped = padded.unflatten(-1, (self.plan.heads, -1)).transpose(0, 1) @ blocks_hij.float()
        return mapped.transpose(0, 1).flatten(1)[: len(rows)].view_as(x_btd) + bias

    def mixing_flops(self, time: int) -> int:
        """Forward operations besides its maps'."""
        gates = 4 * self.plan.block if self.plan.selective else 0
        return time * self.plan.inner * (gates + 2 * self.plan.taps + 12)


class RecurrentGemmaLever(PartLever):
    """Griffin's recurrent block as a new decoder's mixer."""

    name: ClassVar[str] = "recurrent_gemma"
    idea: ClassVar[str] = (
        "A recurrence with one number a channel in which every token says how fast to forget and whether to come in, so what counts is "
        "kept at a memory of fixed size; in a mixture with attention over a window, near things are looked up and far ones remembered."
    )
    equation: ClassVar[str] = "h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t);  a_t = exp(-8 softplus(l) r_t);  r_t, i_t from x_t"
    paper: ClassVar[str] = "arXiv:2402.19427; as RecurrentGemma arXiv:2404.07839"
    cost: ClassVar[str] = "4 inner^2 / heads operations a token for its gates besides its maps; memory of fixed size"
    identity: ClassVar[Any] = "there is none: another mixer"
    place: ClassVar[Any] = "mixer"

    heads: int | None = Field(None, ge=1, le=4096, description="blocks of the gates' maps; unset: one for 64 channels, at least 2")
    expand: float = Field(1.0, gt=0, le=64, description="channels of the recurrence, in multiples of the width")
    taps: int = Field(4, ge=1, le=64, description="tokens the short convolution sees")
    selective: bool = Field(True, description="gates depend on the token; without, each channel forgets at a constant rate")

    def plan(self, decoder: Decoder, layer: int) -> RecurrentGemmaPlan:
        inner = int(decoder.width * self.expand)
        heads = self.heads or fitting_heads(max(inner, 1))
        if inner < 1 or inner % heads:
            raise RecipeError(f"`recurrent_gemma`: {heads} heads do not cut {inner} channels into equal parts", do="Change one of them.")
        return RecurrentGemmaPlan(inner, heads, self.taps, selective=self.selective)
