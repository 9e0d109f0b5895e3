"""Reading exact extents of a file whose declared sizes are not trusted.

What is small is read, at a position, into memory of our own; a read that comes up short is an error with an address. Tensors are mapped,
each by itself: their pages are the system's cache of the file, which a second process shares and which goes where memory is wanted, so a
model takes next to none of the process's own memory until an engine has packed it, and a tensor that is let go leaves nothing. The map is
private: what is written to a tensor (training, a merge) never reaches the file.

Its price: a file must not be cut short or written over in place while a model read from it is in use, as a process that reaches for a page
which is gone is ended by the system. Replacing a file by renaming another over it, as `save` does, is safe, and so is deleting it.
"""

from __future__ import annotations

import mmap
import os
import stat
import threading
from pathlib import Path
from typing import Self

import torch

from steelyard.core.errors import ModelFileError

WIDEST = 8
"""Bytes of the widest number a tensor may hold; `torch` wants numbers at multiples of their size."""

MAPPED = 1 << 16
"""Bytes from which a tensor is mapped; smaller ones would waste more of a page than reading them costs."""

LFS_POINTER = b"version https://git-lfs"


class ExtentFile:
    """A regular file opened for reading; `size` bytes at the time of opening.

    Raises:
        ModelFileError: when it is missing, not a regular file, not readable, or a Git LFS pointer instead of weights.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()  # seek and read must not interleave between threads
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise ModelFileError("not a regular file", where=str(path), do="Give the path of a weights file.")
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise ModelFileError(
                f"cannot be opened ({error.strerror})", where=str(path), do="Check the path and its permissions."
            ) from None
        self.size = self._file.seek(0, 2)
        if self.read(0, min(self.size, len(LFS_POINTER))) == LFS_POINTER:
            self.close()
            raise ModelFileError(
                "a Git LFS pointer, not the weights themselves", where=str(path), do="Run `git lfs pull` where it was cloned."
            )

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`. The extent is checked against the file before anything is allocated."""
        self._check(offset, size)
        out = bytearray(size)
        self._fill(offset, memoryview(out))
        return bytes(out)

    def read_tensor(self, offset: int, size: int) -> torch.Tensor:
        """The same bytes as uint8 [size], in memory that belongs to the tensor alone and may be written to."""
        self._check(offset, size)
        if size >= MAPPED and (data := self._mapped(offset, size)) is not None:
            return data
        out = torch.empty(size, dtype=torch.uint8)
        self._fill(offset, out.numpy().data)
        return out

    def _mapped(self, offset: int, size: int) -> torch.Tensor | None:
        """A private map of an extent; None where its numbers would not lie where a type wants them, or the file system maps nothing."""
        before = offset % mmap.ALLOCATIONGRANULARITY
        if before % WIDEST:
            return None
        if os.fstat(self._file.fileno()).st_size < offset + size:
            raise self._shorter()
        try:
            pages = mmap.mmap(self._file.fileno(), before + size, access=mmap.ACCESS_COPY, offset=offset - before)
        except (OSError, ValueError):
            return None
        if hasattr(mmap, "MADV_WILLNEED"):
            pages.madvise(mmap.MADV_WILLNEED)
        return torch.frombuffer(pages, dtype=torch.uint8, count=size, offset=before)

    def _check(self, offset: int, size: int) -> None:
        if size < 0 or offset < 0 or (size and offset + size > self.size):
            raise ModelFileError(
                f"truncated: {size} bytes are declared at offset {offset}, but the file has {self.size}",
                where=str(self.path),
                do="Download or copy the file again.",
            )

    def _fill(self, offset: int, out: memoryview) -> None:
        with self._lock:
            self._file.seek(offset)
            done = 0
            while done < len(out):
                try:
                    count = self._file.readinto(out[done:])
                except OSError as error:
                    raise ModelFileError(
                        f"cannot be read ({error.strerror})", where=str(self.path), do="Check the disk it is on."
                    ) from None
                if not count:
                    raise self._shorter()
                done += count

    def _shorter(self) -> ModelFileError:
        return ModelFileError("became shorter while it was read", where=str(self.path), do="Read it again once it is complete.")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
