"""What a process does when it has had nothing to do for a moment: it hands freed memory back to the system."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from steelyard.core.meters import memory

REST = 1.0
"""Seconds after a request after which, if none is under way, freed memory goes back to the system."""


class Resting:
    """Waits for a second without work, then hands memory back. Belongs to the event loop that calls it.

    Requests leave free pieces behind, between others that are in use: without this a process that keeps nothing of them grows all the same.

    Args:
        idle: whether nothing is under way.
        threads: where memory is handed back, which may take some milliseconds; None takes the event loop's own.
    """

    def __init__(self, idle: Callable[[], bool], threads: Executor | None = None):
        self._idle, self._threads = idle, threads
        self._timer: asyncio.TimerHandle | None = None

    def after_work(self) -> None:
        """Something is over."""
        if self._timer is None and self._idle():
            self._timer = asyncio.get_running_loop().call_later(REST, self._rest)

    def end(self) -> None:
        """There will be no rest any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rest(self) -> None:
        self._timer = None
        if self._idle():
            asyncio.get_running_loop().run_in_executor(self._threads, memory.trim)
