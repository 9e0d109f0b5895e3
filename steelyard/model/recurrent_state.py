"""The memory of recurrences: tensors of a fixed size for each slot, however long its text.

A recurrence cannot go back by forgetting the end of a list, so the pool keeps the states after the last `horizon` tokens as well
(what speculation takes back), and one every 256 tokens (what later texts that begin alike can start from).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from steelyard.model.step import Step

SNAPSHOT = 256
"""Tokens between two states that are kept for going far back. Prompts are read in stretches that end at multiples of it."""

MOST_SNAPSHOTS = 8
"""States a slot keeps for going far back; where there are more, every second one goes."""

Memory = dict[str, Tensor]
"""What a recurrence knows of each row's text so far: float32 [b, ...] by name."""

Run = Callable[[Tensor, Step, Memory], tuple[Tensor, Memory]]
"""(x [b, t, width], step, memory before) -> (y [b, t, width], memory after each row's last token)."""


def _filled_up(x_btd: Tensor, step: Step, memory: Memory, run: Run) -> tuple[Tensor, Memory]:
    """`run` of as many rows as exact products want (`step.tile`): rows without tokens behind those there are."""
    rows, more = step.rows, -step.rows % step.tile
    if not more:
        return run(x_btd, step, memory)
    part = step.changed(
        slots=step.slots + step.slots[:1] * more,
        starts=step.starts + (0,) * more,
        lengths=step.lengths + (0,) * more,
        adapters=None if step.adapters is None else step.adapters + (-1,) * more,
    )
    y, memory = run(_with_zeros(x_btd, more), part, {name: _with_zeros(value, more) for name, value in memory.items()})
    return y[:rows], {name: value[:rows] for name, value in memory.items()}


def _with_zeros(x_b: Tensor, more: int) -> Tensor:
    return torch.cat((x_b, x_b.new_zeros(more, *x_b.shape[1:])))


class RecurrentPool:
    """The states of one recurrent part, for all slots."""

    in_parts = True
    grid = SNAPSHOT

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], slots: int, horizon: int, device: torch.device):
        self.horizon, self.device = horizon, device
        # The state after n tokens stands at place n % (horizon + 1) of its slot.
        self.states = {name: torch.zeros(slots, horizon + 1, *shape, device=device) for name, shape in shapes.items()}
        self.lengths = [0] * slots
        self.oldest = [0] * slots  # the earliest length whose state is still in `states`
        self.snapshots: list[dict[int, Memory]] = [{} for _ in range(slots)]

    def through(self, x_btd: Tensor, step: Step, run: Run) -> Tensor:
        """Runs a call from the slots' states and keeps the states it leaves, each of the last `horizon` tokens."""
        memory = self._read(step)
        if self.horizon == 0 or step.time == 1:
            y, memory = run(x_btd, step, memory)
            self._write(step, memory, step.lengths)
            return y
        # All but the last tokens at once, then these one by one, because each leaves a state of its own.
        tails = tuple(min(length, self.horizon) for length in step.lengths)
        bodies = tuple(length - tail for length, tail in zip(step.lengths, tails, strict=True))
        y_btd = torch.zeros_like(x_btd)
        if longest := max(bodies):
            longest = min(-(-longest // step.tile) * step.tile, step.time)
            part = step.changed(lengths=bodies, time=longest)
            y_btd[:, :longest], memory = run(x_btd[:, :longest], part, memory)
            self._write(step, memory, bodies)
        rows = torch.arange(step.rows, device=x_btd.device)
        for number in range(max(tails)):
            real = tuple(int(number < tail) for tail in tails)
            times = tuple(min(body + number, step.time - 1) for body in bodies)
            starts = tuple(start + body + number for start, body in zip(step.starts, bodies, strict=True))
            place = torch.tensor(times, device=x_btd.device)
            part = step.changed(starts=starts, lengths=real, time=1)
            y, memory = _filled_up(x_btd[rows, place][:, None], part, memory, run)
            there = torch.tensor(real, dtype=torch.bool, device=x_btd.device)
            y_btd[rows[there], place[there]] = y[there, 0]
            self._write(step, memory, tuple(body + number + 1 if r else 0 for body, r in zip(bodies, real, strict=True)))
        return y_btd

    def _read(self, step: Step) -> Memory:
        """The states before a call; a slot that was left at another length than the call begins at is a mistake of the caller."""
        for slot, start, length in zip(step.slots, step.starts, step.lengths, strict=True):
            assert not length or self.lengths[slot] == start, f"slot {slot} holds {self.lengths[slot]} tokens, the call starts at {start}"
        slots = torch.tensor(step.slots, device=self.device)
        places = torch.tensor([self.lengths[slot] % (self.horizon + 1) for slot in step.slots], device=self.device)
        return {name: state[slots, places] for name, state in self.states.items()}

    def _write(self, step: Step, memory: Memory, lengths: tuple[int, ...]) -> None:
        """Keeps the states after `lengths` tokens of the call; rows of 0 leave their slot alone."""
        rows = [row for row, length in enumerate(lengths) if length]
        if not rows:
            return
        after = [step.starts[row] + lengths[row] for row in rows]
        slots = torch.tensor([step.slots[row] for row in rows], device=self.device)
        places = torch.tensor([length % (self.horizon + 1) for length in after], device=self.device)
        for name, value in memory.items():
            self.states[name][slots, places] = value[rows].to(self.states[name].dtype)
        for row, length in zip(rows, after, strict=True):
            slot = step.slots[row]
            single = length == self.lengths[slot] + 1
            self.lengths[slot] = length
            self.oldest[slot] = max(self.oldest[slot], length - self.horizon) if single else length
            if length % SNAPSHOT == 0:
                self._keep(slot, length)

    def _keep(self, slot: int, length: int) -> None:
        kept = self.snapshots[slot]
        kept[length] = self._state(slot, length)
        if len(kept) > MOST_SNAPSHOTS:
            for position in sorted(kept)[:-1][::2]:
                del kept[position]

    def _state(self, slot: int, length: int) -> Memory:
        return {name: state[slot, length % (self.horizon + 1)].clone() for name, state in self.states.items()}

    def _put(self, slot: int, length: int, memory: Memory) -> None:
        for name, value in memory.items():
            self.states[name][slot, length % (self.horizon + 1)] = value.to(self.device)
        self.lengths[slot] = self.oldest[slot] = length

    def free(self, slot: int) -> None:
        self.lengths[slot] = self.oldest[slot] = 0
        self.snapshots[slot] = {}
        for state in self.states.values():
            state[slot, 0] = 0

    def rewind(self, slot: int, position: int) -> int:
        """Goes back to `position` where its state is kept, else to the last snapshot before it, else to the beginning."""
        if position >= self.lengths[slot]:
            return position if position == self.lengths[slot] else self.lengths[slot]
        self.snapshots[slot] = {at: memory for at, memory in self.snapshots[slot].items() if at <= position}
        if position and position >= self.oldest[slot]:
            self.lengths[slot] = position
            return position
        if not self.snapshots[slot] or not position:
            self.free(slot)
            return 0
        at = max(self.snapshots[slot])
        self._put(slot, at, self.snapshots[slot][at])
        return at

    def fork(self, source: int, target: int, length: int | None = None) -> None:
        """The target holds what the source holds, or what it can go back to at `length`."""
        for state in self.states.values():
            state[target] = state[source]
        self.lengths[target], self.oldest[target] = self.lengths[source], self.oldest[source]
        self.snapshots[target] = dict(self.snapshots[source])
        if length is not None and length < self.lengths[target]:
            self.rewind(target, length)

    def export(self, slot: int, start: int = 0, stop: int | None = None) -> dict[str, Any]:
        """The state after `stop` tokens where it is kept, else nothing: a part of a text can do without."""
        stop = self.lengths[slot] if stop is None else stop
        if stop == self.lengths[slot]:
            memory = self._state(slot, stop)
        elif (found := self.snapshots[slot].get(stop)) is not None:
            memory = found
        else:
            return {}
        return {**memory, "length": torch.tensor(stop)}

    def load(self, slot: int, data: Mapping[str, Any], start: int = 0) -> None:
        """Puts an exported state in; where there is none the slot stays at the last state that was loaded."""
        if start == 0:
            self.free(slot)
        if data:
            length = int(data["length"])
            memory = {name: value for name, value in data.items() if name != "length"}
            self._put(slot, length, memory)
            if length % SNAPSHOT == 0:
                self.snapshots[slot][length] = memory

    def bytes(self) -> int:
        kept = [memory for snapshots in self.snapshots for memory in snapshots.values()]
        return sum(value.nbytes for memory in [self.states, *kept] for value in memory.values())
