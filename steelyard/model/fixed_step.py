"""A decoding step that tensors of fixed address describe: one token for each of some consecutive slots, and nothing that the host knows.

An ordinary `Step` tells its parts in Python numbers which rows there are and how far each has come. A CUDA graph repeats its kernels
without Python, so whatever differs from one replay to the next must be read from memory: here what each row reads (by whoever calls the
trunk), where it stands, and which rows count. What is the same for all replays of one graph stays a Python number.

Shapes as in `step.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from steelyard.model.step import Step, scattered


@dataclass(frozen=True)
class FixedStep(Step):
    """One token in each of consecutive slots.

    To pools it is a step of rows without tokens: what a slot holds afterwards, the caller takes note of.

    Attributes:
        places: where each row's token stands, int64 [b].
        sources: for each row the row whose keys and values it writes: itself, or, of an idle row, one that is none, int64 [b]. So two
            rows may write the same numbers to the same place, and no idle slot is touched.
        extent: cached tokens that every row's mask goes over; what lies behind a row's own token is masked.
    """

    places: Tensor = field(kw_only=True)
    sources: Tensor = field(kw_only=True)
    extent: int = field(kw_only=True)

    @classmethod
    def of(cls, slots: range, places: Tensor, sources: Tensor, extent: int, capacity: int) -> Self:
        """A step of these slots, whose numbers lie in `places` and `sources`."""
        nothing = (0,) * len(slots)
        return cls(tuple(slots), nothing, nothing, 1, places.device, capacity=capacity, places=places, sources=sources, extent=extent)

    def _real(self) -> Tensor | None:
        return None

    def _positions(self) -> Tensor:
        return self.places[:, None]

    def _scatter(self, heads: int, tokens: int) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        index = scattered(self.slots[0] + self.sources, self.places[self.sources], heads, tokens)
        return index, (self.sources, torch.zeros_like(self.sources))

    def _extents(self) -> tuple[tuple[slice | tuple[int, ...], int], ...]:
        return ((slice(None), self.extent),)

    def _mask(self, rows: slice | Sequence[int], keys: int, causal: bool, window: int | None) -> Tensor:
        assert rows == slice(None) and causal, "a fixed step has one group of rows, and no token after its own"
        key, place = torch.arange(keys, device=self.device), self.places[:, None]
        allowed = key <= place
        if window is not None:
            allowed = allowed & (key > place - window)
        return allowed[:, None, None]  # [b, 1, 1, s]
