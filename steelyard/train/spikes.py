"""Loss spikes: a step whose loss stands far above the losses before it, judged by measures that a spike itself cannot move.

spike: loss > median + 6 * 1.4826 * mad of the last 64 losses, where mad is the median distance from the median (1.4826 mad is the
standard deviation of a normal distribution). The distance is taken as 1% of the median at least, so that a loss that hardly moves has
no spikes. Skipping the batches of spikes: arXiv:2204.02311, section 5.1. Cost: none to speak of.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Literal

Answer = Literal["report", "skip", "stop"]
"""What is done about a spike: say it and go on, leave the step out, or stop the training."""

WINDOW = 64
FEWEST = 16
"""Losses there must be before one is judged."""
DISTANCE = 6.0


@dataclass
class SpikeWatch:
    """The last losses, oldest first; a checkpoint carries them on."""

    losses: list[float] = field(default_factory=list)

    def limit(self) -> float | None:
        """The loss above which a step is a spike, or None while there are too few to judge by."""
        if len(self.losses) < FEWEST:
            return None
        middle = statistics.median(self.losses)
        spread = statistics.median(abs(loss - middle) for loss in self.losses)
        return middle + DISTANCE * max(1.4826 * spread, 0.01 * abs(middle))

    def see(self, loss: float) -> bool:
        """Whether this loss is a spike. It is remembered all the same: where a loss stays up, that is its new level."""
        limit = self.limit()
        self.losses = [*self.losses, loss][-WINDOW:]
        return limit is not None and loss > limit
