"""How a training is stopped from outside, and what it says when memory runs out."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from steelyard.core.errors import SteelyardError
from steelyard.data.batching import Batch


class TrainingStopped(SteelyardError):
    """Somebody stopped the training; everything up to its last step is saved."""


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C (or SIGTERM) asks for a stop after the step; the second Ctrl-C interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextlib.contextmanager
def enough_memory(batch: Batch) -> Iterator[None]:
    """Says so where memory ran out."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        shape = "x".join(map(str, batch.ids.shape))
        raise SteelyardError(
            "memory ran out in a training step",
            where=f"batch of {shape} tokens ({named(list(batch.where))})",
            do="Lower `batch` and raise `accumulation` (the result is the same), shorten the rows, or train with LoRA.",
        ) from error


def named(rows: list[str]) -> str:
    """The first rows' addresses, and how many more there are."""
    shown = ", ".join(rows[:8])
    return shown + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
