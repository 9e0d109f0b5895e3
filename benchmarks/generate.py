"""Answering beside llama.cpp, in one run: reading a prompt, one stream, one stream far into a text, eight streams.

    python benchmarks/generate.py --llama DIR [--avx2] [--model smollm2-135m-instruct] [--rounds 3] [--threads 2] [--quantize] [--tiny]

DIR holds llama.cpp's `llama-bench`, `llama-batched-bench` and (for --quantize) `llama-quantize`, which `llama_builds.py` builds. Both
sides read the same GGUF file, whose blocks stay as they are; --quantize adds llama.cpp on the same weights as Q4_0, its quickest form.
Rounds are interleaved (ours, theirs, ours, ...); told are medians over rounds and the ratio's median and range over pairs. The memory's
read bandwidth is measured in the same run. The last line is JSON.

--avx2 keeps both sides from AVX-512, as on most machines: ours by environment variables, PyTorch's part included; DIR must then be
the build without it, which its library is asked for. --tiny takes a few tokens of everything: to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steelyard.core.errors import SteelyardError
from steelyard.core.get import locate
from steelyard.core.hardware import describe, versions
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.engine import Completion, Engine
from steelyard.model.load import load

STREAMS = 8
WITHOUT_AVX512 = {
    "STEELYARD_KERNELS": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
"""What keeps our routines and PyTorch's, oneDNN's and MKL's from AVX-512."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of each measurement."""

    prompt: int = 512
    answer: int = 128
    deep: int = 2048
    short: int = 128

    @property
    def measures(self) -> dict[str, str]:
        """What is measured, in words."""
        return {
            "prefill": f"reading {self.prompt} tokens",
            "one": f"one stream, {self.answer} tokens",
            "deep": f"one stream after {self.deep} tokens",
            "eight": f"{STREAMS} streams of {self.short} + {self.answer} tokens, in all",
        }


def prompt(length: int, number: int) -> list[int]:
    """Token ids that no earlier prompt begins with."""
    draw = torch.Generator().manual_seed(number)
    return torch.randint(1000, 40_000, (length,), generator=draw).tolist()


class Ours:
    """Tokens per second of an engine on a file's own blocks."""

    def __init__(self, path: Path, threads: int, lengths: Lengths):
        self.engine = Engine(load(path, "stored"), threads=threads, slots=STREAMS, context=lengths.deep + 2 * lengths.answer)
        self.lengths = lengths
        self.asked = 0
        self.name = f"steelyard, {self.engine.spec.numerics['kernels']}"
        self._answers([prompt(8, 0)], 8)

    def _answers(self, prompts: list[list[int]], tokens: int) -> list[Completion]:
        settings = AnswerSettings(max_tokens=tokens, ignore_eos=True)
        return self.engine.generate(prompts, settings=settings)

    def _new(self, length: int) -> list[int]:
        self.asked += 1
        return prompt(length, self.asked)

    def __call__(self) -> dict[str, float]:
        lengths = self.lengths
        (read,) = self._answers([self._new(lengths.prompt)], 1)
        (one,) = self._answers([self._new(8)], lengths.answer)
        (deep,) = self._answers([self._new(lengths.deep)], lengths.answer)
        eight = self._answers([self._new(lengths.short) for _ in range(STREAMS)], lengths.answer)
        begun = max(_first(answer) for answer in eight)
        return {
            "prefill": lengths.prompt / (read.timing.to_first_token or 0.0),
            "one": _speed(one),
            "deep": _speed(deep),
            # From the moment the last stream has its first token; some have more by then.
            "eight": sum(answer.usage.completion_tokens for answer in eight) / (max(_end(answer) for answer in eight) - begun),
        }


def _first(answer: Completion) -> float:
    assert answer.timing.first_token is not None
    return answer.timing.first_token


def _end(answer: Completion) -> float:
    assert answer.timing.finished is not None
    return answer.timing.finished


def _speed(answer: Completion) -> float:
    return (answer.usage.completion_tokens - 1) / (_end(answer) - _first(answer))


class Llama:
    """Tokens per second as llama.cpp's own benchmarks tell them."""

    def __init__(self, folder: Path, path: Path, threads: int, lengths: Lengths, name: str):
        self.folder, self.path, self.threads, self.lengths, self.name = folder, path, threads, lengths, name

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self.folder / program), "-m", str(self.path), "-t", str(self.threads), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def system(self) -> str:
        """What llama.cpp's library says of the instructions it was built with, asked in a process of its own."""
        found = sorted(self.folder.glob("libllama.*"))
        if not found:
            raise SteelyardError(f"no libllama in {self.folder}", do="Build it with benchmarks/llama_builds.py.")
        ask = "import ctypes, sys; f = ctypes.CDLL(sys.argv[1]).llama_print_system_info; f.restype = ctypes.c_char_p; print(f().decode())"
        return subprocess.run([sys.executable, "-c", ask, str(found[0])], check=True, capture_output=True, text=True).stdout.strip()

    def _bench(self, *arguments: str) -> float:
        (row,) = json.loads(self._run("llama-bench", "-r", "1", "-o", "json", *arguments))
        return row["avg_ts"]

    def __call__(self) -> dict[str, float]:
        lengths = self.lengths
        several = ["-npp", str(lengths.short), "-ntg", str(lengths.answer), "-npl", str(STREAMS)]
        batched = self._run("llama-batched-bench", *several, "--output-format", "jsonl", "-c", "4096")
        (row,) = [json.loads(line) for line in batched.splitlines() if line.startswith("{")]
        return {
            "prefill": self._bench("-p", str(lengths.prompt), "-n", "0"),
            "one": self._bench("-p", "0", "-n", str(lengths.answer)),
            "deep": self._bench("-p", "0", "-n", str(lengths.answer), "-d", str(lengths.deep)),
            "eight": row["speed_tg"],
        }


def bandwidth(threads: int) -> float:
    """GB/s at which memory is read, the best of five passes over 1 GB."""
    torch.set_num_threads(threads)
    data, best = torch.ones(2**28), 0.0
    for _ in range(5):
        begun = time.perf_counter()
        data.sum()
        best = max(best, data.numel() * 4 / (time.perf_counter() - begun))
    return best / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quantize", action="store_true", help="llama.cpp on Q4_0 too")
    parser.add_argument("--avx2", action="store_true", help="both sides without AVX-512")
    parser.add_argument("--tiny", action="store_true", help="a few tokens of everything; the figures mean nothing")
    options = parser.parse_args()
    if options.avx2 and any(os.environ.get(name) != value for name, value in WITHOUT_AVX512.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **WITHOUT_AVX512})  # libraries look when they are loaded
    lengths = Lengths(16, 8, 32, 16) if options.tiny else Lengths()
    path = locate(options.model)
    with tempfile.TemporaryDirectory() as folder:
        theirs = [Llama(options.llama, path, options.threads, lengths, "llama.cpp, the same file")]
        system = theirs[0].system()
        if options.avx2 and "AVX512" in system:
            raise SteelyardError(f"{options.llama} was built with AVX-512", do="Give the folder avx2/bin of benchmarks/llama_builds.py.")
        ours = Ours(path, options.threads, lengths)
        sides: dict[str, Callable[[], dict[str, float]]] = {ours.name: ours}
        if options.quantize:
            other = Path(folder) / "q4_0.gguf"
            subprocess.run([options.llama / "llama-quantize", "--allow-requantize", path, other, "Q4_0"], check=True, capture_output=True)
            theirs.append(Llama(options.llama, other, options.threads, lengths, "llama.cpp, Q4_0"))
        sides |= {side.name: side for side in theirs}
        speed = bandwidth(options.threads)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for number in range(options.rounds):
            for name in list(sides) if number % 2 == 0 else list(reversed(sides)):
                rounds[name].append(sides[name]())
                print(f"{name:<28} " + "  ".join(f"{key} {value:,.0f}" for key, value in rounds[name][-1].items()), flush=True)
        ours.engine.close()
    results = {}
    for key, what in lengths.measures.items():
        mine = [each[key] for each in rounds[ours.name]]
        row: dict[str, dict[str, Any]] = {ours.name: {"tokens_per_second": round(statistics.median(mine), 1)}}
        for side in theirs:
            each = [one[key] for one in rounds[side.name]]
            ratios = sorted(a / b for a, b in zip(mine, each, strict=True))
            row[side.name] = {
                "tokens_per_second": round(statistics.median(each), 1),
                "ratio": round(statistics.median(ratios), 2),
                "ratio_range": [round(ratios[0], 2), round(ratios[-1], 2)],
            }
        results[what] = row
        print(f"{what}: " + "; ".join(f"{name} {value}" for name, value in row.items()))
    print(
        json.dumps(
            {
                "model": options.model,
                "rounds": options.rounds,
                "threads": options.threads,
                "instructions": {ours.name: os.environ.get("STEELYARD_KERNELS", "the best"), "llama.cpp": system},
                "read_bandwidth_gigabytes_per_second": round(speed, 1),
                "results": results,
                "machine": describe(),
                "versions": versions(),
            }
        )
    )


if __name__ == "__main__":
    main()
