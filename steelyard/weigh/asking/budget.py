"""Time that may be spent asking, dealt out so that every arm gets its part: a base that used it all up would leave nothing to compare.

budget = Budget(600.0)
with budget.share(3):          # of three that are still to be asked, the first; what it leaves over is the others'
    with budget.share(2):      # its first task of two
        ... answer_all(..., stop=budget.over)
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Budget:
    """A deadline, and deadlines within it.

    Attributes:
        seconds: that asking may take in all, from now on; None for as long as it takes.
        clock: tells seconds.
    """

    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    _ends: list[float] = field(init=False, default_factory=list)  # of the whole, and of each part within

    def __post_init__(self) -> None:
        if self.seconds is not None:
            self._ends.append(self.clock() + self.seconds)

    @contextlib.contextmanager
    def share(self, parts: float) -> Iterator[None]:
        """For this block, the time left divided by the `parts` (this one counted) that still want some of it."""
        if not self._ends:
            yield
            return
        now = self.clock()
        self._ends.append(now + max(self._ends[-1] - now, 0.0) / max(parts, 1.0))
        try:
            yield
        finally:
            self._ends.pop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What this block takes (loading and making models) does not count as asking."""
        begun = self.clock()
        try:
            yield
        finally:
            took = self.clock() - begun
            self._ends = [end + took for end in self._ends]

    def left(self) -> float:
        """Seconds of the whole that are left; infinitely many where there is no end."""
        return max(self._ends[0] - self.clock(), 0.0) if self._ends else math.inf

    def over(self) -> bool:
        """Whether nothing more may be asked in this part."""
        return bool(self._ends) and self.clock() >= self._ends[-1]
