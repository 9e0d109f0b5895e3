"""Token rows as batches. What a batch holds is a function of (rows, settings, seed, epoch, index), so resuming is exact.

An epoch's plan is drawn from its own seed; the state that goes with a batch is the place of the next one. Packing puts
several rows on one line (first fit, arXiv:2107.02027); attention does not cross their borders.

Shapes: b lines, t time.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.core.seeds import derive
from steelyard.data.encoding import TokenRow

NOT_LEARNED = -100
OPEN_LINES = 256
"""Packing looks for room on this many lines, so that its time stays linear in the rows."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Lines of tokens.

    Attributes:
        ids: int64 [b, t]; padding holds token 0.
        targets: int64 [b, t]: the next token where it is learned, else -100.
        segments: int64 [b, t]: number of the row on its line, -1 for padding; None where every line holds one row (padding
            is then at the end, where a causal model's tokens do not see it).
        where: addresses of the rows, for errors.
        tokens: tokens that are not padding.
    """

    ids: np.ndarray
    targets: np.ndarray
    segments: np.ndarray | None
    where: tuple[str, ...]
    tokens: int

    @property
    def learned(self) -> int:
        """Tokens the loss is taken on."""
        return int((self.targets != NOT_LEARNED).sum())


@dataclass(frozen=True)
class Place:
    """The next batch of a stream: `index` within `epoch`, both from 0."""

    epoch: int = 0
    index: int = 0


@dataclass(frozen=True)
class Batches:
    """A stream of batches over token rows.

    Attributes:
        rows: what to batch.
        size: lines of a batch; the last one of an epoch may have fewer.
        seed: of the order.
        epochs: passes over the rows; None goes on for ever; a fraction stops within a pass.
        pack: tokens of a line to pack rows into, or None for one row a line.
        shuffle: a new order each epoch, or the rows' own.
    """

    rows: Sequence[TokenRow]
    size: int
    seed: int = 0
    epochs: float | None = 1.0
    pack: int | None = None
    shuffle: bool = True

    def plan(self, epoch: int) -> list[list[list[int]]]:
        """An epoch's batches as lines of row numbers."""
        order = list(range(len(self.rows)))
        if self.shuffle:
            random.Random(derive(self.seed, "order", epoch)).shuffle(order)
        lines = [[row] for row in order] if self.pack is None else first_fit([len(row) for row in self.rows], order, self.pack)
        return [lines[start : start + self.size] for start in range(0, len(lines), self.size)]

    def __len__(self) -> int:
        """Batches of the whole stream (of one epoch where it has no end)."""
        epochs = 1.0 if self.epochs is None else self.epochs
        if self.pack is None:  # every epoch has as many
            batches, whole = math.ceil(len(self.rows) / self.size), math.floor(epochs)
            return whole * batches + (self._share(whole, batches) if epochs > whole else 0)
        return sum(self._share(epoch, len(self.plan(epoch))) for epoch in range(math.ceil(epochs)))

    def _share(self, epoch: int, batches: int) -> int:
        """How many of an epoch's batches are used: all, but for a last epoch that is a fraction (then at least one)."""
        share = 1.0 if self.epochs is None else min(1.0, self.epochs - epoch)
        return math.ceil(round(share * batches, 6))

    def iterate(self, place: Place = Place()) -> Iterator[tuple[Batch, Place]]:
        """Batches from a place on, each with the place of the one after it."""
        epoch, index = place.epoch, place.index
        while self.epochs is None or epoch < self.epochs:
            plan = self.plan(epoch)
            stop = self._share(epoch, len(plan))
            while index < stop:
                following = Place(epoch, index + 1) if index + 1 < len(plan) else Place(epoch + 1, 0)
                yield assemble([[self.rows[row] for row in line] for line in plan[index]], packed=self.pack is not None), following
                index += 1
            epoch, index = epoch + 1, 0


def first_fit(lengths: Sequence[int], order: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows, taken in order, each on the first line with room for it; a row longer than the capacity has a line of its own."""
    lines: list[list[int]] = []
    open_lines: deque[tuple[int, int]] = deque(maxlen=OPEN_LINES)  # (line, room)
    for row in order:
        length = lengths[row]
        place = next((place for place, (_, room) in enumerate(open_lines) if room >= length), None)
        if place is None:
            lines.append([row])
            open_lines.append((len(lines) - 1, capacity - length))
        else:
            line, room = open_lines[place]
            lines[line].append(row)
            open_lines[place] = (line, room - length)
    return lines


def assemble(lines: Sequence[Sequence[TokenRow]], *, packed: bool) -> Batch:
    """One batch from lines of rows."""
    time = max(sum(map(len, line)) for line in lines)
    ids = np.zeros((len(lines), time), np.int64)
    targets = np.full((len(lines), time), NOT_LEARNED, np.int64)
    segments = np.full((len(lines), time), -1, np.int64)
    for index, line in enumerate(lines):
        start = 0
        for number, row in enumerate(line):
            end = start + len(row)
            ids[index, start:end] = row.ids
            segments[index, start:end] = number
            # A row's last token predicts nothing: what follows belongs to another row.
            targets[index, start : end - 1] = np.where(row.learned[1:], row.ids[1:], NOT_LEARNED)
            start = end
    where = tuple(row.where for line in lines for row in line)
    return Batch(ids, targets, segments if packed else None, where, int((segments >= 0).sum()))
