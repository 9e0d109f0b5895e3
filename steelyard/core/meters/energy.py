"""Energy of a stretch of work, in joules, as a range with its source.

* `rapl`: the processor's own counters (packages and DRAM) from `/sys/class/powercap`. They count the whole socket, other
  processes included. Most systems let only root read them.
* `nvml`: the GPUs' own counters, through the `pynvml` module of nvidia-ml-py. They count the whole board.
* `wall`: a counter of your own, at the wall socket or wherever you can measure: a file that holds joules as one number and is kept by
  whatever reads your meter, named by the environment variable `STEELYARD_WALL_JOULES`. It replaces all others.
* `modelled`: nothing was measured. From the processor seconds and memory used and the coefficients below, a low end that charges
  only what this process added, and a high end that charges a wasteful machine with its idle share. The truth should lie between; a
  difference between two modelled figures is a difference in processor time and memory, no more.

A reading may have parts from two sources; then both are named (`rapl+nvml`).

Counters count a machine that idles too. Given what it draws idle (`idle_power`, measured while nothing works), a meter subtracts that from
what was counted; what is modelled then charges no idle core, no memory but this process's own, and no idle board.

Coefficients and where they are from:

| coefficient | low | high |
| --- | --- | --- |
| busy logical core, W | 2.76 (1) | 11.9 (2) |
| idle logical core, W | 0 | 0.78 (3) |
| DRAM, W per GB | 0.3725 of what is resident (4) | 0.392 of the machine's (5) |
| GPU without a counter, W | 8 (6) | 700 (7) |

(1) Cloud Carbon Footprint, methodology, appendix I: AWS cores draw 3.5 W at full load and 0.74 W idle; the difference.
(2) A desktop part at its rated power: Intel Core i7-9700K, 95 W over 8 cores.
(3) Cloud Carbon Footprint, appendix I, Azure. (4) Green Algorithms, doi:10.1002/advs.202100707.
(5) Cloud Carbon Footprint, appendix I. (6) An idle T4: the same, appendix III. (7) Rated power of an H100 SXM.

Power supplies and cooling are not counted: multiply by the data centre's PUE (about 1.1 to 1.6) for the wall socket.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.core.errors import SteelyardError

POWERCAP = Path("/sys/class/powercap")
WALL = "STEELYARD_WALL_JOULES"

BUSY_CORE_WATTS = (2.76, 11.9)
IDLE_CORE_WATTS = (0.0, 0.78)
DRAM_WATTS_PER_GB = (0.3725, 0.392)
GPU_WATTS = (8.0, 700.0)


@dataclass(frozen=True)
class Joules:
    """Energy between `low` and `high`; both are equal where it was measured. `source`: wall, rapl, nvml, modelled, or two of them."""

    low: float
    high: float
    source: str


@dataclass(frozen=True)
class Idle:
    """What the machine draws while nothing works, in watts; None for what no counter tells.

    Attributes:
        processor: the packages and their memory.
        boards: the GPUs in use.
        wall: by the counter at the wall.
    """

    processor: float | None = None
    boards: float | None = None
    wall: float | None = None

    @property
    def watts(self) -> float:
        """All that is subtracted from what counters tell."""
        return sum(value for value in (self.processor, self.boards, self.wall) if value is not None)


NOTHING = Idle()
"""Idle power where no counter tells any: only the model knows of it, and charges none."""


def idle_power(seconds: float = 1.0, powercap: Path = POWERCAP) -> Idle:
    """Measures what the machine draws now, for as long as it takes to be sure; call it while nothing works. Where no counter can be read,
    this takes no time.

    Args:
        seconds: how long; the least of two halves counts, since others may work meanwhile.
        powercap: where the processor's counters are.
    """
    halves = []
    for _ in range(2):
        meter, begun = EnergyMeter(powercap), time.perf_counter()
        if not meter.counts:
            return NOTHING
        time.sleep(seconds / 2)
        halves.append([None if joules is None else joules / (time.perf_counter() - begun) for joules in meter.counted()])
    least = [None if None in pair else min(value for value in pair if value is not None) for pair in zip(*halves, strict=True)]
    return Idle(*least)


def modelled_cpu(seconds: float, cpu_seconds: float, resident_bytes: float, cores: int, memory_bytes: float) -> tuple[float, float]:
    """Joules (low, high) of processor and memory from the coefficients above.

    Args:
        seconds: wall time.
        cpu_seconds: time of all threads, added up.
        resident_bytes: what the process held, on average or at most.
        cores: logical cores of the machine as far as we may use them.
        memory_bytes: memory of the machine as far as we may use it.
    """
    idle_seconds = max(0.0, seconds * cores - cpu_seconds)
    low = cpu_seconds * BUSY_CORE_WATTS[0] + idle_seconds * IDLE_CORE_WATTS[0]
    high = cpu_seconds * BUSY_CORE_WATTS[1] + idle_seconds * IDLE_CORE_WATTS[1]
    low += seconds * resident_bytes / 1e9 * DRAM_WATTS_PER_GB[0]
    high += seconds * max(resident_bytes, memory_bytes) / 1e9 * DRAM_WATTS_PER_GB[1]
    return low, high


class EnergyMeter:
    """Counts from its making.

    Args:
        powercap: where the processor's counters are.
        idle: what the machine draws idle, to be left out; None leaves it in.
    """

    def __init__(self, powercap: Path = POWERCAP, idle: Idle | None = None) -> None:
        self.idle = idle
        self._wall = _wall()
        self._domains = _rapl_domains(powercap)
        self._start = {domain: counter for domain in self._domains if (counter := _number(domain / "energy_uj")) is not None}
        self._gpus = _Nvml()

    @property
    def counts(self) -> bool:
        """Whether anything is measured, and not only modelled."""
        return any(joules is not None for joules in self.counted())

    def counted(self) -> tuple[float | None, float | None, float | None]:
        """Joules since the start by the counters of processor, boards and wall; None where there is none."""
        wall = None if self._wall is None else max(0.0, (_wall() or 0.0) - self._wall)
        return self._rapl(), self._gpus.joules() if _cuda_devices() else None, wall

    def stop(self, seconds: float, cpu_seconds: float, resident_bytes: float, cores: int, memory_bytes: float) -> Joules:
        """Energy since the start; the arguments are `modelled_cpu`'s and are used where nothing is measured."""
        idle = self.idle or NOTHING
        rapl, nvml, wall = self.counted()
        if wall is not None:
            wall = _above(wall, idle.wall, seconds)
            return Joules(wall, wall, "wall")
        if rapl is not None:
            low = high = _above(rapl, idle.processor, seconds)
        else:
            share = (cores, memory_bytes) if self.idle is None else (0, 0.0)
            low, high = modelled_cpu(seconds, cpu_seconds, resident_bytes, *share)
        sources = ["rapl" if rapl is not None else "modelled"]
        if devices := _cuda_devices():
            least = GPU_WATTS[0] if self.idle is None else 0.0  # the low end is a board that idles
            low += seconds * least * devices if nvml is None else _above(nvml, idle.boards, seconds)
            high += seconds * GPU_WATTS[1] * devices if nvml is None else _above(nvml, idle.boards, seconds)
            sources.append("modelled" if nvml is None else "nvml")
        return Joules(low, high, "+".join(dict.fromkeys(sources)))

    def _rapl(self) -> float | None:
        """Joules of all domains, or None where they cannot be read. A counter that wrapped round is unwound once."""
        if not self._start or len(self._start) != len(self._domains):
            return None
        total = 0
        for domain, before in self._start.items():
            after = _number(domain / "energy_uj")
            if after is None:
                return None
            if after < before:
                after += _number(domain / "max_energy_range_uj") or 0
            total += max(0, after - before)
        return total / 1e6


def _above(joules: float, idle_watts: float | None, seconds: float) -> float:
    """What was spent above idling."""
    return max(0.0, joules - (idle_watts or 0.0) * seconds)


def _wall() -> float | None:
    """The user's own counter in joules; None where none is named.

    Raises:
        SteelyardError: it is named and cannot be read.
    """
    if not (name := os.environ.get(WALL)):
        return None
    try:
        value = float(Path(name).read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise SteelyardError(
            f"the counter of joules cannot be read: {error}", where=name, do=f"Let it hold one number, or unset {WALL}."
        ) from error
    if not math.isfinite(value):
        raise SteelyardError(f"the counter of joules is {value}", where=name, do=f"Let it hold one number, or unset {WALL}.")
    return value


def rapl_readable(powercap: Path = POWERCAP) -> bool:
    """Whether the processor's energy counters can be read by this user."""
    domains = _rapl_domains(powercap)
    return bool(domains) and all(_number(domain / "energy_uj") is not None for domain in domains)


def _rapl_domains(powercap: Path) -> list[Path]:
    """Packages, and DRAM inside them. Cores and graphics are parts of the package, and `psys` holds it: they would count twice."""
    try:
        folders = sorted(powercap.glob("intel-rapl:*"))
    except OSError:
        return []
    chosen = []
    for folder in folders:
        try:
            name = (folder / "name").read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            continue
        if name.startswith("package") or name == "dram":
            chosen.append(folder)
    return chosen


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _cuda_devices() -> int:
    torch = sys.modules.get("torch")
    return torch.cuda.device_count() if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized() else 0


class _Nvml:
    """The boards' energy counters (millijoules since the driver was loaded), read at the start and at the end."""

    def __init__(self) -> None:
        self._module: Any = None
        self._start: list[int] = []
        if not _cuda_devices():
            return
        try:
            pynvml = importlib.import_module("pynvml")  # of nvidia-ml-py, which not everyone has
        except ImportError:
            return
        try:
            pynvml.nvmlInit()
            self._module = pynvml
            self._start = self._counters()
        except pynvml.NVMLError:  # no driver, or boards older than Volta, which have no counter
            self._module = None

    def joules(self) -> float | None:
        if self._module is None:
            return None
        try:
            return sum(after - before for before, after in zip(self._start, self._counters(), strict=True)) / 1e3
        except self._module.NVMLError:
            return None

    def _counters(self) -> list[int]:
        cuda = sys.modules["torch"].cuda
        identities = [f"GPU-{cuda.get_device_properties(device).uuid}" for device in range(cuda.device_count())]
        boards = [self._module.nvmlDeviceGetHandleByUUID(identity) for identity in identities]  # only those this process may use
        return [self._module.nvmlDeviceGetTotalEnergyConsumption(board) for board in boards]
