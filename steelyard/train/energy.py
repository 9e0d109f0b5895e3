"""What a training takes: joules and time from its first step on, validation, samples and checkpoints included, told whenever it is saved.

The machine's idle power is measured before the first step where a counter tells it (`core/meters/energy.py`), and left out. Several
processes that train together add up what is modelled of each; a counter counts the whole machine, so there the first process's is taken.
What machine was taken for how long is kept beside it, so that it can be priced later (`core/meters/money.py`).
"""

from __future__ import annotations

import os

import torch

from steelyard.core import hardware
from steelyard.core.meters import memory
from steelyard.core.meters.energy import EnergyMeter, Idle, idle_power
from steelyard.core.meters.time import Clock
from steelyard.train.parallel.company import Company
from steelyard.train.settings import Progress

_MACHINES, _PROCESSES = (
    "GROUP_WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
)  # torchrun tells so how many machines there are, and how many processes on each


class TrainingEnergy:
    """Counts from `begin`; every `pay` moves what was spent since into the training's counters."""

    def __init__(self, company: Company, device: torch.device) -> None:
        self.company, self.device = company, device
        self._idle: Idle | None = None
        self._meter: EnergyMeter | None = None

    def begin(self, progress: Progress) -> None:
        """Measures idling and begins to count. Time is counted where it was from the first step on, else its sum would be too small."""
        self._timed = progress.step == 0 or progress.machines > 0
        self._idle = idle_power()
        self._again()

    def _again(self) -> None:
        self._meter, self._clock = EnergyMeter(idle=self._idle), Clock()

    def pay(self, progress: Progress) -> None:
        """Adds what was spent since the last time; nothing before `begin`."""
        if self._meter is None:
            return
        seconds = self._clock.seconds
        joules = self._meter.stop(seconds, self._clock.cpu_seconds, memory.resident() or 0, 0, 0.0)
        self._again()
        low, high = joules.low, joules.high
        if joules.source == "modelled":
            low, high = self.company.total([low, high])
        progress.joules_low += low
        progress.joules_high += high
        parts = [part for source in (progress.energy_source, joules.source) for part in source.split("+") if part]
        progress.energy_source = "+".join(dict.fromkeys(parts))
        if self._timed:  # a training that went on elsewhere is told as of the last machine
            progress.wall_seconds += self.company.agreed(seconds)
            progress.machines, progress.cores = int(os.environ.get(_MACHINES, "1")), hardware.usable_cores()
            found = [] if self.device.type == "cpu" else hardware.accelerators()
            progress.gpus = [str(gpu["name"]) for gpu in found[: int(os.environ.get(_PROCESSES, "1"))]]
