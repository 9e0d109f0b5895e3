"""A file that holds weights while a model runs: written once, then read block by block past the system's page cache.

Reads go straight from the disk into memory of ours (O_DIRECT), because pages that the system keeps of a file are memory too: a model
that "runs in a third of its size" while the rest lies in the page cache does not. Where a file system cannot do that (tmpfs), pages
are handed back right after they were read. The file has no name from the start, so nothing is left behind however the process ends.
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
    """

    def __init__(self, folder: Path | None = None):
        if not hasattr(os, "preadv") or not hasattr(os, "posix_fadvise"):
            raise UnsupportedError(
                "weights cannot be read past the page cache on this system", do="Use Linux, or keep the model in memory."
            )
        try:
            self._write, name = tempfile.mkstemp(prefix="steelyard-weights-", dir=folder)
        except OSError as error:
            raise SteelyardError(f"no file for the weights ({error.strerror})", where=str(folder), do="Name a folder on a disk.") from None
        try:
            self._read, self.direct = os.open(name, os.O_RDONLY | os.O_DIRECT), True
        except OSError:
            self._read, self.direct = os.open(name, os.O_RDONLY), False
        os.unlink(name)
        self.size = 0
        self._closing = weakref.finalize(self, _close, self._write, self._read)

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
                done += os.pwrite(self._write, data[done:], extent.offset + done)
            self.size += extent.room
            os.ftruncate(self._write, self.size)
        except OSError as error:
            raise SteelyardError(
                f"the weights cannot be written ({error.strerror})",
                where="offload",
                do="Free some space, or name a folder on another disk.",
            ) from None
        return extent

    def settle(self) -> None:
        """Brings everything to the disk and lets go of the pages that writing left in memory."""
        os.fsync(self._write)
        os.posix_fadvise(self._write, 0, 0, os.POSIX_FADV_DONTNEED)

    def read(self, extent: Extent, out: memoryview) -> None:
        """Fills the beginning of page-aligned memory with a tensor's bytes.

        Raises:
            ModelFileError: the disk fails.
        """
        done = 0
        try:
            while done < extent.size:
                count = os.preadv(self._read, [out[done : extent.room]], extent.offset + done)
                if not count:
                    break
                done += count
        except OSError as error:
            raise ModelFileError(f"the weights cannot be read back ({error.strerror})", where="offload", do="Check the disk.") from None
        if done < extent.size:
            raise ModelFileError(f"only {done} of {extent.size} bytes of weights were read back", where="offload", do="Check the disk.")
        if not self.direct:
            os.posix_fadvise(self._read, extent.offset, extent.room, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        self._closing()


def _close(*files: int) -> None:
    for file in files:
        os.close(file)
