"""RWKV, version 4: a mean of all earlier values, weighted by their keys and by how long ago they were.

k, v, r = maps of (x_t m + x_{t-1} (1 - m));  y_t = W_o (sigmoid(r_t) wkv_t)                          (arXiv:2305.13048, eq. 11-18)
wkv_t = (sum_{s < t} e^(k_s - (t-1-s) w) v_s + e^(u + k_t) v_t) / (sum_{s < t} e^(k_s - (t-1-s) w) + e^(u + k_t)),  w = e^decay > 0

Exponents have no bound, so sums are kept relative to the greatest one so far (the log-max form of appendix D): with
l_t = max(l_{t-1} - w, k_t) both sums are S_t = e^(l_{t-1} - w - l_t) S_{t-1} + e^(k_t - l_t) (v_t, 1), a linear recurrence that a whole
text's scan computes in parallel. What the result does not depend on has no gradient: l is a constant to it.
Cost: about 30 inner operations a token besides its maps; memory width + 3 inner numbers, whatever the text's length.

Shapes: b rows, t time, d inner channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from steelyard.model.activations import activate
from steelyard.model.linears.linear import Linear
from steelyard.model.mixers import triton_scan
from steelyard.model.mixers.recurrence import Recurrence, earlier, last_inputs, last_states
from steelyard.model.mixers.scan import linear_scan
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.recurrent_state import Memory
from steelyard.model.step import Step

NO_LEVEL = -1e30
"""The level of no text at all: its exponential is 0 beside any key's."""

LEAST_BONUS = math.log(0.3)
"""u of a new mixer, give or take a half (appendix E)."""


@dataclass(frozen=True)
class RwkvPlan:
    """Settings of one time mix.

    Attributes:
        inner: channels of keys and values.
        layer, depth: the block's place among all; only new weights are drawn after it.
    """

    inner: int
    layer: int = field(default=0, compare=False)
    depth: int = field(default=1, compare=False)

    def build(self, width: int) -> Rwkv:
        return Rwkv(width, self)


class Rwkv(Recurrence):
    """x [b, t, width] -> [b, t, width]."""

    vector_parameters = ("mix_key", "mix_value", "mix_receptance")

    def __init__(self, width: int, plan: RwkvPlan):
        super().__init__()
        self.plan, self.width = plan, width
        self.decay = nn.Parameter(torch.zeros(plan.inner))
        self.bonus = nn.Parameter(torch.zeros(plan.inner))
        self.mix_key, self.mix_value, self.mix_receptance = (nn.Parameter(torch.full((1, 1, width), 0.5)) for _ in range(3))
        self.key, self.value, self.receptance = (Linear(width, plan.inner, False) for _ in range(3))
        self.output = Linear(plan.inner, width, False)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> list[nn.Parameter]:
        """Sets what the paper starts from: decays and shares that differ by channel and by layer (appendix E); and returns it."""
        plan = self.plan
        far, rest = layer_shares(plan.layer, plan.depth)
        channel = torch.linspace(0, 1, plan.inner)
        self.decay.copy_(-5 + 8 * channel ** (0.7 + 1.3 * far))
        self.bonus.copy_(LEAST_BONUS + 0.5 * ((torch.arange(plan.inner) + 1) % 3 - 1))
        shares = channel_shares(self.width)
        self.mix_key.copy_(shares**rest)
        self.mix_value.copy_(shares**rest + 0.3 * far)
        self.mix_receptance.copy_(shares ** (0.5 * rest))
        return [self.mix_key, self.mix_value, self.mix_receptance]

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        return {"input": (1, self.width), "sums": (2, self.plan.inner), "level": (self.plan.inner,)}

    def run(self, x_btd: Tensor, step: Step, memory: Memory) -> tuple[Tensor, Memory]:
        before = earlier(x_btd, memory["input"], 1, step)
        key = self.key(shifted(x_btd, before, self.mix_key), step).float()
        value = self.value(shifted(x_btd, before, self.mix_value), step).float()
        receptance = activate(torch.sigmoid, self.receptance(shifted(x_btd, before, self.mix_receptance), step), step.deterministic)
        fade = self.decay.float().exp()
        mean = triton_scan.weighted_mean if triton_scan.fits(x_btd, step) else weighted_mean
        mixed, sums, level = mean(key, value, fade, self.bonus.float(), memory["sums"], memory["level"], step)  # type: ignore[call-arg]
        after = {"input": last_inputs(memory["input"], x_btd, step), "sums": sums, "level": level}
        return self.output(receptance * mixed.to(x_btd.dtype), step), after

    def mixing_flops(self, time: int) -> int:
        """Forward operations besides its maps'."""
        return time * (30 * self.plan.inner + 9 * self.width)


def shifted(x_btd: Tensor, before_btd: Tensor, share: Tensor) -> Tensor:
    """Each channel's mean of a token and the one before it; `share` of the token itself."""
    share = share.to(x_btd.dtype)
    return x_btd * share + before_btd * (1 - share)


def layer_shares(layer: int, depth: int) -> tuple[float, float]:
    """How far a layer lies in the depth: from 0 to 1, and from 1 down to 1 / depth."""
    return layer / max(depth - 1, 1), 1 - layer / depth


def channel_shares(width: int) -> Tensor:
    """0 to almost 1 over the channels [1, 1, width]."""
    return (torch.arange(width) / width).view(1, 1, width)


def weighted_mean(
    key_btd: Tensor, value_btd: Tensor, fade_d: Tensor, bonus_d: Tensor, before_b2d: Tensor, level_bd: Tensor, step: Step
) -> tuple[Tensor, Tensor, Tensor]:
    """wkv of every token, and both sums with their level after the last; all float32.

    Args:
        key_btd, value_btd: of each token.
        fade_d: w, by which logarithms fall with each token.
        bonus_d: u, added to the token's own key.
        before_b2d: sums of weighted values and of weights before the first token, divided by e^level; 0 where there was none.
        level_bd: their level.
        step: the call; a document begins with empty sums.

    Returns:
        [b, t, d], [b, 2, d] and [b, d].
    """
    fades, began = fade_d.expand_as(key_btd), level_bd.masked_fill(before_b2d[:, 1] == 0, NO_LEVEL)
    if step.begins is not None:
        fades = fades.masked_fill(step.begins[..., None], -NO_LEVEL)
    with torch.no_grad():
        levels = running_levels(key_btd, fades, began)
        past_levels = torch.cat((began[:, None], levels[:, :-1]), 1)
        if step.begins is not None:
            past_levels = past_levels.masked_fill(step.begins[..., None], NO_LEVEL)
        top = torch.maximum(past_levels, key_btd + bonus_d)
    kept = activate(torch.exp, past_levels - fade_d - levels, step.deterministic)
    weight = activate(torch.exp, key_btd - levels, step.deterministic)
    inputs = torch.stack((weight * value_btd, weight), 2)  # [b, t, 2, d]
    sums = linear_scan(kept[:, :, None].expand_as(inputs), inputs, before_b2d)
    past_sums = torch.cat((before_b2d[:, None], sums[:, :-1]), 1)
    past = activate(torch.exp, past_levels - top, step.deterministic)
    own = activate(torch.exp, key_btd + bonus_d - top, step.deterministic)
    y = (past * past_sums[:, :, 0] + own * value_btd) / (past * past_sums[:, :, 1] + own)
    return y, last_states(before_b2d, sums, step), last_states(level_bd, levels, step)


def running_levels(key_btd: Tensor, fade_btd: Tensor, before_bd: Tensor) -> Tensor:
    """l_t = max(l_{t-1} - fade_t, k_t) of every token, by doublings as in `scan.py`: maxima and sums in the place of sums and products."""
    level, fade, back = key_btd.clone(), fade_btd.clone(), 1
    level[:, 0] = torch.maximum(level[:, 0], before_bd - fade[:, 0])
    while back < level.shape[1]:
        level[:, back:] = torch.maximum(level[:, back:], level[:, :-back] - fade[:, back:])
        fade[:, back:] = fade[:, back:] + fade[:, :-back]
        back *= 2
    return level


class RwkvLever(PartLever):
    """RWKV's time mix as a new decoder's mixer; its own channel is `rwkv_channel`."""

    name: ClassVar[str] = "rwkv"
    idea: ClassVar[str] = (
        "Attention without queries: each channel takes a mean of all earlier values whose weights are the keys', fading at a rate of its "
        "own, so the past is two sums a channel. Nothing can be looked up by what it is, only by how loud it was and how long ago."
    )
    equation: ClassVar[str] = "wkv_t = (sum_{s<t} e^(k_s - (t-1-s) w) v_s + e^(u + k_t) v_t) / (the same without v);  y = sigmoid(r) wkv"
    paper: ClassVar[str] = "arXiv:2305.13048"
    cost: ClassVar[str] = "about 30 operations a channel and token besides its maps; memory of fixed size"
    identity: ClassVar[Any] = "there is none: another mixer"
    place: ClassVar[Any] = "mixer"

    inner: int | None = Field(None, ge=1, le=2**20, description="channels of keys and values; unset: the width")

    def plan(self, decoder: Decoder, layer: int) -> RwkvPlan:
        return RwkvPlan(self.inner or decoder.width, layer, decoder.depth)
