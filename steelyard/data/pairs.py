"""Pairs of token rows as batches: a source to read and a target to write about it.

What a batch holds is a function of (pairs, settings, seed, epoch, index), so resuming is exact, as in `batching.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.core.errors import DataError
from steelyard.core.seeds import derive
from steelyard.data.batching import NOT_LEARNED, Batch, Place

Pair = tuple[Sequence[int], Sequence[int]]
"""Tokens of the source, and of the target without its borders."""


@dataclass(frozen=True, eq=False)
class PairBatch(Batch):
    """Targets as in a `Batch`, and of each line its source.

    Attributes:
        source: int64 [b, s]; padding holds token 0.
        lengths: tokens of each source.
    """

    source: np.ndarray
    lengths: tuple[int, ...]


def batch_of(pairs: Sequence[Pair], border: int = 0) -> PairBatch:
    """Some pairs side by side; targets begin and end with the border.

    Raises:
        DataError: a source without tokens.
    """
    if empty := [number for number, (source, _) in enumerate(pairs) if not len(source)]:
        raise DataError(f"the source of pair {empty[0]} is empty", do="Leave the pair out.")
    wide, time = max(len(source) for source, _ in pairs), max(len(target) for _, target in pairs) + 1
    sources, ids = np.zeros((len(pairs), wide), np.int64), np.zeros((len(pairs), time), np.int64)
    targets = np.full((len(pairs), time), NOT_LEARNED, np.int64)
    for row, (source, target) in enumerate(pairs):
        sources[row, : len(source)] = source
        ids[row, : len(target) + 1] = [border, *target]
        targets[row, : len(target) + 1] = [*target, border]
    lengths = tuple(len(source) for source, _ in pairs)
    where = tuple(f"pair {number}" for number in range(len(pairs)))
    return PairBatch(ids, targets, None, where, sum(lengths) + sum(len(target) + 1 for _, target in pairs), sources, lengths)


@dataclass(frozen=True)
class Pairs:
    """Batches of `size` pairs for ever or for some `epochs`, in a new order each epoch; the last of an epoch may be smaller."""

    rows: Sequence[Pair]
    size: int
    seed: int = 0
    border: int = 0
    epochs: int | None = None

    def iterate(self, place: Place = Place()) -> Iterator[tuple[PairBatch, Place]]:  # noqa: B008  # a place is frozen
        batches, at = -(-len(self.rows) // self.size), place
        while batches and (self.epochs is None or at.epoch < self.epochs):
            order = list(range(len(self.rows)))
            random.Random(derive(self.seed, "pairs", at.epoch)).shuffle(order)
            for index in range(at.index, batches):
                numbers = order[index * self.size : (index + 1) * self.size]
                after = Place(at.epoch, index + 1) if index + 1 < batches else Place(at.epoch + 1, 0)
                yield batch_of([self.rows[number] for number in numbers], self.border), after
            at = Place(at.epoch + 1, 0)
