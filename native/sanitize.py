"""Builds the routines with address and undefined-behaviour sanitizers; runs the comparing program and the tests of all that calls them.

make sanitize          (Linux, GCC; needs CMake)
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = [
    *("tests/kernels", "--ignore", "tests/kernels/test_cross.py"),
    *[f"tests/model/test_{name}.py" for name in ("fused", "fused_few_bits", "blocks", "native_scan", "mamba")],
    "tests/generate/test_recurrent_models.py",
]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        build, package = Path(folder) / "build", Path(folder) / "steelyard_kernels"
        subprocess.run(["cmake", "-S", ROOT / "native", "-B", build, "-DSANITIZE=ON", "-DCOMPARE=ON", "-DCMAKE_CXX_FLAGS=-O1"], check=True)
        subprocess.run(["cmake", "--build", build, "--parallel"], check=True)
        subprocess.run([build / "compare", "20"], check=True)
        package.mkdir()
        (package / "__init__.py").write_bytes((ROOT / "native" / "steelyard_kernels" / "__init__.py").read_bytes())
        (build / "libsteelyard_kernels.so").rename(package / "libsteelyard_kernels.so")
        # The sanitizers must be loaded before Python; its own allocations live until the end, so leaks are not looked for.
        libraries = [
            subprocess.run(["c++", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
            for name in ("libasan.so", "libubsan.so")
        ]
        environment = os.environ | {
            "LD_PRELOAD": " ".join(libraries),
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
            "PYTHONPATH": folder,
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run([sys.executable, "-m", "pytest", *TESTS, *sys.argv[1:]], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
