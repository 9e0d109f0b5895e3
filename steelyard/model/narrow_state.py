"""Keys and values in bfloat16, laid out as the C++ step multiplies them (`native/source/attention.hpp`): half the memory to read.

Both dot products of attention take pairs of bfloat16 numbers: scores pair neighbouring numbers of a key, so keys stand sixteen
tokens side by side; the values' sum pairs neighbouring tokens. The trunk's own path reads the same stores as float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from steelyard.model.state import Role, zeros
from steelyard.model.step import Step

BLOCK = 64
"""Room for tokens is a multiple of this many; keys stand in blocks of 16 of them."""


class NarrowStore:
    """Tokens [slots, h, tokens, d] as bfloat16 [slots, h, tokens / side, d / pair, side, pair].

    Keys have side 16 and pair 2; values side 2 and pair 1. `d` is even for keys.
    """

    in_parts = True

    def __init__(self, slots: int, heads: int, tokens: int, width: int, role: Role):
        self.side, pair = (16, 2) if role == "keys" else (2, 1)
        self.capacity = -(-tokens // BLOCK) * BLOCK
        shape = (slots, heads, self.capacity // self.side, width // pair, self.side, pair)
        self.data = zeros(shape, torch.bfloat16, torch.device("cpu"))

    def write(self, step: Step, x_bhtd: Tensor) -> None:
        rows = [row for row, length in enumerate(step.lengths) for _ in range(length)]
        times = [time for length in step.lengths for time in range(length)]
        slots = torch.tensor([step.slots[row] for row in rows])
        places = torch.tensor([step.starts[row] + time for row, time in zip(rows, times, strict=True)])
        x_nhd = x_bhtd.transpose(1, 2)[rows, times].to(torch.bfloat16)
        self.data[slots, :, places // self.side, :, places % self.side] = x_nhd.unflatten(-1, self.data.shape[3::2])

    def read(self, slots: list[int] | slice, extent: int) -> Tensor:
        """The first `extent` tokens of some slots as float32 [slots, h, extent, d]."""
        blocks = self.data[slots, :, : -(-extent // self.side)].float()
        return blocks.transpose(3, 4).flatten(4).flatten(2, 3)[:, :, :extent]

    def views(self, step: Step, rows: slice | tuple[int, ...], extent: int) -> Iterator[tuple[slice, Tensor]]:
        slots = step.slots if isinstance(rows, slice) else tuple(step.slots[row] for row in rows)
        yield slice(None), self.read(list(slots), extent)

    def reach(self, slot: int, position: int) -> int:
        return position

    def copy(self, source: int, target: int, length: int) -> None:
        blocks = -(-length // self.side)
        self.data[target, :, :blocks] = self.data[source, :, :blocks]

    def export(self, slot: int, length: int, start: int = 0) -> Tensor:
        """bfloat16 [h, length - start, d]."""
        first = start // self.side
        blocks = self.data[slot, :, first : -(-length // self.side)]
        return blocks.transpose(2, 3).flatten(3).flatten(1, 2)[:, start - first * self.side : length - first * self.side].clone()

    def load(self, slot: int, data: Tensor, start: int = 0) -> int:
        stop = start + data.shape[1]
        if start % self.side == 0 and data.shape[1] % self.side == 0:
            parts = data.unflatten(1, (-1, self.side)).unflatten(-1, self.data.shape[3::2])  # [h, blocks, side, d / pair, pair]
            self.data[slot, :, start // self.side : stop // self.side] = parts.transpose(2, 3)
        else:
            self.write(Step((slot,), (start,), (data.shape[1],), data.shape[1], data.device), data[None])
        return stop

    def bytes(self) -> int:
        return self.data.numel() * self.data.element_size()


class Narrow:
    """Storage of `NarrowStore`s, for parts whose memory the C++ step reads."""

    def __init__(self, horizon: int = 0):
        self.horizon = horizon

    def tokens(self, slots: int, heads: int, tokens: int, width: int, role: Role) -> NarrowStore:
        return NarrowStore(slots, heads, tokens, width, role)
