"""Keys and values on disk: each layer's are read as its block is computed, those of the next layer while this one is at work.

FlexGen's order for states (arXiv:2303.06865, section 4): a layer's keys and values of all rows of a call come in together, what the call adds
to them goes out again, and of 2 L stores four are in memory at once: keys and values of the layer at work and of the one after it.

    memory ~ 4 x rows x heads x longest text x width of a head;   a pass reads all that its texts remember, and writes whole pages

A head's tokens of a slot lie together on disk, in whole pages of so many tokens that reads and writes need no copy; in memory they lie as
`DenseStore` reads them, so attention sees the same numbers in the same order: the same bits. One thread reads and writes, one thing after
the other, so that whatever is read later sees what was written before. A file that fails stays failed: nobody knows what it holds.

Shapes: b rows of a call, h heads, t time, d head width.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from steelyard.core.fingerprint import digest
from steelyard.model.files.block_file import PAGE, BlockFile
from steelyard.model.state import Role
from steelyard.model.step import Step

T = TypeVar("T")

TOGETHER = 2
"""Stores of one layer: keys and values."""


@dataclass(frozen=True)
class OnDisk:
    """A plan for an engine's states (`StatePlan`).

    Attributes:
        numbers: the type of the numbers that are kept.
        folder: on the disk to use; None = the system's for temporary files.
    """

    numbers: torch.dtype
    folder: Path | None = None

    @property
    def fingerprint(self) -> str:
        return digest(["on disk", self.numerics])

    @property
    def numerics(self) -> str:
        return f"{str(self.numbers).removeprefix('torch.')} on disk"

    def storage(self, dtype: torch.dtype, device: torch.device, horizon: int) -> DiskStates:
        return DiskStates(self.numbers, dtype, horizon, self.folder)


class DiskStates:
    """Storage of keys and values on disk. Not thread-safe: whoever runs the model owns it.

    Args:
        numbers: the type of what is kept.
        seen: the type in which attention sees it.
        horizon: tokens one can go back; it is all of them.
        folder: on the disk to use.
    """

    def __init__(self, numbers: torch.dtype, seen: torch.dtype, horizon: int = 0, folder: Path | None = None):
        self.numbers, self.seen, self.horizon = numbers, seen, horizon
        self.file = BlockFile(folder, "keys and values")
        self.stores: list[weakref.ref[DiskStore]] = []  # it is they who keep the file open
        self.room = 0  # bytes of the largest store
        self.reads = 0
        self._memory: list[mmap.mmap] = []
        self._step: Step | None = None
        self._ahead: dict[int, Future[None]] = {}  # reads for `_step` that are under way, by the store's number
        self._thread = ThreadPoolExecutor(1, "steelyard-states")
        self._failure: Exception | None = None

    def tokens(self, slots: int, heads: int, tokens: int, width: int, role: Role) -> DiskStore:
        """A store whose layer's other one is the one made right before or after it, as `KeyValuePool.of` makes them."""
        store = DiskStore(self, len(self.stores), slots, heads, tokens, width)
        self.stores.append(weakref.ref(store))
        self.room = max(self.room, store.room)
        return store

    def bring(self, store: DiskStore, step: Step) -> Tensor:
        """What a store's rows hold of a call's texts so far, [b, h, whole pages, d], in memory that the layer after the next overwrites;
        and has the next layer's read meanwhile."""
        if step is not self._step:
            self._step, self._ahead = step, {}
        reading = self._ahead.pop(store.number, None) or self._read(store, step)
        reading.result()
        after = self.stores[store.number + TOGETHER :]
        if after and (following := after[0]()) is not None:
            self._ahead[following.number] = self._read(following, step)
        return self._staged(store, step)

    def _read(self, store: DiskStore, step: Step) -> Future[None]:
        memory, extents = memoryview(self._staging(store)), list(store.extents(step, written=False))

        def read() -> None:
            self.reads += 1
            for place, offset, size in extents:
                self.file.read_into(memory[place : place + size], offset)

        return self._next(read)

    def write(self, store: DiskStore, step: Step) -> None:
        """Sends the pages that hold a call's tokens to disk."""
        memory, extents = memoryview(self._staging(store)), list(store.extents(step, written=True))

        def write() -> None:
            for place, offset, size in extents:
                self.file.write(memory[place : place + size], offset)

        self._next(write)

    def do(self, action: Callable[[], T]) -> T:
        """Something that reads or writes, after all that was asked for before it."""
        return self._next(action).result()

    def _next(self, action: Callable[[], T]) -> Future[T]:
        def guarded() -> T:
            if self._failure is not None:
                raise self._failure
            try:
                return action()
            except Exception as error:
                self._failure = error
                raise

        return self._thread.submit(guarded)

    def _staging(self, store: DiskStore) -> mmap.mmap:
        """The memory a store is read into. The system hands it out as it is touched, so that only the longest texts count."""
        if not self._memory:
            self._memory = [mmap.mmap(-1, self.room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2 * TOGETHER)]
            for memory in self._memory:
                if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a few tokens would take whole huge pages (`model/state.py`)
                    memory.madvise(mmap.MADV_NOHUGEPAGE)
        return self._memory[store.number % len(self._memory)]

    def _staged(self, store: DiskStore, step: Step) -> Tensor:
        shape = (step.rows, store.heads, store.span(step), store.width)
        return torch.frombuffer(self._staging(store), dtype=self.numbers, count=math.prod(shape)).view(shape)


class DiskStore:
    """One tensor [slots, h, tokens, d] on disk: keys or values of one layer. `page` is how many tokens of a head fill whole pages."""

    in_parts = True

    def __init__(self, states: DiskStates, number: int, slots: int, heads: int, tokens: int, width: int):
        self.states, self.number, self.heads, self.width = states, number, heads, width
        self.token = width * states.numbers.itemsize  # bytes
        self.page = PAGE // math.gcd(PAGE, self.token)
        self.capacity = self._whole(tokens)
        self.room = slots * heads * self.capacity * self.token
        self.offset = states.file.reserve(self.room)
        self.staged: Tensor | None = None

    def _whole(self, tokens: int) -> int:
        """Tokens up to the next whole page."""
        return -(-tokens // self.page) * self.page

    def _place(self, slot: int, head: int, token: int) -> int:
        """Where a head's tokens begin in the file."""
        return self.offset + ((slot * self.heads + head) * self.capacity + token) * self.token

    def span(self, step: Step) -> int:
        """Tokens of each row that are in memory in a call."""
        return self._whole(max(extent for _, extent in step.extents))

    def extents(self, step: Step, written: bool) -> Iterator[tuple[int, int, int]]:
        """(place in memory, place in the file, bytes) of what a call needs of earlier tokens, or of the pages that hold its own."""
        span = self.span(step)
        for row, (slot, start, length) in enumerate(zip(step.slots, step.starts, step.lengths, strict=True)):
            first, last = (start // self.page * self.page, self._whole(start + length)) if written else (0, self._whole(start))
            if not length or first == last:
                continue
            for head in range(self.heads):
                place = ((row * self.heads + head) * span + first) * self.token
                yield place, self._place(slot, head, first), (last - first) * self.token

    def write(self, step: Step, x_bhtd: Tensor) -> None:
        self.staged = self.states.bring(self, step)
        for row, (start, length) in enumerate(zip(step.starts, step.lengths, strict=True)):
            if length:
                self.staged[row, :, start : start + length] = x_bhtd[row, :, :length].to(self.staged.dtype)
                self.staged[row, :, start + length :] = 0  # other rows' numbers of an earlier layer may be none
        self.states.write(self, step)

    def views(self, step: Step, rows: slice | tuple[int, ...], extent: int) -> Iterator[tuple[slice, Tensor]]:
        assert self.staged is not None, "views follow write"
        picked = self.staged if isinstance(rows, slice) else self.staged[list(rows)]
        yield slice(None), picked[:, :, :extent].to(self.states.seen)

    def reach(self, slot: int, position: int) -> int:
        return position

    def copy(self, source: int, target: int, length: int) -> None:
        if length:
            self._put(target, self.export(source, length), 0)

    def export(self, slot: int, length: int, start: int = 0) -> Tensor:
        """[h, length - start, d] in the type that is kept."""
        first = start // self.page * self.page
        return self._get(slot, first, self._whole(length))[:, start - first : length - first].clone()

    def load(self, slot: int, data: Tensor, start: int = 0) -> int:
        self._put(slot, data, start)
        return start + data.shape[1]

    def _get(self, slot: int, first: int, last: int) -> Tensor:
        """Whole pages of a slot: [h, last - first, d]."""
        size = (last - first) * self.token
        if not size:
            return torch.zeros(self.heads, 0, self.width, dtype=self.states.numbers)
        memory = mmap.mmap(-1, self.heads * size)

        def read() -> None:
            for head in range(self.heads):
                self.states.file.read_into(memoryview(memory)[head * size : (head + 1) * size], self._place(slot, head, first))

        self.states.do(read)
        return torch.frombuffer(memory, dtype=self.states.numbers).view(self.heads, -1, self.width)

    def _put(self, slot: int, data_htd: Tensor, start: int) -> None:
        """Puts tokens in from `start` on; of those before it in the same page nothing is lost."""
        first, stop = start // self.page * self.page, start + data_htd.shape[1]
        if start == stop:
            return
        size = (self._whole(stop) - first) * self.token
        memory = mmap.mmap(-1, self.heads * size)
        pages = torch.frombuffer(memory, dtype=self.states.numbers).view(self.heads, -1, self.width)
        if first < start:
            pages[:, : self.page] = self._get(slot, first, first + self.page)
        pages[:, start - first : stop - first] = data_htd

        def write() -> None:
            for head in range(self.heads):
                self.states.file.write(memoryview(memory)[head * size : (head + 1) * size], self._place(slot, head, first))

        self.states.do(write)

    def bytes(self) -> int:
        """Bytes of the memory that it is read into, which stores share by fours; those on disk are not counted."""
        return self.states.room if self.number < 2 * TOGETHER else 0
