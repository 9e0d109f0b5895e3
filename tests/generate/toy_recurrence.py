"""A recurrence small enough to read at a glance: a part whose memory is no list of tokens, so that going back has to be provided for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from tiny_engines import talker
from torch import Tensor, nn

from steelyard.model.depth.stacked import StackedPlan
from steelyard.model.linears.linear import Linear
from steelyard.model.model import Model
from steelyard.model.state import Storage
from steelyard.model.step import Step


@dataclass(frozen=True)
class DecayPlan:
    """h_t = decay h_{t-1} + in x_t;  y_t = out tanh(h_t)."""

    decay: float = 0.7

    def build(self, width: int) -> Decay:
        return Decay(width, self)


class Decay(nn.Module):
    """x [b, t, width] -> [b, t, width]."""

    grid, causal = 1, True

    def __init__(self, width: int, plan: DecayPlan):
        super().__init__()
        self.plan, self.width = plan, width
        self.into, self.out = Linear(width, width, False), Linear(width, width, False)

    def new_pool(self, slots: int, tokens: int, storage: Storage) -> DecayPool:
        return DecayPool(slots, self.width, storage.horizon)

    def forward(self, x_btd: Tensor, step: Step, state: DecayPool | None = None) -> Tensor:
        x = self.into(x_btd).float()
        h_btd = torch.zeros_like(x)
        for row, length in enumerate(step.lengths):
            h = state.latest(step.slots[row]) if state is not None else x.new_zeros(self.width)
            for time in range(length):
                h = self.plan.decay * h + x[row, time]
                h_btd[row, time] = h
            if state is not None and length:
                state.extend(step.slots[row], list(h_btd[row, :length]))
        return self.out(torch.tanh(h_btd).to(x_btd.dtype))


class DecayPool:
    """The states after the last `horizon` + 1 tokens of every slot: nothing of it can be kept in part."""

    in_parts = False

    def __init__(self, slots: int, width: int, horizon: int):
        self.width, self.horizon = width, horizon
        self.lengths = [0] * slots
        self.states: list[list[Tensor]] = [[] for _ in range(slots)]

    def latest(self, slot: int) -> Tensor:
        return self.states[slot][-1] if self.lengths[slot] else torch.zeros(self.width)

    def extend(self, slot: int, states: list[Tensor]) -> None:
        self.lengths[slot] += len(states)
        self.states[slot] = [*self.states[slot], *states][-self.horizon - 1 :]

    def free(self, slot: int) -> None:
        self.lengths[slot], self.states[slot] = 0, []

    def fork(self, source: int, target: int, length: int | None = None) -> None:
        self.lengths[target], self.states[target] = self.lengths[source], list(self.states[source])

    def rewind(self, slot: int, position: int) -> int:
        back = self.lengths[slot] - position
        if back <= 0:
            return position
        if position and back < len(self.states[slot]):
            self.lengths[slot] = position
            del self.states[slot][-back:]
            return position
        self.free(slot)
        return 0

    def export(self, slot: int, start: int = 0, stop: int | None = None) -> dict[str, Any]:
        return {"length": self.lengths[slot], "states": list(self.states[slot])}

    def load(self, slot: int, data: Mapping[str, Any], start: int = 0) -> None:
        self.lengths[slot], self.states[slot] = data["length"], list(data["states"])

    def bytes(self) -> int:
        return sum(state.numel() * state.element_size() for states in self.states for state in states)


def recurrent_talker(sharpness: float = 6.0, seed: int = 0, attention: bool = True, **config: object) -> Model:
    """A talker whose second block of two has the recurrence for a mixer; or both."""
    model = talker(sharpness, seed=seed, **config)
    plan = model.trunk.plan
    blocks = [replace(block, mixer=DecayPlan()) if index or not attention else block for index, block in enumerate(plan.depth.blocks)]
    torch.manual_seed(seed + 100)
    trunk = replace(plan, depth=StackedPlan(tuple(blocks))).build().eval()
    with torch.no_grad():
        for parameter in trunk.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(sharpness)
    return model.with_trunk(trunk)
