"""Mamba: a linear recurrence of fixed size whose step, inputs and outputs depend on the token, so that it chooses what to remember.

d_t = softplus(W_d x_t + b);  h_t = exp(d_t A) h_{t-1} + d_t B(x_t) x_t;  y_t = C(x_t) . h_t + D x_t       (arXiv:2312.00752, eq. 1-2,
algorithm 2), channel by channel with `state` numbers each; x comes through a short convolution, y is gated by silu(z).
FalconMamba norms B, C and the step's inputs (arXiv:2410.05355). Without `selective` the step, B and C are constants: the time-invariant
recurrence of S4 that the paper compares with.
Cost: about 7 state inner operations a token besides its maps; memory inner (state + taps - 1) numbers, whatever the text's length.

Where the C++ routines are, convolution and scan go through them (`native_scan.py`); `selective_scan` here is the readable twin.

Shapes: b rows, t time, d inner channels, s state numbers of a channel, r rank of the step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from steelyard.core.errors import RecipeError
from steelyard.model.activations import activate
from steelyard.model.linears.joined import together
from steelyard.model.linears.linear import Linear
from steelyard.model.mixers import native_scan, triton_scan
from steelyard.model.mixers.apart import apart
from steelyard.model.mixers.recurrence import Recurrence, last_inputs, last_states
from steelyard.model.mixers.scan import linear_scan
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.recurrent_state import Memory
from steelyard.model.step import Step

SHORTEST, LONGEST, LEAST = 1e-3, 1e-1, 1e-4
"""Steps of a new model are drawn between the first two, evenly by their logarithm, and are at least the third (section 3.6)."""


@dataclass(frozen=True)
class MambaPlan:
    """Settings of one Mamba mixer.

    Attributes:
        inner: channels of the recurrence.
        state: numbers remembered of each.
        rank: width of the step's inputs.
        taps: tokens the convolution sees, the newest included.
        bias: biases on the maps into and out of the mixer.
        convolution_bias: bias of the convolution.
        activation: after the convolution.
        parameter_norm: epsilon of the weightless RMS norms of B, C and the step's inputs (FalconMamba), or None.
        selective: whether step, B and C depend on the token.
    """

    inner: int
    state: int = 16
    rank: int = 1
    taps: int = 4
    bias: bool = False
    convolution_bias: bool = True
    activation: str = "silu"
    parameter_norm: float | None = None
    selective: bool = True

    def build(self, width: int) -> Mamba:
        return Mamba(width, self)


class Mamba(Recurrence):
    """x [b, t, width] -> [b, t, width]."""

    same_input = (("input", "gate"),)
    vector_parameters = ("convolution", "log_decay", "constants")

    def __init__(self, width: int, plan: MambaPlan):
        super().__init__()
        self.plan = plan
        self.input, self.gate = Linear(width, plan.inner, plan.bias), Linear(width, plan.inner, plan.bias)
        self.convolution = nn.Parameter(torch.zeros(plan.inner, 1, plan.taps))
        self.convolution_bias = nn.Parameter(torch.zeros(plan.inner)) if plan.convolution_bias else None
        chosen = plan.rank + 2 * plan.state
        self.selection = Linear(plan.inner, chosen, False) if plan.selective else None
        self.constants = None if plan.selective else nn.Parameter(torch.ones(chosen))
        self.time_step = Linear(plan.rank, plan.inner, True)
        self.log_decay = nn.Parameter(torch.zeros(plan.inner, plan.state))
        self.skip = nn.Parameter(torch.ones(plan.inner))
        self.output = Linear(plan.inner, width, plan.bias)

    def reset(self, generator: torch.Generator) -> list[nn.Parameter]:
        """Draws what the paper draws in its own way (section 3.6): A = -1 .. -state, steps from 0.001 to 0.1; and returns it."""
        plan, bias = self.plan, self.time_step.storage.bias
        assert isinstance(bias, nn.Parameter)
        drawn = [self.convolution, self.time_step.storage.weight, self.log_decay, self.skip, bias]
        with torch.no_grad():
            self.convolution.copy_(even(self.convolution.shape, plan.taps**-0.5, generator))
            self.time_step.weight.copy_(even(self.time_step.weight.shape, plan.rank**-0.5, generator))
            self.log_decay.copy_(torch.arange(1, plan.state + 1.0).log().expand(plan.inner, -1))
            self.skip.fill_(1.0)
            bias.copy_(step_bias(plan.inner, generator))
            if self.convolution_bias is not None:
                self.convolution_bias.copy_(even((plan.inner,), plan.taps**-0.5, generator))
                drawn.append(self.convolution_bias)
            if self.selection is not None:
                self.selection.weight.copy_(even(self.selection.weight.shape, plan.inner**-0.5, generator))
                drawn.append(self.selection.storage.weight)  # type: ignore[arg-type]
            if self.constants is not None:
                self.constants.copy_(torch.randn(self.constants.shape, generator=generator))
                drawn.append(self.constants)
        return drawn  # type: ignore[return-value]

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        plan = self.plan
        return {"inputs": (plan.taps - 1, plan.inner), "states": (plan.state, plan.inner)}

    def run(self, x_btd: Tensor, step: Step, memory: Memory) -> tuple[Tensor, Memory]:
        plan = self.plan
        into, gate = together(x_btd, step, (self.input, self.gate))
        pool = native_scan.pool_for(x_btd, step)
        x = native_scan.convolved(pool, into, self.convolution[:, 0], self.convolution_bias, memory["inputs"], step, plan.activation)
        chosen = self.selection(x, step) if self.selection is not None else self.constants.to(x.dtype).expand(*x.shape[:2], -1)  # type: ignore[union-attr]
        low, write, read = chosen.split((plan.rank, plan.state, plan.state), -1)
        if plan.parameter_norm is not None:
            low, write, read = (
                F.rms_norm(part.float(), part.shape[-1:], eps=plan.parameter_norm).to(x.dtype) for part in (low, write, read)
            )
        decay, time_step = -self.log_decay.float().exp().t(), self.time_step(low, step).float()
        x, write, read, gate = x.float(), write.float(), read.float(), gate.float()
        if pool is not None:
            given = (x, time_step, decay, write, read, self.skip.float(), gate, memory["states"])
            y, states = native_scan.scan(pool, *given, step)  # type: ignore[call-arg]
        else:
            y, after = apart(step, (x, time_step, write, read, gate), {"states": memory["states"]}, functools.partial(self._scanned, decay))
            states = after["states"]
        return self.output(y.to(x_btd.dtype), step), {"inputs": last_inputs(memory["inputs"], into, step), "states": states}

    def _scanned(self, decay_sd: Tensor, step: Step, parts: Sequence[Tensor], memory: Memory) -> tuple[Tensor, Memory]:
        x, time_step, write, read, gate = parts
        scan: Any = triton_scan.selective_scan if triton_scan.fits(x, step) else selective_scan
        y, states = scan(x, time_step, decay_sd, write, read, self.skip.float(), gate, memory["states"], step)
        return y, {"states": states}

    def mixing_flops(self, time: int) -> int:
        """Forward operations besides its maps'."""
        return time * self.plan.inner * (7 * self.plan.state + 2 * self.plan.taps + 8)


def selective_scan(
    x_btd: Tensor,
    time_step_btd: Tensor,
    decay_sd: Tensor,
    write_bts: Tensor,
    read_bts: Tensor,
    skip_d: Tensor,
    gate_btd: Tensor,
    before_bsd: Tensor,
    step: Step,
) -> tuple[Tensor, Tensor]:
    """(C . h + D x) silu(z) of every token, and the states after the last; all float32.

    Args:
        x_btd: inputs.
        time_step_btd: d before its softplus.
        decay_sd: A, negative.
        write_bts, read_bts: B and C.
        skip_d: D.
        gate_btd: z.
        before_bsd: states before the first token.
        step: the call; documents begin with empty states, and padding leaves them as they are.

    Returns:
        [b, t, d] and [b, s, d].
    """
    time_step = activate(F.softplus, time_step_btd, step.deterministic)
    if step.real is not None:
        time_step = time_step * step.real[:, :, None]
    decay = activate(torch.exp, time_step[:, :, None] * decay_sd, step.deterministic)  # [b, t, s, d]
    if step.begins is not None:
        begins = step.begins if step.real is None else step.begins & step.real
        decay = decay * ~begins[:, :, None, None]
    states = linear_scan(decay, write_bts[..., None] * (time_step * x_btd)[:, :, None], before_bsd)
    y = (read_bts[:, :, None] @ states)[:, :, 0] + skip_d * x_btd
    return y * activate(F.silu, gate_btd, step.deterministic), last_states(before_bsd, states, step)


def even(shape: torch.Size | tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    """Numbers evenly between -bound and bound."""
    return (2 * torch.rand(shape, generator=generator) - 1) * bound


def step_bias(count: int, generator: torch.Generator) -> Tensor:
    """What must stand before the softplus for steps as a new model has them [count]."""
    steps = torch.exp(torch.rand(count, generator=generator) * math.log(LONGEST / SHORTEST) + math.log(SHORTEST)).clamp(min=LEAST)
    return steps + torch.log(-torch.expm1(-steps))


class MambaLever(PartLever):
    """Mamba as a new decoder's mixer; its blocks have no channel."""

    name: ClassVar[str] = "mamba"
    idea: ClassVar[str] = (
        "A recurrence of fixed size in which every token says how far to forget, what to write and what to read: it can pass over what "
        "does not matter and keep what does, in time linear in the text's length. What does not fit into the state is lost."
    )
    equation: ClassVar[str] = "h_t = exp(d_t A) h_{t-1} + d_t B_t x_t;  y_t = C_t . h_t + D x_t;  d_t, B_t, C_t from x_t"
    paper: ClassVar[str] = "arXiv:2312.00752; norms of FalconMamba arXiv:2410.05355"
    cost: ClassVar[str] = "about 7 state inner operations a token besides its maps; memory of fixed size"
    identity: ClassVar[Any] = "there is none: another mixer"
    place: ClassVar[Any] = "mixer"
    alone: ClassVar[bool] = True

    state: int = Field(16, ge=1, le=1024, description="numbers remembered of each channel")
    expand: float = Field(2.0, gt=0, le=64, description="inner channels, in multiples of the width")
    rank: int | None = Field(None, ge=1, le=2**16, description="width of the step's inputs; unset: width / 16, rounded up")
    taps: int = Field(4, ge=1, le=64, description="tokens the short convolution sees")
    norms: bool = Field(False, description="norm B, C and the step's inputs, as FalconMamba does")
    selective: bool = Field(True, description="step, B and C depend on the token; without, the recurrence is time-invariant")

    def plan(self, decoder: Decoder, layer: int) -> MambaPlan:
        inner = inner_width("mamba", decoder.width, self.expand)
        rank = self.rank or -(-decoder.width // 16)
        return MambaPlan(inner, self.state, rank, self.taps, parameter_norm=1e-6 if self.norms else None, selective=self.selective)


def inner_width(name: str, width: int, expand: float) -> int:
    """The width times `expand`, rounded down.

    Raises:
        RecipeError: nothing is left of it.
    """
    inner = int(width * expand)
    if inner < 1:
        raise RecipeError(f"`{name}`: {expand} times the width {width} is less than one channel", do="Raise `expand`.")
    return inner
