"""What a chat template may spend: steps, seconds, characters, items, depth. Every growth is refused before it happens.

Containers are measured when they are made, through everything they hold, so nothing later (printing, comparing, hashing)
can meet one that is larger than it looks: a list that holds itself twice, forty times over, is refused at the twentieth.
"""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Iterator
from typing import Any

MOST_STEPS = 2_000_000  # loop passes, calls, filters, operators, and a share of what is handled
MOST_SECONDS = 5.0  # of this thread's processor time; steps run out first unless single ones are slow
MOST_TEXT = 8_000_000  # characters of one string, and of the whole rendering
MOST_MADE = 64_000_000  # characters of all strings made on the way; an item of a list counts as eight
MOST_ITEMS = 200_000  # of one list
MOST_SIZE = 16_000_000  # items and characters of a container, counted through everything it holds
MOST_DEPTH = 200  # containers within containers
MOST_BITS = 4096  # of a whole number
MOST_WIDTH = 10_000  # a number that asks for padding


class LimitError(Exception):
    """The template asked for more than any conversation needs."""


class Budget:
    """What one rendering may still spend."""

    def __init__(self) -> None:
        self.steps, self.made = MOST_STEPS, MOST_MADE
        self.look = MOST_STEPS  # the clock is read when the steps fall below this: reading it costs more than a step
        self.until = time.thread_time() + MOST_SECONDS
        self.known: dict[int, tuple[Any, int, int]] = {}  # id -> (the container itself, so the id stays its own; size; depth)

    def spend(self, steps: int = 1) -> None:
        """Pays for work."""
        self.steps -= steps
        if self.steps >= self.look:
            return
        self.look = max(0, self.steps - 64)
        if self.steps < 0:
            raise LimitError(f"it takes more than {MOST_STEPS} steps: a loop without end, or nearly so")
        if time.thread_time() > self.until:
            raise LimitError(f"it computes for more than {MOST_SECONDS:.0f} seconds")

    def make(self, characters: int) -> None:
        """Pays for memory."""
        self.made -= characters
        if self.made < 0:
            raise LimitError(f"it makes more than {MOST_MADE} characters of text on its way")

    def fits(self, characters: int) -> None:
        """Refuses a text before it is made."""
        if characters > MOST_TEXT:
            raise LimitError(f"it makes a text of {characters} characters; at most {MOST_TEXT} are allowed")

    def hold(self, value: Any) -> Any:
        """Pays for a value that was just made and refuses it when it is too large."""
        if isinstance(value, str):
            self.fits(len(value))
            self.make(len(value))
            self.spend(len(value) // 256)
        elif isinstance(value, (list, tuple, dict)):
            if len(value) > MOST_ITEMS:
                raise LimitError(f"it makes a list of {len(value)} items; at most {MOST_ITEMS} are allowed")
            self.make(8 * len(value))
            self.spend(len(value) // 8)
            self.measure(value, remember=False)
        elif isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise LimitError(f"it makes a number of {value.bit_length()} bits; at most {MOST_BITS} are allowed")
        return value

    def measure(self, value: Any, depth: int = 0, remember: bool = True) -> tuple[int, int]:
        """Size (items and characters, through all that it holds) and depth of a value. What a container holds is remembered."""
        if isinstance(value, str):
            return 1 + len(value), 0
        if not isinstance(value, (list, tuple, dict)):
            return 1, 0
        if id(value) in self.known:
            return self.known[id(value)][1:]
        if depth > MOST_DEPTH:
            raise LimitError(f"it nests containers more than {MOST_DEPTH} deep")
        size, deepest = 1, 0
        for item in value:
            for part in (item, value[item]) if isinstance(value, dict) else (item,):
                more, below = self.measure(part, depth + 1)
                size, deepest = size + more, max(deepest, below)
            if size > MOST_SIZE or deepest >= MOST_DEPTH:
                raise LimitError(f"it makes a container of more than {MOST_SIZE} items and characters, or {MOST_DEPTH} levels")
        if remember:
            self.known[id(value)] = (value, size, deepest + 1)
        return size, deepest + 1

    def written(self, value: Any) -> int:
        """Most characters the value takes when it is written out (escapes take up to six)."""
        return len(value) if isinstance(value, str) else 6 * self.measure(value)[0] + 32


current: contextvars.ContextVar[Budget] = contextvars.ContextVar("template_budget")


@contextlib.contextmanager
def metered() -> Iterator[Budget]:
    """A fresh budget for everything a template does inside the block, in this thread only."""
    budget = Budget()
    token = current.set(budget)
    try:
        yield budget
    finally:
        current.reset(token)
