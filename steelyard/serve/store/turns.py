"""Writers of one process, one after the other in the order they came.

SQLite lets one write at a time and makes the others try again after growing pauses, so that a busy writer can starve the rest until
their patience ends. Within a process nobody need try: they queue.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock that is given in the order it was asked for."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def turn(self, patience: float) -> Iterator[bool]:
        """Waits for a turn, at most `patience` seconds; False when it did not come."""
        got = self._take(patience)
        try:
            yield got
        finally:
            if got:
                with self._guard:
                    self._pass_on()

    def _take(self, patience: float) -> bool:
        with self._guard:
            if not self._taken:
                self._taken = True
                return True
            mine = threading.Event()
            self._waiting.append(mine)
        if mine.wait(patience):
            return True
        with self._guard:
            if mine in self._waiting:
                self._waiting.remove(mine)
            else:  # it came at the last moment
                self._pass_on()
        return False

    def _pass_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._taken = False
