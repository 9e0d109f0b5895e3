"""`steelyard doctor`: what this machine and installation can do, what they lack, and what to do about it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import typer

from steelyard.cli.output import console, print_json, size
from steelyard.core.errors import SteelyardError

LEAST_MEMORY = 2e9
LEAST_DISK = 1e9


@dataclass(frozen=True)
class Check:
    """One thing looked at. `do` says what to do where it is not well."""

    name: str
    state: Literal["well", "note", "bad"]
    found: str
    do: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False) -> None:
    """Check this machine and installation.

    Says what to do about what is missing, and ends with 1 if something must be mended.
    """
    found = [check for look in CHECKS for check in look()]
    if as_json:
        from steelyard.core.hardware import describe

        print_json({"checks": [asdict(check) for check in found], "machine": describe(gpus=True)})
    else:
        _show(found)
    if any(check.state == "bad" for check in found):
        raise typer.Exit(1)


def _show(found: list[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    marks = {"well": ("ok", "green"), "note": ("note", "yellow"), "bad": ("bad", "bold red")}
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in found:
        word, style = marks[check.state]
        table.add_row(Text(word, style=style), Text(check.name, style="bold"), Text(check.found + (f"\n{check.do}" if check.do else "")))
    console().print(table)


def python() -> list[Check]:
    found = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    return [Check("python", "well" if good else "bad", f"{found} at {sys.executable}", "" if good else "Install Python 3.11 or later.")]


def packages() -> list[Check]:
    """What the core needs, and which extras are complete."""
    core, extras = _requirements()
    missing = [name for name in core if not _installed(name)]
    do = f"Run: pip install {' '.join(missing)}" if missing else ""
    checks = [
        Check(
            "core packages", "bad" if missing else "well", f"missing: {', '.join(missing)}" if missing else f"all {len(core)} installed", do
        )
    ]
    for extra, needed in sorted(extras.items()):
        absent = [name for name in needed if not _installed(name)]
        do = f'Run: pip install "steelyard[{extra}]"' if absent else ""
        checks.append(Check(f"extra {extra}", "note" if absent else "well", f"without {', '.join(absent)}" if absent else "installed", do))
    return checks


def torch_and_threads() -> list[Check]:
    from steelyard.core.hardware import accelerators, cpu_model, instruction_sets, usable_cores

    cores = usable_cores()
    checks = [
        Check(
            "processor", "well", f"{cpu_model()}, {cores} usable cores, {', '.join(instruction_sets()) or 'no special instructions known'}"
        )
    ]
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library that will not load
        return [*checks, Check("torch", "bad", f"cannot be imported: {error}", "Run: pip install --force-reinstall torch")]
    onednn = "yes" if torch.backends.mkldnn.is_available() else "no"
    checks.append(
        Check(
            "torch",
            "well",
            f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, oneDNN {onednn}",
        )
    )
    threads = torch.get_num_threads()
    if threads > cores:
        do = f"Set OMP_NUM_THREADS={cores}: more threads than cores slow everything down."
        checks.append(Check("threads", "note", f"{threads} threads on {cores} usable cores", do))
    elif threads < cores:
        reason = f" (OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']})" if "OMP_NUM_THREADS" in os.environ else ""
        checks.append(
            Check(
                "threads",
                "note",
                f"{threads} threads on {cores} usable cores{reason}",
                "Unset OMP_NUM_THREADS to use them all." if reason else "",
            )
        )
    else:
        checks.append(Check("threads", "well", f"{threads} threads on {cores} usable cores"))
    gpus = accelerators()
    checks += [Check("accelerator", "well", f"{gpu['name']}, {size(gpu['memory_bytes'])}, {gpu['capability']}") for gpu in gpus]
    return checks or [Check("accelerator", "note", "none; everything runs on the processor")]


def kernels() -> list[Check]:
    """Whether the C++ routines are here, and for which instruction set."""
    from steelyard.kernels import native

    try:
        routines = native.routines()
    except SteelyardError as error:
        return [Check("kernels", "bad", error.what, error.do or "")]
    if routines is not None:
        return [Check("kernels", "well", f"steelyard-kernels {_installed('steelyard-kernels')}, {routines.name}")]
    reason = native.absence() or f"{native.CHOICE} is off"
    return [Check("kernels", "note", f"PyTorch's own: {reason}", "Everything works without them, only slower.")]


def memory() -> list[Check]:
    from steelyard.core.hardware import memory_available, memory_total

    free, total = memory_available(), memory_total()
    good = free >= LEAST_MEMORY
    do = "" if good else f"Close something: the quickstart needs about {size(LEAST_MEMORY)}."
    return [Check("memory", "well" if good else "note", f"{size(free)} free of {size(total)}", do)]


def store() -> list[Check]:
    """Where downloads are kept: writable, with room, and what is there."""
    from steelyard.core.get import KNOWN, home, is_got

    try:
        folder = home()
    except SteelyardError as error:
        return [Check("store", "bad", error.what, error.do or "")]
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        return [Check("store", "bad", f"{folder} cannot be written", "Set STEELYARD_HOME to a folder that can.")]
    free = shutil.disk_usage(there).free
    do = "" if free >= LEAST_DISK else f"Free some space, or set STEELYARD_HOME elsewhere: the quickstart needs about {size(LEAST_DISK)}."
    checks = [Check("store", "well" if not do else "note", f"{folder}, {size(free)} free", do)]
    for name, package in KNOWN.items():
        got = is_got(name)
        checks.append(
            Check(
                package.kind,
                "well" if got else "note",
                f"{name} {'is here' if got else 'is not here yet'}",
                "" if got else f"Run: steelyard get {name}",
            )
        )
    return checks


def energy() -> list[Check]:
    from steelyard.core.meters.energy import rapl_readable

    if rapl_readable():
        return [Check("energy", "well", "the processor's counters (RAPL) can be read")]
    return [
        Check(
            "energy",
            "note",
            "no counters can be read; energy is modelled as a range",
            "On Linux, let this user read /sys/class/powercap/*/energy_uj.",
        )
    ]


def levers_work() -> list[Check]:
    from steelyard.core import levers

    broken = levers.broken()
    checks = [Check("lever", "bad", f"{name}: {reason}", "Reinstall or remove its package.") for name, reason in broken.items()]
    return checks or [Check("levers", "well", f"{len(levers.all_levers())}, all importable")]


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Distribution names of the core and of each extra, as the installed metadata has them."""
    from importlib import metadata

    core: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in metadata.requires("steelyard") or []:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", line)
        if name and name[0] != "steelyard":
            (extras.setdefault(extra[1], []) if extra else core).append(name[0])
    return core, extras


def _installed(distribution: str) -> str | None:
    """The version of a distribution, or None where it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


CHECKS: tuple[Callable[[], list[Check]], ...] = (python, packages, torch_and_threads, kernels, memory, store, energy, levers_work)
