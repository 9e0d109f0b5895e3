"""What machine this is: processor, cores and memory we may really use, accelerators, versions.

Containers lie about both: `os.cpu_count()` and `MemTotal` are the host's. What counts is the smaller of affinity and the
control group's quota, and the smaller of physical memory and the control group's limit. Nothing here imports torch unless asked.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INSTRUCTION_SETS = {  # /proc/cpuinfo's word -> ours
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_tile": "amx",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "asimd": "neon",
    "neon": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
}
PACKAGES = (
    *("steelyard", "steelyard-kernels", "torch", "numpy", "safetensors", "tokenizers", "gguf", "pydantic", "scipy"),
    *("transformers", "peft"),
)

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60


def describe(gpus: bool = False) -> dict[str, Any]:
    """The machine as plain data, for reports.

    Args:
        gpus: import torch to ask for accelerators. Without it they are told only if torch is already imported; else None.

    Returns:
        `cpu`, `architecture`, `cores` (usable) and `cores_total`, `instruction_sets`, `memory_bytes` and `memory_available_bytes` (ours to
        use), `gpus` (list of name, memory_bytes, capability; None = not asked), `os`, `python`, `versions`.
    """
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "cores_total": os.cpu_count() or 1,
        "instruction_sets": instruction_sets(),
        "memory_bytes": memory_total(),
        "memory_available_bytes": memory_available(),
        "gpus": accelerators() if gpus or "torch" in sys.modules else None,
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that can change a result, of those that are installed; read from metadata, nothing is imported."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def cpu_model() -> str:
    """The processor's name as its maker prints it, or its architecture where the system does not say."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    facts = _cpuinfo()
    return facts.get("model name") or facts.get("Model") or facts.get("Hardware") or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Which of the vector and matrix instructions that matter here this processor has, sorted."""
    if sys.platform == "darwin":
        if platform.machine() != "arm64":
            words = (_sysctl("machdep.cpu.leaf7_features") or "").lower().split()
            return sorted({INSTRUCTION_SETS[word] for word in words if word in INSTRUCTION_SETS})
        named = {"i8mm": "FEAT_I8MM", "bf16": "FEAT_BF16", "dotprod": "FEAT_DotProd"}
        return sorted(["neon", *(ours for ours, theirs in named.items() if _sysctl(f"hw.optional.arm.{theirs}") == "1")])
    facts = _cpuinfo()
    words = (facts.get("flags") or facts.get("Features") or "").split()
    return sorted({INSTRUCTION_SETS[word] for word in words if word in INSTRUCTION_SETS})


def usable_cores() -> int:
    """Logical cores this process may keep busy: affinity and the control group's quota, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = min(_quotas(), default=math.inf)
    return max(1, min(allowed, math.ceil(quota) if quota < allowed else allowed))


def memory_total() -> int:
    """Bytes of memory this process could ever use: physical, or the control group's limit if that is less."""
    return min([_physical_memory(), *(limit for limit, _ in _memory_limits())])


def memory_available() -> int:
    """Bytes that can be allocated now without swapping, within the control group's limit."""
    free = _meminfo().get("MemAvailable", _physical_memory())
    return max(0, min([free, *(limit - used for limit, used in _memory_limits())]))


def accelerators() -> list[dict[str, Any]]:
    """The CUDA devices and Apple GPU that torch sees."""
    import torch

    found: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(index)
        found.append({"name": facts.name, "memory_bytes": facts.total_memory, "capability": f"{facts.major}.{facts.minor}"})
    if torch.backends.mps.is_available():
        found.append({"name": "Apple GPU", "memory_bytes": _physical_memory(), "capability": "mps"})
    return found


def _cpuinfo() -> dict[str, str]:
    """The first processor's facts (and on ARM the board's, which stand last)."""
    facts: dict[str, str] = {}
    for line in _lines(Path("/proc/cpuinfo")):
        key, colon, value = line.partition(":")
        if colon:
            facts.setdefault(key.strip(), value.strip())
    return facts


def _meminfo() -> dict[str, int]:
    facts = {}
    for line in _lines(Path("/proc/meminfo")):
        words = line.replace(":", " ").split()
        if len(words) >= 2 and words[1].isdigit():
            facts[words[0]] = int(words[1]) * (1024 if words[-1] == "kB" else 1)
    return facts


def _physical_memory() -> int:
    if total := _meminfo().get("MemTotal"):
        return total
    if sys.platform == "darwin":
        return int(_sysctl("hw.memsize") or 0)
    if sys.platform == "win32":
        return _windows_memory()
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _windows_memory() -> int:
    kilobytes = ctypes.c_ulonglong()
    ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))  # type: ignore[attr-defined]
    return kilobytes.value * 1024


def _control_group_folders() -> Iterator[Path]:
    """Folders of this process's control groups, innermost first, up to the root; version 2 and version 1 mounts."""
    for line in _lines(Path("/proc/self/cgroup")):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        mounts = [_CONTROL_GROUPS] if not controllers else [_CONTROL_GROUPS / name for name in {controllers, *controllers.split(",")}]
        for mount in mounts:
            folder = mount / path.lstrip("/")
            while folder != mount and mount in folder.parents:
                yield folder
                folder = folder.parent
            yield mount


def _quotas() -> list[float]:
    """Cores granted by each control group that limits them."""
    quotas = []
    for folder in _control_group_folders():
        quota, period = [*_words(folder / "cpu.max"), "", ""][:2]
        if not quota:
            quota = "".join(_words(folder / "cpu.cfs_quota_us"))
            period = "".join(_words(folder / "cpu.cfs_period_us"))
        if quota.isdigit() and period.isdigit() and int(period) > 0 and int(quota) > 0:
            quotas.append(int(quota) / int(period))
    return quotas


def _memory_limits() -> list[tuple[int, int]]:
    """(limit, used without reclaimable cache) of each control group that limits memory, in bytes."""
    limits = []
    for folder in _control_group_folders():
        for limit_name, used_name in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, used = "".join(_words(folder / limit_name)), "".join(_words(folder / used_name))
            if limit.isdigit() and used.isdigit() and int(limit) < _UNLIMITED:
                stats = {pair[0]: pair[1] for line in _lines(folder / "memory.stat") if len(pair := line.split()) == 2}
                cache = int(stats.get("inactive_file", stats.get("total_inactive_file", 0)))
                limits.append((int(limit), max(0, int(used) - cache)))
    return limits


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: Path) -> list[str]:
    """A kernel file's lines; none where this system has no such file or does not let us read it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _sysctl(name: str) -> str | None:
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
