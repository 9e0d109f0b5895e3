"""Locks on files, which the system lets go of when their process dies, however it dies."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from steelyard.core.files import writing


def lock(handle: int, *, wait: bool) -> bool:
    """Takes an exclusive lock on an open file; False when another process holds it and `wait` is not set."""
    if sys.platform == "win32":
        import msvcrt

        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                return True
            except OSError:  # LK_LOCK gives up after ten seconds
                if not wait:
                    return False
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Holds the lock that a file of this name stands for, after whoever holds it; the file is there only while it is needed.

    Raises:
        SteelyardError: the file cannot be made.
    """
    while True:
        with writing(file):
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock(handle, wait=True)
            if not _is_at(handle, file):
                continue
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # Windows removes no open file; the next one takes it as it is
                    file.unlink()
            return
        finally:
            os.close(handle)


def _is_at(handle: int, file: Path) -> bool:
    """Whether an open file still has its name: whoever held its lock before has removed it, and others may lock another by now."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False
