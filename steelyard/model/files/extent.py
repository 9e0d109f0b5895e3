"""Reading exact extents of a file whose declared sizes are not trusted.

Positioned reads into memory of our own, not a memory map: a map of a file that shrinks under a running process kills
that process with a bus error, and its pages are counted a second time in resident memory beside the tensors made from
them. A read that comes up short is an error with an address. From the page cache both cost one copy.
"""

from __future__ import annotations

import stat
import threading
from pathlib import Path
from typing import Self

import torch

from steelyard.core.errors import ModelFileError

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
        """The same bytes as uint8 [size] in fresh, aligned memory."""
        self._check(offset, size)
        out = torch.empty(size, dtype=torch.uint8)
        self._fill(offset, out.numpy().data)
        return out

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
                    raise ModelFileError("became shorter while it was read", where=str(self.path), do="Read it again once it is complete.")
                done += count

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
