"""How long the whole weighing still takes, told while it is asked: the plan's minutes, set right by how fast answers have come so far.

One figure for everything that is left, questions asked again and timing included. It counts down with the clock, and is set anew only where
what was seen since is more than a fifth off; making and loading models is in no plan, and not in this figure either.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from steelyard.core.progress import LEFT, about
from steelyard.weigh.plan import PlanRow

TRUST = 10.0  # seconds of asking that the plan's paces are worth, beside those seen
OFF = 0.2  # how far off, as a share of what is left, the moment told may be


class Outlook:
    """What is left of a plan.

    Args:
        rows: the plan's, made before asking began.
        spared: whether an arm will not be asked a task after all.
        most: the seconds of asking that are still allowed.
        clock: tells seconds.
    """

    def __init__(
        self,
        rows: Sequence[PlanRow],
        spared: Callable[[str, str], bool] = lambda arm, task: False,
        most: Callable[[], float] = lambda: math.inf,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._known = all(row.minutes is not None for row in rows)
        self._spared, self._most, self._clock = spared, most, clock
        self._answers = {(row.arm, row.task): row.samples - row.recorded for row in rows if row.samples}
        self._seconds = {(row.arm, row.task): 60 * (row.minutes or 0.0) / max(row.samples - row.recorded, 1) for row in rows if row.samples}
        self._arms = list(dict.fromkeys(row.arm for row in rows if row.task))
        self._reached = 0  # the place of the arm that is asked
        self._timing = 60 * sum(row.minutes or 0.0 for row in rows if not row.samples)
        self._took = self._foretold = 0.0  # seconds of asking: on the clock, and in the plan
        self._looked = clock()
        self._end: float | None = None

    def left(self, arm: str, task: str, new: int) -> str:
        """The time that everything still takes, in words; empty as long as the pace of anything is unknown.

        Args:
            arm, task: what is being asked.
            new: answers that came since this was called last; 0 where a stretch of asking begins.
        """
        now = self._clock()
        self._pass(arm)
        if new:
            row = self._row(arm, task)
            if row in self._answers:
                self._took += now - self._looked
                self._foretold += new * self._seconds[row]
                self._answers[row] = max(self._answers[row] - new, 0)
        self._looked = now
        return self._told(now, self._timing)

    def timing(self, done: int, total: int) -> str:
        """The same while speed, memory and energy are measured, after everything was asked."""
        self._answers = {}
        return self._told(self._clock(), self._timing * (1 - done / max(total, 1)))

    def _pass(self, arm: str) -> None:
        """What arms before this one were not asked will not be asked any more; once the base is asked again, no arm's questions will."""
        place = self._arms.index(arm) if arm in self._arms else len(self._arms)
        self._reached = max(self._reached, place if place or not self._reached else len(self._arms))
        for row in self._answers:
            if row[1] and row[0] in self._arms[: self._reached]:
                self._answers[row] = 0

    def _row(self, arm: str, task: str) -> tuple[str, str]:
        """The plan's row for an answer: the task's own, and once that is used up, one for questions that are asked again."""
        again = [row for row, count in self._answers.items() if not row[1] and count]
        return (arm, task) if self._answers.get((arm, task)) or not again else again[0]

    def _planned(self) -> float:
        return sum(count * self._seconds[row] for row, count in self._answers.items() if not (row[1] and self._spared(*row)))

    def _told(self, now: float, timing: float) -> str:
        if not self._known:
            return ""
        pace = (self._took + TRUST) / (self._foretold + TRUST)
        seconds = min(pace * self._planned(), self._most()) + timing
        if self._end is None or abs(now + seconds - self._end) > OFF * seconds:
            self._end = now + seconds
        return about(self._end - now) + LEFT
