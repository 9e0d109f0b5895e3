"""Memory: what this process holds and the most it has held, on the host and on the device.

Resident means in physical memory. The kernel keeps the peak (VmHWM) for the life of the process; where it allows, writing 5 to
`/proc/self/clear_refs` sets the peak back to the present, so that a stretch of work can be measured. Where it does not, the peak
since the process began is told, and `resettable` says so: then only a fresh process gives a clean figure.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_resident() -> int | None:
    """Most bytes this process has had in physical memory since it began or since `reset_peak`; None where unknown."""
    if (peak := _status("VmHWM")) is not None:
        return peak
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, the others kibibytes


def resident() -> int | None:
    """Bytes in physical memory now; None where the system does not tell."""
    return _status("VmRSS")


def reset_peak() -> bool:
    """Sets the peak back to the present. False where the kernel does not allow it."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def hand_back() -> bool:
    """Gives memory back to the system, that of objects that only refer to each other too. False where nobody can be told."""
    gc.collect()
    return trim()


def trim() -> bool:
    """Gives freed memory back to the system, which else stays with the process and counts as its own. False where nobody can be told.

    The C library of Linux keeps freed pieces below 32 MiB, such as the float form of a small model's matrices, and pieces between others
    that are in use: a process whose requests leave nothing behind grows all the same.
    """
    try:
        give = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, none, or Windows
        return False
    give(0)
    return True


def reset_device_peak() -> None:
    """Sets the peaks of all CUDA devices back to the present. Nothing happens where torch or CUDA is not in use."""
    if (cuda := _cuda_in_use()) is not None:
        for device in range(cuda.device_count()):
            cuda.reset_peak_memory_stats(device)


def device_peak() -> int | None:
    """Most bytes that tensors held on CUDA devices since `reset_device_peak`, summed over devices; None without CUDA."""
    cuda = _cuda_in_use()
    return None if cuda is None else sum(cuda.max_memory_allocated(device) for device in range(cuda.device_count()))


def _cuda_in_use():
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized() else None


def _status(key: str) -> int | None:
    try:
        text = _STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return None
