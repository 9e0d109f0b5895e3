"""The routines for ARM, where no ARM machine is: that they compile, wherever a cross compiler is at hand (`native/cross.py` runs them)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CROSS = Path(__file__).resolve().parents[2] / "native" / "cross.py"
LACKING = [name for name in ("cmake", "aarch64-linux-gnu-g++") if shutil.which(name) is None]


@pytest.mark.skipif(bool(LACKING), reason=f"not found: {', '.join(LACKING)}")
def test_every_arm_instruction_set_compiles_without_a_warning(tmp_path):
    command = [sys.executable, str(CROSS), "--compile-only", "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [name for name in ("neon", "dotprod", "i8mm") if not list(tmp_path.glob(f"CMakeFiles/kernels_{name}.dir/**/*.o"))] == []


def test_what_the_command_needs_is_named_where_it_is_missing(tmp_path):
    done = subprocess.run([sys.executable, str(CROSS)], capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert done.returncode == 2 and "aarch64-linux-gnu-g++" in done.stderr and "qemu-user" in done.stderr
