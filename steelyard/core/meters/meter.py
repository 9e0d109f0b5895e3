"""One meter over a stretch of work: time, memory, energy and money together.

with Meter() as meter:
    ...
meter.reading.seconds
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

from steelyard.core import hardware
from steelyard.core.errors import SteelyardError
from steelyard.core.meters import memory, money
from steelyard.core.meters.energy import EnergyMeter, Idle
from steelyard.core.meters.time import Clock


@dataclass(frozen=True)
class Reading:
    """What a stretch of work took.

    Attributes:
        seconds: wall time.
        cpu_seconds: processor time of all threads of this process.
        peak_resident_bytes: most bytes of this process in physical memory; None where the system does not tell.
        peak_is_of_this_stretch: False where the kernel would not reset its mark, so that the peak may be older.
        device_peak_bytes: most bytes of tensors on CUDA devices; None without CUDA.
        joules_low, joules_high: energy; equal where measured.
        energy_source: wall, rapl, nvml, modelled, or two of them with a plus.
        money_low, money_high: rent of the machine for that time; None where the price table does not know it.
        currency: of the price table.
        idle_watts: what was subtracted from the counters for idling (a model then charges no idle share); None where idling is in the energy.
    """

    seconds: float
    cpu_seconds: float
    peak_resident_bytes: int | None
    peak_is_of_this_stretch: bool
    device_peak_bytes: int | None
    joules_low: float
    joules_high: float
    energy_source: str
    money_low: float | None
    money_high: float | None
    currency: str
    idle_watts: float | None = None


class Meter:
    """A context manager that takes a `Reading` of what happens inside it.

    Args:
        prices: the price table; the user's or the built-in one if left out.
        idle: what the machine draws idle (`energy.idle_power`), left out of the energy; None leaves it in.
    """

    def __init__(self, prices: money.Prices | None = None, idle: Idle | None = None):
        self._idle = idle
        self._prices = prices if prices is not None else money.prices()
        self._reading: Reading | None = None

    @property
    def reading(self) -> Reading:
        """The reading, once the block has ended.

        Raises:
            SteelyardError: the block has not ended.
        """
        if self._reading is None:
            raise SteelyardError("the meter has not stopped yet", do="Read it after its `with` block.")
        return self._reading

    def __enter__(self) -> Meter:
        self._reading = None
        self._reset = memory.reset_peak()
        memory.reset_device_peak()
        self._energy = EnergyMeter(idle=self._idle)
        self._clock = Clock()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        seconds, cpu_seconds = self._clock.seconds, self._clock.cpu_seconds
        peak, device_peak = memory.peak_resident(), memory.device_peak()
        cores = hardware.usable_cores()
        joules = self._energy.stop(seconds, cpu_seconds, peak or 0, cores, hardware.memory_total())
        gpus = hardware.accelerators() if device_peak is not None else []
        hourly = money.per_hour(self._prices, cores, gpus)
        low, high = (None, None) if hourly is None else (hourly[0] * seconds / 3600, hourly[1] * seconds / 3600)
        self._reading = Reading(
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            peak_resident_bytes=peak,
            peak_is_of_this_stretch=self._reset,
            device_peak_bytes=device_peak,
            joules_low=joules.low,
            joules_high=joules.high,
            energy_source=joules.source,
            money_low=low,
            money_high=high,
            currency=self._prices.currency,
            idle_watts=None if self._idle is None else self._idle.watts,
        )
