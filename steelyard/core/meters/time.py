"""Wall time and processor time of a stretch of work."""

from __future__ import annotations

import time


class Clock:
    """Counts from its making. `seconds` is wall time (monotonic), `cpu_seconds` the time of all threads of this process."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._wall

    @property
    def cpu_seconds(self) -> float:
        return time.process_time() - self._cpu
