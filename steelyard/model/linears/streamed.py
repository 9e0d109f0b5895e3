"""Linears whose weights lie on disk and are read a block at a time, the next block while this one is multiplied.

In FlexGen's order a block's weights are read once for all rows and tokens of a call, so the time of reading is shared by the batch.
Two blocks are in memory at once, the one in use and the one being read. The products are those of the storage that was sent to
disk (floats, 8 bits, GGUF's blocks), over the same bytes: the same bits. Source: Y. Sheng et al., FlexGen, arXiv:2303.06865, section 4.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from steelyard.core.meters.memory import trim
from steelyard.model.files.block_file import BlockFile, Extent
from steelyard.model.linears.linear import DenseStorage, Linear


class BlockReader:
    """Blocks of tensors on disk, of which two are in memory: the one asked for last, and the one after it in line.

    A tensor holds until another block is asked for. Not thread-safe: whoever runs the model owns it.
    """

    def __init__(self, folder: Path | None = None):
        self.file = BlockFile(folder)
        self.blocks: list[list[Extent]] = []
        self.reads = 0
        self._memory: list[mmap.mmap] = []
        self._held: tuple[int, int] | None = None  # block, and which memory it lies in
        self._ahead: tuple[int, Future[None]] | None = None
        self._thread = ThreadPoolExecutor(1, "steelyard-read-ahead")

    def add(self, tensors: list[Tensor]) -> int:
        """Sends a block's tensors to disk; the block's number. All blocks are added before any is read."""
        self.blocks.append([self.file.append(tensor) for tensor in tensors])
        self.file.settle()
        return len(self.blocks) - 1

    def tensor(self, block: int, place: int) -> Tensor:
        """One of a block's tensors, in memory that the next block but one will overwrite."""
        if self._held is None or self._held[0] != block:
            self._turn_to(block)
        assert self._held is not None
        extents = self.blocks[block]
        offset = sum(extent.room for extent in extents[:place])
        extent = extents[place]
        count = extent.size // extent.dtype.itemsize
        return torch.frombuffer(self._memory[self._held[1]], dtype=extent.dtype, count=count, offset=offset).view(extent.shape)

    def _turn_to(self, block: int) -> None:
        if not self._memory:
            trim()  # of the tensors that are now on disk
            most = max(sum(extent.room for extent in extents) for extents in self.blocks)
            self._memory = [mmap.mmap(-1, most) for _ in range(2)]
        memory = 0 if self._held is None else 1 - self._held[1]
        if self._ahead is not None:
            guessed, reading = self._ahead
            self._ahead = None
            reading.result()
            if guessed != block:
                self._read(block, memory)
        else:
            self._read(block, memory)
        self._held = (block, memory)
        following = (block + 1) % len(self.blocks)
        if following != block:
            self._ahead = (following, self._thread.submit(self._read, following, 1 - memory))

    def _read(self, block: int, memory: int) -> None:
        self.reads += 1
        view, offset = memoryview(self._memory[memory]), 0
        for extent in self.blocks[block]:
            self.file.read(extent, view[offset:])
            offset += extent.room

    @property
    def count(self) -> int:
        """Numbers on disk."""
        return sum(math.prod(extent.shape) for extents in self.blocks for extent in extents)

    def bytes(self) -> int:
        """Bytes of the memory that blocks are read into."""
        return 2 * max((sum(extent.room for extent in extents) for extents in self.blocks), default=0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # copies of a trunk read from the same file


class StreamedStorage(nn.Module):
    """A storage whose matrices come from a reader at each product. `inner` keeps what is small (the bias) and does the product.

    `dtype` is the float type to multiply in, None for that of the file.
    """

    inner: nn.Module

    def __init__(self, inner: nn.Module, reader: BlockReader, block: int, places: dict[str, int], content: str):
        super().__init__()
        self.inner, self.reader, self.block, self.places, self.content = inner, reader, block, places, content
        self.dtype: torch.dtype | None = None
        self._let_go()

    @property
    def kind(self) -> str:
        return f"streamed {self.inner.kind}"

    @property
    def bias(self) -> Tensor | None:
        return self.inner.bias  # type: ignore[return-value]

    @contextlib.contextmanager
    def _weights(self) -> Iterator[None]:
        for name, place in self.places.items():
            tensor = self.reader.tensor(self.block, place)
            if name in self.inner._parameters:
                wanted = self.dtype if self.dtype and isinstance(self.inner, DenseStorage) else tensor.dtype
                self.inner._parameters[name] = nn.Parameter(tensor.to(wanted), requires_grad=False)
            else:
                self.inner._buffers[name] = tensor
        try:
            yield
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for name in self.places:
            kept: dict[str, Any] = self.inner._parameters if name in self.inner._parameters else self.inner._buffers
            kept[name] = None

    def forward(self, x: Tensor) -> Tensor:
        with self._weights():
            return self.inner(x)

    def dense(self) -> Tensor:
        """The weights as one float tensor [out, in], a copy."""
        with self._weights():
            return self.inner.dense().clone()  # type: ignore[operator]

    def bytes(self) -> int:
        """Bytes in memory: those on disk are not counted."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.parameters(), *self.buffers()))

    def extra_repr(self) -> str:
        return f"on disk, content {self.content}"  # the model's fingerprint knows weights on disk by this


def send_to_disk(block: nn.Module, reader: BlockReader) -> None:
    """Moves the matrices of a block's linears to a reader's file; vectors stay in memory."""
    linears = [module for module in block.modules() if isinstance(module, Linear)]
    named = [(linear, {name: t for name, t in _tensors(linear.storage) if t.dim() >= 2}) for linear in linears]
    tensors = [tensor for _, own in named for tensor in own.values()]
    number, place = reader.add(tensors), 0
    for linear, own in named:
        digest = hashlib.sha256()
        for name, tensor in own.items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().contiguous().view(torch.uint8).reshape(-1).numpy().data)
        places = {name: place + index for index, name in enumerate(own)}
        place += len(own)
        linear.storage = StreamedStorage(linear.storage, reader, number, places, digest.hexdigest()[:32])


def _tensors(storage: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from storage.named_parameters(recurse=False)
    yield from storage.named_buffers(recurse=False)


def stays(index: int, keep: float) -> bool:
    """Whether a block stays in memory: of every stretch of blocks the share `keep`, so that there is computing between reads."""
    return int((index + 1) * keep) > int(index * keep)


def readers(trunk: nn.Module) -> list[BlockReader]:
    """The readers that a trunk's weights come from."""
    found = {id(module.reader): module.reader for module in trunk.modules() if isinstance(module, StreamedStorage)}
    return list(found.values())
