"""What a model remembers between calls: pools of slots, one pool for each part with memory.

A sequence owns one slot. The verbs act on slots, so the engine never asks what kind of memory a part has: attention's is
its keys and values, a recurrence's its hidden state.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from steelyard.model.step import Step


class TokenStore(Protocol):
    """One tensor per token and slot, kept in some way (dense, paged, quantized, offloaded)."""

    def write(self, step: Step, x_bhtd: Tensor) -> None:
        """Puts this call's tokens at their positions."""
        ...

    def views(self, step: Step, rows: slice | tuple[int, ...], extent: int) -> Iterator[tuple[slice, Tensor]]:
        """The first `extent` tokens of the given rows' slots as queries of this call see them, after `write`.

        Pairs of a stretch of the call's time and [rows, h, extent, d], in order; a tensor holds until the next is asked for. One
        pair where all queries see the same; stores of one storage cut time alike.
        """
        ...

    def reach(self, slot: int, position: int) -> int:
        """The last position at or before the given one from which the slot can go on as if it had never been further."""
        ...

    def copy(self, source: int, target: int, length: int) -> None: ...

    @property
    def in_parts(self) -> bool:
        """Whether any stretch of a slot's tokens can be copied, exported and loaded by itself."""
        ...

    def export(self, slot: int, length: int, start: int = 0) -> Any:
        """Tokens start..length of a slot."""
        ...

    def load(self, slot: int, data: Any, start: int = 0) -> int:
        """Puts back what `export` gave, in any slot, and says how many tokens it then holds."""
        ...

    def bytes(self) -> int: ...


Role = Literal["keys", "values"]


class Storage(Protocol):
    """Makes token stores. `horizon` is how many tokens a slot must be able to go back: recurrences keep as many states."""

    @property
    def horizon(self) -> int: ...

    def tokens(self, slots: int, heads: int, tokens: int, width: int, role: Role) -> TokenStore: ...


class Pool(Protocol):
    """The memory of one part, for all slots."""

    def free(self, slot: int) -> None: ...

    @property
    def in_parts(self) -> bool:
        """Whether `fork`, `export` and `load` can do with a part of a slot's tokens."""
        ...

    @property
    def grid(self) -> int:
        """A text gone on from at a multiple of this many tokens has the same bits as one read anew: 1 where no token's numbers depend on
        which are read together with it, more where they do (a recurrence computes stretches at once)."""
        ...

    def fork(self, source: int, target: int, length: int | None = None) -> None:
        """The target holds what the source holds, or its first `length` tokens."""
        ...

    def rewind(self, slot: int, position: int) -> int:
        """Forgets everything from `position` on and returns it; or an earlier position, from which on everything was forgotten, where
        the memory cannot go on from `position` exactly. It always can within the last `horizon` tokens."""
        ...

    def export(self, slot: int, start: int = 0, stop: int | None = None) -> dict[str, Any]: ...

    def load(self, slot: int, data: Mapping[str, Any], start: int = 0) -> None:
        """Puts back what `export` gave of tokens from `start` on; the slot then holds no more."""
        ...

    def bytes(self) -> int: ...


HUGE_PAGE = 2 << 20


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros whose memory, on a CPU, the operating system hands out only as it is touched: a long context costs nothing unused.

    Huge pages are declined where they can be: a head's keys of a long context fill whole ones, so that its first token would
    take 2 MiB (measured on SmolLM2-135M with 8 slots of 8,192 tokens: 1.3 GB for a few short answers instead of 0.1 GB).
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    count = math.prod(shape) * dtype.itemsize
    if count < HUGE_PAGE or not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return torch.zeros(shape, dtype=dtype)
    try:
        memory = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError, OverflowError) as error:
        raise MemoryError(f"{count} bytes: {error}") from None
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class DenseStore:
    """One tensor [slots, h, tokens, d]; consecutive slots are read without a copy. Numbers of `rounding`'s type, where given, are kept."""

    in_parts = True

    def __init__(
        self,
        slots: int,
        heads: int,
        tokens: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
        rounding: torch.dtype | None = None,
    ):
        self.rounding = rounding or dtype
        self.data, self.capacity = zeros((slots, heads, tokens, width), dtype, device), tokens

    def write(self, step: Step, x_bhtd: Tensor) -> None:
        x_bhtd = x_bhtd.to(self.rounding).to(self.data.dtype)
        starts, place = set(step.starts), step.slot_range
        if len(starts) == 1 and place is not None and min(step.lengths) == step.time:
            start = step.starts[0]
            self.data[place, :, start : start + step.time] = x_bhtd
            return
        _, heads, tokens, width = self.data.shape
        index, real = step.scatter(heads, tokens)
        x_bthd = x_bhtd.transpose(1, 2)
        self.data.view(-1, width).index_copy_(0, index, (x_bthd if real is None else x_bthd[real]).reshape(-1, width))

    def read(self, step: Step, rows: slice | tuple[int, ...], extent: int) -> Tensor:
        """The first `extent` tokens of the given rows' slots: [rows, h, extent, d]."""
        if isinstance(rows, slice) and step.slot_range is not None:
            return self.data[step.slot_range, :, :extent]
        slots = step.slots if isinstance(rows, slice) else tuple(step.slots[row] for row in rows)
        return self.data[list(slots), :, :extent]

    def views(self, step: Step, rows: slice | tuple[int, ...], extent: int) -> Iterator[tuple[slice, Tensor]]:
        yield slice(None), self.read(step, rows, extent)

    def reach(self, slot: int, position: int) -> int:
        return position

    def copy(self, source: int, target: int, length: int) -> None:
        self.data[target, :, :length] = self.data[source, :, :length]

    def export(self, slot: int, length: int, start: int = 0) -> Tensor:
        return self.data[slot, :, start:length].clone()

    def load(self, slot: int, data: Tensor, start: int = 0) -> int:
        self.data[slot, :, start : start + data.shape[1]] = data
        return start + data.shape[1]

    def bytes(self) -> int:
        return self.data.numel() * self.data.element_size()


class Dense:
    """Storage that keeps everything in plain tensors; `rounding` is the type of the numbers kept, where narrower than the tensors'."""

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        horizon: int = 0,
        rounding: torch.dtype | None = None,
    ):
        self.dtype, self.device, self.horizon, self.rounding = dtype, torch.device(device), horizon, rounding

    def tokens(self, slots: int, heads: int, tokens: int, width: int, role: Role = "keys") -> DenseStore:
        return DenseStore(slots, heads, tokens, width, self.dtype, self.device, self.rounding)


class KeyValuePool:
    """Attention's memory: keys and values of every token, and how many a slot holds in this layer."""

    grid = 1

    def __init__(self, keys: TokenStore, values: TokenStore, slots: int):
        self.keys, self.values = keys, values
        self.lengths = [0] * slots

    @classmethod
    def of(cls, storage: Storage, slots: int, heads: int, tokens: int, width: int) -> Self:
        """Room for `heads` keys and values of `width` of each of `tokens` tokens."""
        return cls(storage.tokens(slots, heads, tokens, width, "keys"), storage.tokens(slots, heads, tokens, width, "values"), slots)

    def write(self, step: Step, k_bhtd: Tensor, v_bhtd: Tensor) -> None:
        self.keys.write(step, k_bhtd)
        self.values.write(step, v_bhtd)
        self.wrote(step)

    def wrote(self, step: Step) -> None:
        """Takes note of a step's tokens, which someone has put into the stores."""
        for slot, start, length in zip(step.slots, step.starts, step.lengths, strict=True):
            if length:  # a row without tokens only fills the batch
                self.lengths[slot] = start + length

    def views(self, step: Step, rows: slice | tuple[int, ...], extent: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Stretches of the call's time with the keys and the values that their queries see (see `TokenStore.views`)."""
        both = zip(self.keys.views(step, rows, extent), self.values.views(step, rows, extent), strict=True)
        for (times, keys), (_, values) in both:
            yield times, keys, values

    def free(self, slot: int) -> None:
        self.lengths[slot] = 0

    @property
    def in_parts(self) -> bool:
        return self.keys.in_parts and self.values.in_parts

    def fork(self, source: int, target: int, length: int | None = None) -> None:
        length = self.lengths[source] if length is None or not self.in_parts else min(length, self.lengths[source])
        for store in (self.keys, self.values):
            store.copy(source, target, length)
        self.lengths[target] = length

    def rewind(self, slot: int, position: int) -> int:
        asked = min(self.lengths[slot], position)
        self.lengths[slot] = min(self.keys.reach(slot, asked), self.values.reach(slot, asked))
        return position if self.lengths[slot] == asked else self.lengths[slot]

    def export(self, slot: int, start: int = 0, stop: int | None = None) -> dict[str, Any]:
        stop = self.lengths[slot] if stop is None else stop
        return {"keys": self.keys.export(slot, stop, start), "values": self.values.export(slot, stop, start)}

    def load(self, slot: int, data: Mapping[str, Any], start: int = 0) -> None:
        self.lengths[slot] = self.keys.load(slot, data["keys"], start)
        self.values.load(slot, data["values"], start)

    def bytes(self) -> int:
        return self.keys.bytes() + self.values.bytes()


class State:
    """The pools of a whole trunk, by the name of the part they belong to."""

    def __init__(self, pools: Mapping[str, Pool], slots: int, tokens: int):
        self.pools, self.slots, self.tokens = dict(pools), slots, tokens

    def __getitem__(self, part: str) -> Any:
        return self.pools[part]

    def __contains__(self, part: str) -> bool:
        return part in self.pools

    def __iter__(self) -> Iterator[str]:
        return iter(self.pools)

    def free(self, slot: int) -> None:
        for pool in self.pools.values():
            pool.free(slot)

    @property
    def in_parts(self) -> bool:
        """Whether `fork`, `export` and `load` can do with a part of a slot's tokens."""
        return all(pool.in_parts for pool in self.pools.values())

    @property
    def grid(self) -> int:
        """Tokens at whose multiples a text can be gone on from to the bit in every part."""
        return math.lcm(*(getattr(pool, "grid", 1) for pool in self.pools.values()))

    def fork(self, source: int, target: int, length: int | None = None) -> None:
        for pool in self.pools.values():
            pool.fork(source, target, length)

    def rewind(self, slot: int, position: int) -> int:
        """Forgets everything from `position` on in every part; returns it, or the earlier position that all parts could go back to."""
        left = min((pool.rewind(slot, position) for pool in self.pools.values()), default=position)
        return left if left == position else self.rewind(slot, left)

    def export(self, slot: int, start: int = 0, stop: int | None = None) -> dict[str, dict[str, Any]]:
        return {name: pool.export(slot, start, stop) for name, pool in self.pools.items()}

    def load(self, slot: int, data: Mapping[str, Mapping[str, Any]], start: int = 0) -> None:
        for name, pool in self.pools.items():
            pool.load(slot, data[name], start)

    def bytes(self) -> int:
        return sum(pool.bytes() for pool in self.pools.values())
