"""A file that holds weights while a model runs, or keys and values: read block by block past the system's page cache.

Reads go straight from the disk into memory of ours (O_DIRECT), because pages that the system keeps of a file are memory too: a model
that "runs in a third of its size" while the rest lies in the page cache does not. Weights are written once and then settled; pages of states
are written straight from memory again and again. Where a file system cannot do that (tmpfs), pages are handed back right after they were
read or written. The file has no name from the start, so nothing is left behind however the process ends.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from steelyard.core.errors import ModelFileError, SteelyardError, UnsupportedError

PAGE = 4096
"""Direct reads start and end on multiples of this many bytes, in the file and in memory."""


@dataclass(frozen=True)
class Extent:
    """Where a tensor lies; `room` is its size rounded up to whole pages."""

    offset: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def room(self) -> int:
        return -(-self.size // PAGE) * PAGE


class BlockFile:
    """Tensors in a nameless file. `direct` says whether reads pass the page cache by.

    Args:
        folder: on the disk to use; None = the system's for temporary files.
        holds: what errors call its content.
    """

    def __init__(self, folder: Path | None = None, holds: str = "weights"):
        self.holds = holds
        if not hasattr(os, "preadv") or not hasattr(os, "posix_fadvise"):
            raise UnsupportedError(
                f"{holds} cannot be read past the page cache on this system", do="Use Linux, or keep the model in memory."
            )
        try:
            self._bytes, name = tempfile.mkstemp(prefix="steelyard-", dir=folder)
        except OSError as error:
            raise SteelyardError(f"no file for the {holds} ({error.strerror})", where=str(folder), do="Name a folder on a disk.") from None
        try:
            self._pages, self.direct = os.open(name, os.O_RDWR | os.O_DIRECT), True
        except OSError:
            self._pages, self.direct = os.open(name, os.O_RDWR), False
        os.unlink(name)
        self.size = 0
        self._closing = weakref.finalize(self, _close, self._bytes, self._pages)

    def append(self, tensor: Tensor) -> Extent:
        """Writes a tensor and says where it lies.

        Raises:
            SteelyardError: the disk is full.
        """
        data = tensor.detach().contiguous().view(torch.uint8).reshape(-1).numpy().data
        extent = Extent(self.size, len(data), tensor.dtype, tuple(tensor.shape))
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(self._bytes, data[done:], extent.offset + done)
        except OSError as error:
            raise self._full(error) from None
        self.reserve(extent.room)
        return extent

    def reserve(self, size: int) -> int:
        """Makes room at the end, which takes none of the disk before it is written to, and says where it begins.

        Args:
            size: bytes, whole pages.
        """
        offset, self.size = self.size, self.size + size
        try:
            os.ftruncate(self._bytes, self.size)
        except OSError as error:
            raise self._full(error) from None
        return offset

    def settle(self) -> None:
        """Brings everything to the disk and lets go of the pages that writing left in memory."""
        os.fsync(self._bytes)
        os.posix_fadvise(self._bytes, 0, 0, os.POSIX_FADV_DONTNEED)

    def read(self, extent: Extent, out: memoryview) -> None:
        """Fills the beginning of page-aligned memory with a tensor's bytes.

        Raises:
            ModelFileError: the disk fails.
        """
        self.read_into(out[: extent.room], extent.offset, extent.size)

    def read_into(self, out: memoryview, offset: int, size: int | None = None) -> None:
        """Fills whole pages of memory from those at `offset`, of which the first `size` bytes count; None = all.

        Raises:
            ModelFileError: the disk fails.
        """
        done, size = 0, len(out) if size is None else size
        try:
            while done < size:
                count = os.preadv(self._pages, [out[done:]], offset + done)
                if not count:
                    break
                done += count
        except OSError as error:
            raise ModelFileError(
                f"the {self.holds} cannot be read back ({error.strerror})", where="offload", do="Check the disk."
            ) from None
        if done < size:
            raise ModelFileError(f"only {done} of {size} bytes of {self.holds} were read back", where="offload", do="Check the disk.")
        if not self.direct:
            os.posix_fadvise(self._pages, offset, len(out), os.POSIX_FADV_DONTNEED)

    def write(self, data: memoryview, offset: int) -> None:
        """Writes whole pages of memory to those at `offset`.

        Raises:
            SteelyardError: the disk is full.
        """
        try:
            done = 0
            while done < len(data):
                done += os.pwritev(self._pages, [data[done:]], offset + done)
            if not self.direct:
                os.fdatasync(self._pages)
                os.posix_fadvise(self._pages, offset, len(data), os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise self._full(error) from None

    def _full(self, error: OSError) -> SteelyardError:
        return SteelyardError(
            f"the {self.holds} cannot be written ({error.strerror})",
            where="offload",
            do="Free some space, or name a folder on another disk.",
        )

    def close(self) -> None:
        self._closing()


def _close(*files: int) -> None:
    for file in files:
        os.close(file)
