"""Locks on files, which the system lets go of when their process dies, however it dies."""

from __future__ import annotations

import sys


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
