"""Builds llama.cpp's programs for `generate.py` and `clients.py`: for this machine, and without AVX-512.

    python benchmarks/llama_builds.py SOURCE DIR [--only native|avx2] [--jobs 2]

SOURCE is the folder `vendor/llama.cpp` of llama-cpp-python's source package. The programs land in DIR/native/bin and DIR/avx2/bin
(llama-bench, llama-batched-bench, llama-quantize, llama-server). Needs CMake, Ninja and a C++ compiler; some 6 minutes each on two
cores that do nothing else.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

PROGRAMS = ("llama-bench", "llama-batched-bench", "llama-quantize", "llama-server")
COMMON = ("CMAKE_BUILD_TYPE=Release", "LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_SERVER=ON", "LLAMA_BUILD_UI=OFF")
BUILDS = {
    "native": ("GGML_NATIVE=ON",),
    "avx2": (
        *("GGML_NATIVE=OFF", "GGML_SSE42=ON", "GGML_AVX=ON", "GGML_AVX2=ON", "GGML_BMI2=ON", "GGML_FMA=ON", "GGML_F16C=ON"),
        *("GGML_AVX512=OFF", "GGML_AVX512_VNNI=OFF", "GGML_AVX512_BF16=OFF", "GGML_AVX_VNNI=OFF"),
    ),
}


def build(source: Path, folder: Path, options: tuple[str, ...], jobs: int) -> Path:
    """The folder of the programs."""
    flags = [f"-D{option}" for option in (*COMMON, *options)]
    subprocess.run(["cmake", "-G", "Ninja", "-S", str(source), "-B", str(folder), *flags], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(folder), "--parallel", str(jobs), "--target", *PROGRAMS], check=True)
    return folder / "bin"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=list(BUILDS))
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    for name in [options.only] if options.only else BUILDS:
        print(build(options.source, options.folder.absolute() / name, BUILDS[name], options.jobs), flush=True)


if __name__ == "__main__":
    main()
