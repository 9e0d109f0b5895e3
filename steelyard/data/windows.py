"""Windows of equal length over a corpus of tokens, as batches. What a batch holds is a function of (tokens, settings, seed, epoch, index).

| order | windows |
| --- | --- |
| `random` | begin anywhere, drawn anew for each batch, as nanoGPT's do: windows overlap, and some tokens come more often than others |
| `shuffled` | lie one after another without overlap; each epoch has its own order and shows each window once |
| `sequential` | the same, in the corpus's order |

A window of `time` inputs reads `time` + 1 tokens: each is followed by its target. Windows without overlap share that last token, so
every token but the first is a target once an epoch, except those left at the end where no whole window fits.
The shuffled order is a permutation that is computed, not stored (a Feistel network over window numbers, walked until it stays in
range): any place of any epoch is found at once, whatever the size of the corpus.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from steelyard.core.errors import DataError
from steelyard.core.seeds import derive
from steelyard.data.batching import NOT_LEARNED, Batch, Place
from steelyard.data.token_file import TokenFile

Order = Literal["random", "shuffled", "sequential"]
ROUNDS = 4
BEGIN = Place()


@dataclass(frozen=True)
class Windows:
    """A stream of batches of windows.

    Attributes:
        tokens: the corpus, or a part of it.
        size: windows of a batch; an epoch's last batch may have fewer, unless `whole_batches`.
        time: tokens of a window.
        seed: of the order.
        mask_documents: attention does not cross documents and no document's last token is asked for the next one's first.
        order: see the table above.
        epochs: passes; None goes on for ever; a fraction stops within a pass. A pass of random windows is as many as would cover
            the corpus once.
        whole_batches: leave out an epoch's last batch where it has fewer windows (equal shapes suit compiled models).
    """

    tokens: TokenFile
    size: int
    time: int
    seed: int = 0
    mask_documents: bool = False
    order: Order = "random"
    epochs: float | None = None
    whole_batches: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or self.time < 1:
            raise DataError(f"batches of {self.size} windows of {self.time} tokens", where=str(self.tokens.path), do="Both are at least 1.")
        if len(self.tokens) <= self.time:
            raise DataError(
                f"{len(self.tokens)} tokens are too few for one window of {self.time} and its target",
                where=str(self.tokens.path),
                do="Give more text, shorten the window, or keep less aside.",
            )
        if self.whole_batches and self.windows < self.size:
            raise DataError(
                f"{self.windows} windows do not fill one batch of {self.size}", where=str(self.tokens.path), do="Lower the batch."
            )

    @property
    def windows(self) -> int:
        """Windows of an epoch."""
        return (len(self.tokens) - 1) // self.time

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch."""
        return self.windows // self.size if self.whole_batches else math.ceil(self.windows / self.size)

    def __len__(self) -> int:
        """Batches of the whole stream (of one epoch where it has no end)."""
        epochs = 1.0 if self.epochs is None else self.epochs
        whole = math.floor(epochs)
        return whole * self.batches_per_epoch + self._share(epochs - whole)

    def _share(self, part: float) -> int:
        return math.ceil(round(part * self.batches_per_epoch, 6))

    def iterate(self, place: Place = BEGIN) -> Iterator[tuple[Batch, Place]]:
        """Batches from a place on, each with the place of the one after it."""
        epoch, index = place.epoch, place.index
        while self.epochs is None or epoch < self.epochs:
            stop = self.batches_per_epoch if self.epochs is None else self._share(min(1.0, self.epochs - epoch))
            while index < stop:
                following = Place(epoch, index + 1) if index + 1 < self.batches_per_epoch else Place(epoch + 1, 0)
                yield self.batch(epoch, index), following
                index += 1
            epoch, index = epoch + 1, 0

    def batch(self, epoch: int, index: int) -> Batch:
        """One batch: ids, targets and (where documents are masked) segments of int64 [size, time]."""
        starts = self.starts(epoch, index)
        rows = np.empty((len(starts), self.time + 1), np.int64)
        for row, start in zip(rows, starts, strict=True):
            row[:] = self.tokens.ids[start : start + self.time + 1]
        ids, targets, segments = rows[:, :-1].copy(), rows[:, 1:].copy(), None
        if self.mask_documents:
            segments = np.zeros_like(ids)
            for row, start in enumerate(starts):
                borders = self._borders(start)
                targets[row, borders - 1] = NOT_LEARNED
                segments[row, borders[borders < self.time]] = 1
            np.cumsum(segments, axis=1, out=segments)
        name = self.tokens.path.stem[:8]
        where = tuple(f"tokens {self.tokens.first + start} of {name}" for start in starts)
        return Batch(ids, targets, segments, where, ids.size)

    def starts(self, epoch: int, index: int) -> list[int]:
        """Where the windows of a batch begin, counted from the first of `tokens`."""
        if self.order == "random":
            possible = len(self.tokens) - self.time
            return [derive(self.seed, "window", epoch, index, row) % possible for row in range(self.size)]
        numbers = range(index * self.size, min((index + 1) * self.size, self.windows))
        if self.order == "sequential":
            return [number * self.time for number in numbers]
        keys = [derive(self.seed, "order", epoch, turn) for turn in range(ROUNDS)]
        return [permuted(number, self.windows, keys) * self.time for number in numbers]

    def _borders(self, start: int) -> np.ndarray:
        """Where documents begin within a window, in 1 ... time: int64 [borders]."""
        begin = self.tokens.first + start
        low, high = np.searchsorted(self.tokens.starts, np.array([begin + 1, begin + self.time + 1], np.int64))
        return self.tokens.starts[low:high] - begin


def permuted(number: int, count: int, keys: list[int]) -> int:
    """The image of `number` under a permutation of 0 ... `count` - 1 that the keys choose."""
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = number >> half, number & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        number = left << half | right
        if number < count:
            return number


def _mixed(value: int) -> int:
    """63 bits, each depending on all (the finisher of SplitMix64, doi:10.1145/2660193.2660195)."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 31
