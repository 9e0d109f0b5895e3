"""Mamba-2: the selective recurrence with one decay a head, which makes a whole text a masked matrix product (state space duality).

h_t = exp(d_t a) h_{t-1} + d_t x_t B_t^T;  y_t = h_t C_t + D x_t;  d_t = softplus(W_d u_t + b)          (arXiv:2405.21060, section 6)
Within a chunk: Y = (L o (C B^T)) (d X), L_ts = exp(sum of d a over s < i <= t); chunks pass on their states (listing 1 there).
The output is gated by silu(z), then normed in groups. Heads of a group share B and C, as heads share keys and values in attention.
Cost: O(t (chunk + state) inner) operations, nearly all in matrix products; memory heads head_width state + (taps - 1) inputs.

Shapes: b rows, t time, n chunks, c tokens of a chunk, h heads, g groups, p head width, s state.
"""

from __future__ import annotations

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
from steelyard.model.mixers import native_scan
from steelyard.model.mixers.apart import apart
from steelyard.model.mixers.attention import fitting_heads
from steelyard.model.mixers.mamba import even, inner_width, step_bias
from steelyard.model.mixers.recurrence import Recurrence, last_inputs
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.recurrent_state import Memory
from steelyard.model.step import Step

CHUNK = 64
"""Tokens whose scores are computed as a matrix."""


@dataclass(frozen=True)
class Mamba2Plan:
    """Settings of one Mamba-2 mixer.

    Attributes:
        heads, head_width: their product is the number of inner channels.
        state: columns of a head's memory.
        groups: of heads that share B and C, and of channels that are normed together.
        taps: tokens the convolution sees, the newest included.
        bias: biases on the maps into and out of the mixer.
        convolution_bias: bias of the convolution.
        activation: after the convolution.
        least_step, most_step: steps are held between them; None = no bound.
        epsilon: of the gated norm.
    """

    heads: int
    head_width: int
    state: int = 64
    groups: int = 1
    taps: int = 4
    bias: bool = False
    convolution_bias: bool = True
    activation: str = "silu"
    least_step: float = 0.0
    most_step: float | None = None
    epsilon: float = 1e-5

    @property
    def inner(self) -> int:
        return self.heads * self.head_width

    @property
    def convolved(self) -> int:
        """Channels of x, B and C together."""
        return self.inner + 2 * self.groups * self.state

    def build(self, width: int) -> Mamba2:
        return Mamba2(width, self)


class Mamba2(Recurrence):
    """x [b, t, width] -> [b, t, width]."""

    same_input = (("gate", "input", "time_step"),)
    vector_parameters = ("convolution",)

    def __init__(self, width: int, plan: Mamba2Plan):
        super().__init__()
        self.plan = plan
        self.gate = Linear(width, plan.inner, plan.bias)
        self.input = Linear(width, plan.convolved, plan.bias)
        self.time_step = Linear(width, plan.heads, plan.bias)
        self.convolution = nn.Parameter(torch.zeros(plan.convolved, 1, plan.taps))
        self.convolution_bias = nn.Parameter(torch.zeros(plan.convolved)) if plan.convolution_bias else None
        self.step_bias = nn.Parameter(torch.zeros(plan.heads))
        self.log_decay = nn.Parameter(torch.zeros(plan.heads))
        self.skip = nn.Parameter(torch.ones(plan.heads))
        self.norm = nn.Parameter(torch.ones(plan.inner))
        self.output = Linear(plan.inner, width, plan.bias)

    def reset(self, generator: torch.Generator) -> list[nn.Parameter]:
        """Draws what the paper's code draws in its own way: A = -1 .. -16 evenly, steps from 0.001 to 0.1; and returns it."""
        plan, drawn = self.plan, [self.convolution, self.step_bias, self.log_decay]
        with torch.no_grad():
            self.convolution.copy_(even(self.convolution.shape, plan.taps**-0.5, generator))
            self.step_bias.copy_(step_bias(plan.heads, generator))
            self.log_decay.copy_((1 + 15 * torch.rand(plan.heads, generator=generator)).log())
            if self.convolution_bias is not None:
                self.convolution_bias.copy_(even((plan.convolved,), plan.taps**-0.5, generator))
                drawn.append(self.convolution_bias)
        return drawn

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        plan = self.plan
        return {"inputs": (plan.taps - 1, plan.convolved), "states": (plan.heads, plan.head_width, plan.state)}

    def run(self, x_btd: Tensor, step: Step, memory: Memory) -> tuple[Tensor, Memory]:
        plan, shared = self.plan, self.plan.groups * self.plan.state
        gate, into, time_step = together(x_btd, step, (self.gate, self.input, self.time_step))
        pool = native_scan.pool_for(x_btd, step)
        mixed = native_scan.convolved(pool, into, self.convolution[:, 0], self.convolution_bias, memory["inputs"], step, plan.activation)
        x, write, read = mixed.float().split((plan.inner, shared, shared), -1)
        time_step = activate(F.softplus, time_step.float() + self.step_bias.float(), step.deterministic).clamp(
            plan.least_step, plan.most_step
        )
        x = x.unflatten(-1, (plan.heads, plan.head_width))
        write, read = (part.unflatten(-1, (plan.groups, plan.state)) for part in (write, read))
        y, states = apart(step, (x, time_step, write, read), {"states": memory["states"]}, self._scanned)
        y = (y + self.skip.float()[:, None] * x).flatten(2) * activate(F.silu, gate.float(), step.deterministic)
        grouped = y.unflatten(-1, (plan.groups, -1))
        y = F.rms_norm(grouped, grouped.shape[-1:], eps=plan.epsilon).flatten(2) * self.norm.float()
        return self.output(y.to(x_btd.dtype), step), {"inputs": last_inputs(memory["inputs"], into, step)} | states

    def _scanned(self, step: Step, parts: Sequence[Tensor], memory: Memory) -> tuple[Tensor, Memory]:
        x, time_step, write, read = parts
        if step.real is not None:
            time_step = time_step * step.real[:, :, None]  # padding moves nothing
        begins = step.begins if step.begins is None or step.real is None else step.begins & step.real
        y, states = chunked_scan(x, time_step, -self.log_decay.float().exp(), write, read, memory["states"], begins)
        return y, {"states": states}

    def mixing_flops(self, time: int) -> int:
        """Forward operations besides its maps'."""
        plan, seen = self.plan, min(CHUNK, time)
        products = 2 * seen * (plan.groups * plan.state + plan.inner) + 4 * plan.inner * plan.state
        return time * (products + 2 * plan.taps * plan.convolved + 10 * plan.inner)


def chunked_scan(
    x_bthp: Tensor,
    time_step_bth: Tensor,
    decay_h: Tensor,
    write_btgs: Tensor,
    read_btgs: Tensor,
    before_bhps: Tensor,
    begins_bt: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h C of every token, and the states after the last; all float32.

    Args:
        x_bthp: inputs.
        time_step_bth: d, at least 0; where it is 0 the states stay as they are.
        decay_h: a, negative.
        write_btgs, read_btgs: B and C; head i is of group i // (heads / groups).
        before_bhps: states before the first token.
        begins_bt: tokens that begin with empty states, or None.

    Returns:
        [b, t, h, p] and [b, h, p, s].
    """
    time, heads, groups = x_bthp.shape[1], x_bthp.shape[2], write_btgs.shape[2]
    chunk = min(CHUNK, time)
    padding = -time % chunk

    def cut(part: Tensor) -> Tensor:
        """[b, t, ...] -> [b, ..., n, c, *]: heads or groups ahead of time."""
        part = F.pad(part, [0, 0] * (part.dim() - 2) + [0, padding]).unflatten(1, (-1, chunk))
        return part.movedim(3, 1) if part.dim() > 3 else part

    steps = cut(time_step_bth)  # [b, h, n, c]
    inputs = cut(x_bthp) * steps[..., None]  # [b, h, n, c, p]
    write, read = cut(write_btgs), cut(read_btgs)  # [b, g, n, c, s]
    sums = (steps * decay_h[:, None, None]).cumsum(-1)  # of d a, from each chunk's beginning
    mask = torch.ones(chunk, chunk, dtype=torch.bool, device=x_bthp.device).tril()
    within, ends, reaches, passes = mask, None, None, None
    if begins_bt is not None:
        document = F.pad(begins_bt, (0, padding)).unflatten(1, (-1, chunk)).cumsum(-1)[:, None]  # [b, 1, n, c], counted within a chunk
        within = mask & (document[..., :, None] == document[..., None, :])
        ends, reaches, passes = document == document[..., -1:], document == 0, (document[..., -1] == 0)[..., None, None]
    kept = torch.exp(sums[..., -1:] - sums)  # what of each token's input is left at its chunk's end
    kept = kept if ends is None else kept * ends
    left = torch.exp(sums)  # what of the states before the chunk is left at each token
    left = left if reaches is None else left * reaches

    def of_heads(part: Tensor) -> Tensor:
        return part if groups == 1 else part.repeat_interleave(heads // groups, 1)

    scores = read @ write.transpose(-1, -2)  # [b, g, n, c, c]
    forgotten = (sums[..., :, None] - sums[..., None, :]).masked_fill(~within, float("-inf")).exp()
    additions = (inputs * kept[..., None]).transpose(-1, -2) @ of_heads(write)  # [b, h, n, p, s]
    whole = torch.exp(sums[..., -1])[..., None, None]
    whole = whole if passes is None else whole * passes
    state, befores = before_bhps, []
    for number in range(additions.shape[2]):
        befores.append(state)
        state = state * whole[:, :, number] + additions[:, :, number]
    across = (of_heads(read) @ torch.stack(befores, 2).transpose(-1, -2)) * left[..., None]
    y = (of_heads(scores) * forgotten) @ inputs + across
    return y.movedim(1, 3).flatten(1, 2)[:, :time], state


class Mamba2Lever(PartLever):
    """Mamba-2 as a new decoder's mixer; its blocks have no channel."""

    name: ClassVar[str] = "mamba2"
    idea: ClassVar[str] = (
        "Mamba with one decay for all of a head: whole texts become matrix products, so the state may be several times larger at the "
        "same speed, and more of the past fits into it."
    )
    equation: ClassVar[str] = "h_t = exp(d_t a) h_{t-1} + d_t x_t B_t^T;  y_t = h_t C_t + D x_t;  d_t, B_t, C_t from the input"
    paper: ClassVar[str] = "arXiv:2405.21060"
    cost: ClassVar[str] = "4 inner state operations a token and those of a chunk's scores, besides its maps; memory of fixed size"
    identity: ClassVar[Any] = "there is none: another mixer"
    place: ClassVar[Any] = "mixer"
    alone: ClassVar[bool] = True

    heads: int | None = Field(None, ge=1, le=4096, description="heads; unset: one for 64 of the inner channels, at least 2")
    state: int = Field(64, ge=1, le=1024, description="columns of a head's memory")
    groups: int = Field(1, ge=1, le=1024, description="groups of heads that share B and C")
    expand: float = Field(2.0, gt=0, le=64, description="inner channels, in multiples of the width")
    taps: int = Field(4, ge=1, le=64, description="tokens the short convolution sees")

    def plan(self, decoder: Decoder, layer: int) -> Mamba2Plan:
        inner = inner_width("mamba2", decoder.width, self.expand)
        heads = self.heads or fitting_heads(inner)
        if inner % heads or heads % self.groups:
            raise RecipeError(
                f"`mamba2`: {inner} inner channels, {heads} heads and {self.groups} groups do not divide each other",
                do="Change one of them.",
            )
        return Mamba2Plan(heads, inner // heads, self.state, self.groups, self.taps)
