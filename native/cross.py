"""Builds the routines for ARM with a cross compiler and compares its instruction sets with the portable routines, on emulated processors.

    python native/cross.py [--compile-only] [--cases 20] [--keep DIR]

Needs CMake, the cross compiler aarch64-linux-gnu-g++ and, but for --compile-only, QEMU's user mode (Debian, Ubuntu: apt-get install
cmake g++-aarch64-linux-gnu qemu-user). What is compared are random products, steps and recurrences (native/tests); three processors
are emulated, which must find the sets they have and no others. Nothing about speed can be learned this way.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NATIVE = Path(__file__).resolve().parent
COMPILER, EMULATOR, SYSTEM = "aarch64-linux-gnu-g++", "qemu-aarch64", "/usr/aarch64-linux-gnu"
PROCESSORS = {"cortex-a72": ["neon"], "neoverse-n1": ["neon", "dotprod"], "max": ["neon", "dotprod", "i8mm"]}
"""Emulated processors, and the instruction sets that each must be found to have."""


def missing(compile_only: bool) -> list[str]:
    """What is needed and is not at hand."""
    return [program for program in ("cmake", COMPILER, *([] if compile_only else [EMULATOR])) if shutil.which(program) is None]


def build(folder: Path, optimized: bool) -> Path:
    """The comparing program, with the library beside it."""
    options = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={COMPILER}"]
    options += [f"-DCMAKE_BUILD_TYPE={'Release' if optimized else 'Debug'}", "-DCOMPARE=ON", "-DCMAKE_CXX_FLAGS=-Werror"]
    subprocess.run(["cmake", "-S", str(NATIVE), "-B", str(folder), *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(folder)], check=True)
    return folder / "compare"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile-only", action="store_true", help="build for ARM without optimizing, run nothing")
    parser.add_argument("--cases", type=int, default=20, help="random cases of each kind, for each instruction set")
    parser.add_argument("--keep", type=Path, help="build in this folder and leave it there")
    options = parser.parse_args()
    if lacking := missing(options.compile_only):
        print(
            f"Not found: {', '.join(lacking)}. On Debian or Ubuntu: apt-get install cmake g++-aarch64-linux-gnu qemu-user", file=sys.stderr
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        program = build(options.keep or Path(folder), not options.compile_only)
        for processor, sets in {} if options.compile_only else PROCESSORS.items():
            print(f"{processor}:", flush=True)
            command = [EMULATOR, "-L", SYSTEM, "-cpu", processor, str(program), str(options.cases), *sets]
            if subprocess.run(command).returncode:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
