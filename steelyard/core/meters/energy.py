"""Energy of a stretch of work, in joules, as a range with its source.

* `rapl`: the processor's own counters (packages and DRAM) from `/sys/class/powercap`. They count the whole socket, other
  processes included. Most systems let only root read them.
* `nvml`: the GPUs' own counters, through the `pynvml` module of nvidia-ml-py. They count the whole board.
* `modelled`: nothing was measured. From the processor seconds and memory used and the coefficients below, a low end that charges
  only what this process added, and a high end that charges a wasteful machine with its idle share. The truth should lie between; a
  difference between two modelled figures is a difference in processor time and memory, no more.

A reading may have parts from two sources; then both are named (`rapl+nvml`).

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
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")

BUSY_CORE_WATTS = (2.76, 11.9)
IDLE_CORE_WATTS = (0.0, 0.78)
DRAM_WATTS_PER_GB = (0.3725, 0.392)
GPU_WATTS = (8.0, 700.0)


@dataclass(frozen=True)
class Joules:
    """Energy between `low` and `high`; both are equal where it was measured. `source`: rapl, nvml, modelled, or two of them."""

    low: float
    high: float
    source: str


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
    """Counts from its making."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._domains = _rapl_domains(powercap)
        self._start = {domain: counter for domain in self._domains if (counter := _number(domain / "energy_uj")) is not None}
        self._gpus = _Nvml()

    def stop(self, seconds: float, cpu_seconds: float, resident_bytes: float, cores: int, memory_bytes: float) -> Joules:
        """Energy since the start; the arguments are `modelled_cpu`'s and are used where nothing is measured."""
        measured = self._rapl()
        low, high = (
            (measured, measured) if measured is not None else modelled_cpu(seconds, cpu_seconds, resident_bytes, cores, memory_bytes)
        )
        sources = ["rapl" if measured is not None else "modelled"]
        if devices := _cuda_devices():
            board = self._gpus.joules()
            low += seconds * GPU_WATTS[0] * devices if board is None else board
            high += seconds * GPU_WATTS[1] * devices if board is None else board
            sources.append("modelled" if board is None else "nvml")
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
