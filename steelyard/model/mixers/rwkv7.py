"""RWKV-7: a matrix of memory a head from which what is to be rewritten is first taken out, by rates that every channel learns in context.

S_t = S_{t-1} (diag(w_t) - h_t^T (a_t * h_t)) + v_t^T k_t;  y_t = r_t S_t^T                          (arXiv:2503.14456, eq. 1-17)
w_t = exp(-e^(-1/2) sigmoid(d_t)): each channel's decay; a_t: the learning rate of each channel; h_t: the key to take out, of length 1;
k_t: the key to write under. r, k, v, d, a and a gate come from means of a token and the one before it; d, a, the gate and the values'
shares through maps of low rank. The first layer's values are kept for all later ones, which take a share of them (`Step.carry`).

Within a chunk, with P_t the product of its decays up to t, S_t = (S_0 + U^T (b / P) + V^T (k / P)) diag(P_t) over tokens s <= t, where
b = a * h and U are what is taken out: U = -(H P_{t-1}) S_0^T - tril(H P_{t-1} (b / P)^T) U - tril(..) V, one triangular system a chunk.
Decays are at least 0.54, so P does not leave the range of floats within a chunk.
Cost: about (10 head_width + 5 chunk) inner operations a token besides its maps; memory width + head_width inner numbers.

Shapes: b rows, t time, h heads, n chunks, c tokens of a chunk, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from steelyard.core.errors import RecipeError
from steelyard.model.activations import activate
from steelyard.model.linears.linear import Linear
from steelyard.model.mixers import triton_scan
from steelyard.model.mixers.apart import apart
from steelyard.model.mixers.attention import fitting_heads
from steelyard.model.mixers.recurrence import Recurrence, earlier, last_inputs
from steelyard.model.mixers.rwkv import channel_shares, layer_shares
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.recurrent_state import Memory, RecurrentPool
from steelyard.model.step import Step

CHUNK = 32
"""Tokens of one triangular system."""

FASTEST = math.exp(-0.5)
"""Most that the logarithm of a memory falls by with a token: what is left is at least exp(-0.607) = 0.545 of it."""

FIRST_VALUES = "rwkv7 values"
"""Where the first layer leaves its values for the others of the same call."""

MIXED = ("receptance", "decay", "key", "value", "rate", "gate")
EARLY = {"receptance": 0.2, "decay": 0.9, "key": 0.7, "value": 0.7, "rate": 0.9, "gate": 0.2}
"""How early over the channels a new mixer's means turn from the token before to the token itself (its public code)."""


@dataclass(frozen=True)
class Rwkv7Plan:
    """Settings of one time mix.

    Attributes:
        heads, head_width: their product is the number of channels.
        rank: of the maps to decays, rates, shares and gates.
        first: whether its values are the first.
        layer, depth: the block's place among all; only new weights are drawn after it.
    """

    heads: int
    head_width: int
    rank: int
    first: bool
    layer: int = field(default=0, compare=False)
    depth: int = field(default=1, compare=False)

    @property
    def inner(self) -> int:
        return self.heads * self.head_width

    def build(self, width: int) -> Rwkv7:
        return Rwkv7(width, self)


class LowRank(nn.Module):
    """A map through few numbers: x [..., in] -> W_2 f(W_1 x) (+ bias)."""

    def __init__(self, inputs: int, rank: int, outputs: int, bias: bool):
        super().__init__()
        self.narrow, self.wide = Linear(inputs, rank, False), Linear(rank, outputs, bias)

    def forward(self, x: Tensor, step: Step, function: Any = None) -> Tensor:
        few = self.narrow(x, step)
        return self.wide(few if function is None else activate(function, few, step.deterministic), step)


class Rwkv7(Recurrence):
    """x [b, t, width] -> [b, t, width]."""

    def __init__(self, width: int, plan: Rwkv7Plan):
        super().__init__()
        self.plan, self.width = plan, width
        inner = plan.inner
        self.mix = nn.ParameterDict({name: nn.Parameter(torch.full((width,), 0.5)) for name in MIXED})
        self.receptance, self.key, self.value = (Linear(width, inner, False) for _ in range(3))
        self.decay, self.rate = (LowRank(width, plan.rank, inner, True) for _ in range(2))
        self.gate = LowRank(width, plan.rank, inner, False)
        self.share = None if plan.first else LowRank(width, plan.rank, inner, True)
        self.removal = nn.Parameter(torch.full((inner,), 0.85))  # xi: which key is taken out
        self.replacement = nn.Parameter(torch.ones(inner))  # alpha: how far the rate scales the key that is written
        self.bonus = nn.Parameter(torch.zeros(inner))  # rho: what the token itself adds
        self.norm_weight, self.norm_bias = nn.Parameter(torch.ones(inner)), nn.Parameter(torch.zeros(inner))
        self.output = Linear(inner, width, False)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> list[nn.Parameter]:
        """Sets what its public code starts from: shares and decays that differ by channel and by layer."""
        plan = self.plan
        far, rest = layer_shares(plan.layer, plan.depth)
        shares = channel_shares(self.width).flatten()
        for name, own in self.mix.items():
            own.copy_(1 - shares ** (EARLY[name] * rest))
        biases = {"decay": -6.5 + 5 * torch.linspace(0, 1, plan.inner) ** (0.85 + far**0.5), "rate": 0.0, "share": 1.0}
        for name, value in biases.items():
            part = getattr(self, name)
            if part is not None:
                part.wide.bias.copy_(torch.as_tensor(value).expand(plan.inner))
        return []

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        plan = self.plan
        return {"input": (1, self.width), "states": (plan.heads, plan.head_width, plan.head_width)}

    def forward(self, x_btd: Tensor, step: Step, state: RecurrentPool | None = None) -> Tensor:
        # A pool may run a call in pieces, each a call of its own with nothing carried; so the first values go through it with x.
        first = None if self.plan.first else step.carry.get(FIRST_VALUES)
        values = x_btd.new_zeros(*x_btd.shape[:2], self.plan.inner) if first is None else first
        alone = x_btd.new_full((*x_btd.shape[:2], 1), float(first is None))
        y = super().forward(torch.cat((x_btd, values.to(x_btd.dtype), alone), -1), step, state)
        if first is None:
            step.carry[FIRST_VALUES] = y[..., self.width : -1]
        return y[..., : self.width]

    def run(self, x_btd: Tensor, step: Step, memory: Memory) -> tuple[Tensor, Memory]:
        plan = self.plan
        x, first, alone = x_btd.split((self.width, plan.inner, 1), -1)
        change = earlier(x, memory["input"], 1, step) - x
        mixed = {name: x + change * share.to(x.dtype) for name, share in self.mix.items()}
        value = self.value(mixed["value"], step)
        values = torch.where(alone.bool(), value, first)
        if self.share is not None:
            taken = activate(torch.sigmoid, self.share(mixed["value"], step), step.deterministic)
            value = value + (values - value) * taken
        rate = activate(torch.sigmoid, self.rate(mixed["rate"], step).float(), step.deterministic)
        fall = activate(torch.sigmoid, self.decay(mixed["decay"], step, torch.tanh).float(), step.deterministic) * -FASTEST
        key = self.key(mixed["key"], step).float()
        heads = (plan.heads, plan.head_width)
        removed = F.normalize((key * self.removal.float()).unflatten(-1, heads), dim=-1)
        written = (key * (1 + (rate - 1) * self.replacement.float())).unflatten(-1, heads)
        asked = self.receptance(mixed["receptance"], step).float().unflatten(-1, heads)
        told = value.float().unflatten(-1, heads)
        with torch.autocast(x.device.type, enabled=False):
            parts = (asked, fall.unflatten(-1, heads), removed, rate.unflatten(-1, heads), written, told)
            y, states = apart(step, parts, {"states": memory["states"]}, _ruled)
        y = F.layer_norm(y, y.shape[-1:], eps=1e-5 * plan.head_width).flatten(2) * self.norm_weight.float() + self.norm_bias.float()
        own = (asked * written * self.bonus.float().unflatten(-1, heads)).sum(-1, keepdim=True) * told
        gate = self.gate(mixed["gate"], step, torch.sigmoid)
        out = self.output(gate * (y + own.flatten(2)).to(x.dtype), step)
        return torch.cat((out, values, alone), -1), {"input": last_inputs(memory["input"], x, step)} | states

    def mixing_flops(self, time: int) -> int:
        """Forward operations besides its maps'."""
        seen = min(CHUNK, time)
        return time * (self.plan.inner * (10 * self.plan.head_width + 9 * seen + 40) + 18 * self.width)


def _ruled(step: Step, parts: Sequence[Tensor], memory: Memory) -> tuple[Tensor, Memory]:
    """`delta_rule`, by the fastest form there is."""
    rule: Any = triton_scan.delta_rule if triton_scan.fits(parts[0], step) else delta_rule
    y, states = rule(*parts, memory["states"], step)
    return y, {"states": states}


def delta_rule(
    asked_bthd: Tensor,
    fall_bthd: Tensor,
    removed_bthd: Tensor,
    rate_bthd: Tensor,
    written_bthd: Tensor,
    told_bthd: Tensor,
    before_bhvd: Tensor,
    step: Step,
) -> tuple[Tensor, Tensor]:
    """r S^T of every token, and the states after the last; all float32.

    Args:
        asked_bthd: r.
        fall_bthd: logarithm of w, between -0.607 and 0.
        removed_bthd: h, of length 1.
        rate_bthd: a, between 0 and 1.
        written_bthd, told_bthd: k and v.
        before_bhvd: states before the first token, [value, key] of each head.
        step: the call; documents begin with empty states, and padding leaves them as they are.

    Returns:
        [b, t, h, d] and [b, h, v, d].
    """
    time = asked_bthd.shape[1]
    chunk = min(CHUNK, time)
    if step.real is not None:
        real = step.real[:, :, None, None]
        fall_bthd, removed_bthd, written_bthd = fall_bthd * real, removed_bthd * real, written_bthd * real

    def cut(x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, -time % chunk)).unflatten(1, (-1, chunk)).movedim(3, 1)  # [b, h, n, c, d]

    asked, fall, removed, rate, written, told = map(cut, (asked_bthd, fall_bthd, removed_bthd, rate_bthd, written_bthd, told_bthd))
    sums = fall.cumsum(-2)
    upto, grown = activate(torch.exp, sums, step.deterministic), activate(torch.exp, -sums, step.deterministic)
    before_own = activate(torch.exp, sums - fall, step.deterministic)  # decays up to the token before
    lower = torch.ones(chunk, chunk, dtype=torch.bool, device=asked.device).tril()
    strictly, ends, reaches, passes = lower.tril(-1), None, None, None
    if step.begins is not None:
        begins = step.begins if step.real is None else step.begins & step.real
        document = F.pad(begins, (0, -time % chunk)).unflatten(1, (-1, chunk)).cumsum(-1)[:, None]  # [b, 1, n, c], within a chunk
        same = document[..., :, None] == document[..., None, :]
        lower, strictly = lower & same, strictly & same
        ends, reaches = (document == document[..., -1:])[..., None], (document == 0)[..., None]
        passes = (document[..., -1] == 0)[..., None, None]
    taken, back, forth = removed * before_own, removed * rate * grown, written * grown
    query = asked * upto
    system = (taken @ back.mT) * strictly  # U = -(taken S_0^T + system U + (taken forth^T) V)
    from_told = (taken @ forth.mT) * strictly
    reach_taken, reach_query = (taken, query) if reaches is None else (taken * reaches, query * reaches)
    right = -torch.cat((reach_taken, from_told @ told), -1)
    if chunk > 1:
        whole = torch.eye(chunk, dtype=system.dtype, device=system.device) + system
        right = torch.linalg.solve_triangular(whole, right, upper=False, unitriangular=True)
    of_states, of_told = right.split((taken.shape[-1], told.shape[-1]), -1)  # U = of_states S_0^T + of_told
    last = upto[..., -1:, :]
    kept_back, kept_forth = back * last, forth * last
    if ends is not None:
        kept_back, kept_forth = kept_back * ends, kept_forth * ends
    state, befores, removals = before_bhvd, [], []
    additions = told.mT @ kept_forth  # [b, h, n, v, d]
    whole_decay = last if passes is None else last * passes
    for number in range(additions.shape[2]):
        befores.append(state)
        u = of_states[:, :, number] @ state.mT + of_told[:, :, number]
        removals.append(u)
        state = state * whole_decay[:, :, number] + u.mT @ kept_back[:, :, number] + additions[:, :, number]
    y = reach_query @ torch.stack(befores, 2).mT
    y = y + ((query @ back.mT) * lower) @ torch.stack(removals, 2) + ((query @ forth.mT) * lower) @ told
    return y.movedim(1, 3).flatten(1, 2)[:, :time], state


class Rwkv7Lever(PartLever):
    """RWKV-7's time mix as a new decoder's mixer; its channel is `rwkv_channel` without a gate."""

    name: ClassVar[str] = "rwkv7"
    idea: ClassVar[str] = (
        "Each head keeps a matrix of what was said under which key. Before something is written, what stands under that key is taken out, "
        "as far as each channel's own learning rate says, so memory is rewritten rather than piled up, and can follow changing states."
    )
    equation: ClassVar[str] = "S_t = S_{t-1} (diag(w_t) - h_t^T (a_t * h_t)) + v_t^T k_t;  y_t = r_t S_t^T"
    paper: ClassVar[str] = "arXiv:2503.14456"
    cost: ClassVar[str] = "10 head_width inner operations a token and those of a chunk's system, besides its maps; memory of fixed size"
    identity: ClassVar[Any] = "there is none: another mixer"
    place: ClassVar[Any] = "mixer"

    heads: int | None = Field(None, ge=1, le=4096, description="heads; unset: one for 64 of the width, at least 2")
    rank: int | None = Field(None, ge=1, le=2**16, description="of the maps to decays, rates and gates; unset: width / 16, at least 8")

    def plan(self, decoder: Decoder, layer: int) -> Rwkv7Plan:
        heads = self.heads or fitting_heads(decoder.width)
        if decoder.width % heads:
            raise RecipeError(f"`rwkv7`: {heads} heads do not divide the width {decoder.width}", do="Change one of them.")
        first = not any(isinstance(decoder.mixer_of(index), Rwkv7Lever) for index in range(layer))
        return Rwkv7Plan(heads, decoder.width // heads, self.rank or max(8, decoder.width // 16), first, layer, decoder.depth)
