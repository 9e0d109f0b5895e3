"""One call of the trunk, described: which rows, which slots, which positions.

Legend for shapes: b rows, t time (tokens of a row in this call, padded), s cached tokens attention looks at, h heads.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from steelyard.model.sites import SiteProgram

T = TypeVar("T")

EXTENT = 64
"""Cached keys are read in multiples of this many tokens, so that kernels see few distinct shapes."""

DETERMINISTIC_EXTENT = 256
"""In deterministic calls every row's keys are read up to a multiple of this many tokens that depends on the row alone."""


class Others(Protocol):
    """The processes that compute other lines of the same batch. All ask alike, for each waits for the others' answers."""

    def summed(self, own: Tensor, /) -> Tensor:
        """What all processes have of it, added up: a tensor of its own, which needs no gradient."""
        ...

    def agreed(self, value: float) -> float:
        """The first process's value, for all."""
        ...


class Notes:
    """What a call's parts have found for one another. Not a plain `dict`, because FSDP copies the collections that it finds in a call, down to
    those in dataclasses, and what a part tells a copy nobody hears."""

    def __init__(self, values: dict[Hashable, Any] | None = None):
        self.values = values or {}


@dataclass(frozen=True)
class Step:
    """What every part with memory needs to know about this call.

    Attributes:
        slots: the state slot of each row; () when there is no state.
        starts: tokens already in each row's slot.
        lengths: tokens of each row in this call (the rest of `t` is padding).
        time: t.
        device: where index tensors live.
        segments: document of each token, int64 [b, t], -1 for padding; attention never crosses documents.
        adapters: index of each row's adapter, -1 for a row without; None where no row has one.
        side: side inputs by name (images, neighbours).
        program: what to do at sites, or None.
        deterministic: results of a row must not depend on the other rows.
        tile: rows of products of which every multiple gives each row the same bits; what is taken out of a deterministic call and
            multiplied by itself is filled up to it.
        readable: attention by its equation rather than a fused kernel.
        capacity: tokens a slot holds; 0 when there is no state.
        others: the processes that train on other lines of the same batch, or None.
        counts: False where these lines stand in for ones that there are none of, so that no mean takes them in.
    """

    slots: tuple[int, ...]
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    time: int
    device: torch.device
    segments: Tensor | None = None
    adapters: tuple[int, ...] | None = None
    side: Mapping[str, Any] = field(default_factory=dict)
    program: SiteProgram | None = None
    deterministic: bool = False
    tile: int = 1
    readable: bool = False
    capacity: int = 0
    others: Others | None = None
    counts: bool = True
    _notes: Notes = field(default_factory=Notes, repr=False, compare=False)

    @classmethod
    def whole(cls, rows: int, time: int, device: torch.device, segments: Tensor | None = None, program: SiteProgram | None = None) -> Step:
        """Whole sequences without state: training, encoding, plain logits."""
        return cls((), (0,) * rows, (time,) * rows, time, device, segments=segments, program=program)

    @property
    def rows(self) -> int:
        return len(self.lengths)

    def of_rows(self, rows: Sequence[int]) -> Step:
        """A call of some of these rows alone, as long as the longest of them. `side` inputs, which need not belong to rows, stay."""

        def pick(values: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(values[row] for row in rows)

        time = max(self.lengths[row] for row in rows)
        return self.changed(
            slots=pick(self.slots) if self.slots else (),
            starts=pick(self.starts),
            lengths=pick(self.lengths),
            time=time,
            segments=None if self.segments is None else self.segments[list(rows), :time],
            adapters=None if self.adapters is None else pick(self.adapters),
            program=self.program and self.program.of_rows(rows),
        )

    def changed(self, **changes: Any) -> Step:
        """The call with some of it changed. It finds everything anew, but its parts' losses go where this one's go."""
        return replace(self, **changes, _notes=Notes({"losses": self.losses}))

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """A value computed once per call and shared by all layers (masks, rotary angles).

        Compiled blocks find what was computed before them, compute anything else themselves (fused loops do so faster than they would
        read it), and share only collections (`list`, `dict`), which layers fill together.
        """
        if torch.compiler.is_compiling() and make not in (list, dict):
            return self._notes.values[key] if isinstance(key, str) and key in self._notes.values else make()
        if key not in self._notes.values:
            self._notes.values[key] = make()
        return self._notes.values[key]

    @property
    def carry(self) -> dict[str, Any]:
        """What an earlier part leaves for a later one of the same call (RWKV's first values, a halting mask)."""
        return self.cached("carry", dict)

    @property
    def losses(self) -> list[tuple[str, Tensor]]:
        """What parts want to be smaller besides the loss of the text, already weighted: (name, scalar), gathered in training.

        Where several processes share a batch, these are shares that add up (`mean_share`).
        """
        return self.cached("losses", list)

    def total(self, own: Tensor) -> Tensor:
        """The sum over all lines of the batch, of which this process has its own; no gradient goes through it."""
        if self.others is None:
            return own.detach()
        return self.others.summed(own.detach() if self.counts else torch.zeros_like(own))

    def mean_share(self, own: Tensor) -> Tensor:
        """This process's share of a mean over the tokens of all lines of the batch: values of its own [n, ...], n tokens that are no
        padding -> [...].

        Shares of all processes add up to the mean, and so do their gradients. 0 where nobody has a token.
        """
        if self.others is None:
            return own.mean(0) if len(own) else own.sum(0)
        count = self.cached("tokens of all", lambda: self.total(torch.tensor(float(len(own)), device=own.device)))
        return own.sum(0) * self.counts / count.clamp(min=1)

    def agreed(self, value: int) -> int:
        """A number that all processes have in common: the first one's."""
        return value if self.others is None else int(self.others.agreed(value))

    @property
    def real(self) -> Tensor | None:
        """Which tokens are no padding, bool [b, t]; None where all are."""
        return self.cached("real", self._real)

    def _real(self) -> Tensor | None:
        if self.segments is not None:
            return None if bool((self.segments >= 0).all()) else self.segments >= 0
        if min(self.lengths) == self.time:
            return None
        lengths = torch.tensor(self.lengths, device=self.device)
        return torch.arange(self.time, device=self.device) < lengths[:, None]

    @property
    def begins(self) -> Tensor | None:
        """Which tokens are the first of a document that others precede on the line, bool [b, t]; None where there is one document a line."""
        return self.cached("begins", self._begins)

    def _begins(self) -> Tensor | None:
        if self.segments is None:
            return None
        begins = torch.zeros_like(self.segments, dtype=torch.bool)
        begins[:, 1:] = self.segments[:, 1:] != self.segments[:, :-1]
        return begins if bool(begins.any()) else None

    @property
    def positions(self) -> Tensor:
        """Absolute position of every token, int64 [b, t]; within its document where there are segments."""
        return self.cached("positions", self._positions)

    def _positions(self) -> Tensor:
        index = torch.arange(self.time, device=self.device)
        if self.segments is not None:
            change = torch.zeros_like(self.segments, dtype=torch.bool)
            change[:, 1:] = self.segments[:, 1:] != self.segments[:, :-1]
            first = torch.where(change, index, torch.zeros_like(index)).cummax(1).values
            return index - first
        return torch.tensor(self.starts, device=self.device)[:, None] + index

    @property
    def slot_range(self) -> slice | None:
        """The slots as a slice where they are consecutive: then reading a pool needs no copy."""
        if self.slots and self.slots == tuple(range(self.slots[0], self.slots[0] + len(self.slots))):
            return slice(self.slots[0], self.slots[0] + len(self.slots))
        return None

    def scatter(self, heads: int, tokens: int) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Where the real (not padding) tokens of this call go in a store of rows (slot, head, token), int64 [n * heads]; and which of the
        call's tokens they are, or None for all of them."""
        return self.cached(("scatter", heads, tokens), lambda: self._scatter(heads, tokens))

    def _scatter(self, heads: int, tokens: int) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        rows = [row for row, length in enumerate(self.lengths) for _ in range(length)]
        times = [time for length in self.lengths for time in range(length)]
        slots = torch.tensor([self.slots[row] for row in rows], device=self.device)
        places = torch.tensor([self.starts[row] + time for row, time in zip(rows, times, strict=True)], device=self.device)
        index = scattered(slots, places, heads, tokens)
        if len(rows) == self.rows * self.time:
            return index, None
        return index, (torch.tensor(rows, device=self.device), torch.tensor(times, device=self.device))

    @property
    def extents(self) -> tuple[tuple[slice | tuple[int, ...], int], ...]:
        """Groups of rows and how many cached tokens each group looks at.

        Normally one group with the longest row's extent. In deterministic calls a row's extent depends on that row
        alone, because the reduction order over keys may depend on their number.
        """
        return self.cached("extents", self._extents)

    def _extents(self) -> tuple[tuple[slice | tuple[int, ...], int], ...]:
        ends = [start + self.time for start in self.starts]
        if not self.deterministic:
            return ((slice(None), self._round(max(ends), EXTENT)),)
        groups: dict[int, list[int]] = {}
        for row, (start, length) in enumerate(zip(self.starts, self.lengths, strict=True)):
            groups.setdefault(self._round(start + max(length, 1), DETERMINISTIC_EXTENT), []).append(row)
        if len(groups) == 1:
            return ((slice(None), next(iter(groups))),)
        return tuple((tuple(rows), extent) for extent, rows in sorted(groups.items()))

    def _round(self, tokens: int, multiple: int) -> int:
        rounded = -(-tokens // multiple) * multiple
        return min(rounded, self.capacity) if self.capacity else rounded

    def mask(self, rows: slice | Sequence[int], keys: int, *, causal: bool, window: int | None) -> Tensor:
        """Which keys each query may see: bool [b, 1, t, s].

        With state the keys are the slot's tokens 0..s-1; without, the call's own tokens. `window` counts the token itself.
        """
        group = "all" if isinstance(rows, slice) else tuple(rows)
        return self.cached(("mask", group, keys, causal, window), lambda: self._mask(rows, keys, causal, window))

    def _mask(self, rows: slice | Sequence[int], keys: int, causal: bool, window: int | None) -> Tensor:
        pick = rows if isinstance(rows, slice) else torch.tensor(rows, device=self.device)
        key = torch.arange(keys, device=self.device)
        query = torch.arange(self.time, device=self.device)
        starts = torch.tensor(self.starts, device=self.device)[pick, None, None] if self.slots else 0
        place = query[None, :, None] + starts  # [b, t, 1]: the query's index among the keys
        lengths = torch.tensor(self.lengths, device=self.device)[pick, None, None]
        allowed = (key < (lengths + starts)) & torch.ones_like(place, dtype=torch.bool)
        if causal:
            allowed = allowed & (key <= place)
        if window is not None:
            allowed = allowed & (key > place - window)
            if not causal:
                allowed = allowed & (key < place + window)
        if self.segments is not None:
            segments = self.segments[pick]
            allowed = allowed & (segments[:, :, None] == segments[:, None, :])
        # A padding query sees its own place, so that no softmax is over nothing (its result is never read).
        padding = query[None, :, None] >= lengths
        own = key == torch.minimum(place, torch.tensor(keys - 1, device=self.device))
        return (allowed | (padding & own))[:, None]


def scattered(slots: Tensor, places: Tensor, heads: int, tokens: int) -> Tensor:
    """Where tokens, each of a slot and a place in it, int64 [n], go in a store of rows (slot, head, token): int64 [n * heads]."""
    head = torch.arange(heads, device=slots.device)
    return ((slots[:, None] * heads + head) * tokens + places[:, None]).reshape(-1)
