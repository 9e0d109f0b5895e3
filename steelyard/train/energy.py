"""What a training takes: joules from its first step on, validation, samples and checkpoints included, told whenever it is saved.

The machine's idle power is measured before the first step where a counter tells it (`core/meters/energy.py`), and left out. Several
processes that train together add up what is modelled of each; a counter counts the whole machine, so there the first process's is taken.
"""

from __future__ import annotations

from steelyard.core.meters import memory
from steelyard.core.meters.energy import EnergyMeter, Idle, idle_power
from steelyard.core.meters.time import Clock
from steelyard.train.parallel.company import Company
from steelyard.train.settings import Progress


class TrainingEnergy:
    """Counts from `begin`; every `pay` moves what was spent since into the training's counters."""

    def __init__(self, company: Company) -> None:
        self.company = company
        self._idle: Idle | None = None
        self._meter: EnergyMeter | None = None

    def begin(self) -> None:
        """Measures idling and begins to count."""
        self._idle = idle_power()
        self._again()

    def _again(self) -> None:
        self._meter, self._clock = EnergyMeter(idle=self._idle), Clock()

    def pay(self, progress: Progress) -> None:
        """Adds what was spent since the last time; nothing before `begin`."""
        if self._meter is None:
            return
        joules = self._meter.stop(self._clock.seconds, self._clock.cpu_seconds, memory.resident() or 0, 0, 0.0)
        self._again()
        low, high = joules.low, joules.high
        if joules.source == "modelled":
            low, high = self.company.total([low, high])
        progress.joules_low += low
        progress.joules_high += high
        parts = [part for source in (progress.energy_source, joules.source) for part in source.split("+") if part]
        progress.energy_source = "+".join(dict.fromkeys(parts))
