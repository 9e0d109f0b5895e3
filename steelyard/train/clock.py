"""Seconds of training, without those in which PyTorch compiled something on the way.

torch.compile works when code is first run, inside a step. PyTorch says when it begins and ends; that time is told apart.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Counts seconds inside `running` blocks; those of compilation in `compiling`, the others in `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.compiling = 0.0
        self._began: float | None = None
        self._compiling_since: float | None = None
        self._compiled_within = 0.0

    @property
    def now(self) -> float:
        """Seconds so far, with those of the block that is running."""
        if self._began is None:
            return self.seconds
        return self.seconds + time.perf_counter() - self._began - self._compiled_within

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._began, self._compiled_within = time.perf_counter(), 0.0
        try:
            yield
        finally:
            self.seconds, self._began = self.now, None

    @contextlib.contextmanager
    def hearing_the_compiler(self) -> Iterator[None]:
        """Within the block, compilations are counted apart."""
        from torch._dynamo.callback import callback_handler

        def begin(_: object) -> None:
            self._compiling_since = time.perf_counter()

        def end(_: object) -> None:
            if self._compiling_since is not None:
                took, self._compiling_since = time.perf_counter() - self._compiling_since, None
                self.compiling += took
                self._compiled_within += took

        callback_handler.register_start_callback(begin)
        callback_handler.register_end_callback(end)
        try:
            yield
        finally:
            callback_handler.remove_start_callback(begin)
            callback_handler.remove_end_callback(end)
