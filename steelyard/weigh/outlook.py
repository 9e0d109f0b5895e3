"""How long all that is still to be asked may take, told while it is asked: the plan's minutes, less what is done."""

from __future__ import annotations

from collections.abc import Sequence

from steelyard.core.progress import spoken
from steelyard.weigh.plan import PlanRow


class Outlook:
    """What is left of a plan.

    Args:
        rows: the plan's, made before asking began.
    """

    def __init__(self, rows: Sequence[PlanRow]):
        self._left = {(row.arm, row.task): row.minutes for row in rows if row.task}

    def left(self, arm: str, task: str, share: float) -> str:
        """The time that all answers still take, in words; empty as long as the pace of any is unknown.

        Args:
            arm, task: what is being asked.
            share: of that, how much is done.
        """
        if (whole := self._left.get((arm, task))) is None or any(minutes is None for minutes in self._left.values()):
            return ""
        minutes = sum(minutes for minutes in self._left.values() if minutes is not None) - whole * share
        if share >= 1:
            self._left[arm, task] = 0.0
        return f"all answers: {spoken(60 * minutes)} left" if minutes > 0 else ""  # questions asked again are in no plan's row
