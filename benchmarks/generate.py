"""Answering beside llama.cpp, in one run: reading a prompt, one stream, one stream far into a text, eight streams.

    python benchmarks/generate.py --llama DIR [--model smollm2-135m-instruct] [--rounds 3] [--threads 2] [--quantize]

DIR holds llama.cpp's `llama-bench`, `llama-batched-bench` and (for --quantize) `llama-quantize`, built with CMake in release mode; the
source package of llama-cpp-python brings the code (vendor/llama.cpp). Both sides read the same GGUF file, whose blocks stay as they
are; --quantize adds llama.cpp on the same weights as Q4_0, its quickest form. Rounds are interleaved (ours, theirs, ours, ...); told
are medians over rounds and the ratio's median and range over pairs. STEELYARD_KERNELS=avx2 runs ours without AVX-512; to compare
alike, build llama.cpp with -DGGML_NATIVE=OFF -DGGML_AVX512=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON. The memory's read
bandwidth is measured in the same run. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from steelyard.core.get import locate
from steelyard.core.hardware import describe, versions
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.engine import Completion, Engine
from steelyard.model.load import load

PROMPT, ANSWER, DEEP, STREAMS, SHORT = 512, 128, 2048, 8, 128
MEASURES = {
    "prefill": f"reading {PROMPT} tokens",
    "one": f"one stream, {ANSWER} tokens",
    "deep": f"one stream after {DEEP} tokens",
    "eight": f"{STREAMS} streams of {SHORT} + {ANSWER} tokens, in all",
}


def prompt(length: int, number: int) -> list[int]:
    """Token ids that no earlier prompt begins with."""
    draw = torch.Generator().manual_seed(number)
    return torch.randint(1000, 40_000, (length,), generator=draw).tolist()


class Ours:
    """Tokens per second of an engine on a file's own blocks."""

    def __init__(self, path: Path, threads: int):
        self.engine = Engine(load(path, "stored"), threads=threads, slots=STREAMS, context=DEEP + 2 * ANSWER)
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
        (read,) = self._answers([self._new(PROMPT)], 1)
        (one,) = self._answers([self._new(8)], ANSWER)
        (deep,) = self._answers([self._new(DEEP)], ANSWER)
        eight = self._answers([self._new(SHORT) for _ in range(STREAMS)], ANSWER)
        begun = max(_first(answer) for answer in eight)
        return {
            "prefill": PROMPT / (read.timing.to_first_token or 0.0),
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

    def __init__(self, folder: Path, path: Path, threads: int, name: str):
        self.folder, self.path, self.threads, self.name = folder, path, threads, name

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self.folder / program), "-m", str(self.path), "-t", str(self.threads), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def _bench(self, *arguments: str) -> float:
        (row,) = json.loads(self._run("llama-bench", "-r", "1", "-o", "json", *arguments))
        return row["avg_ts"]

    def __call__(self) -> dict[str, float]:
        batched = self._run(
            "llama-batched-bench", "-npp", str(SHORT), "-ntg", str(ANSWER), "-npl", str(STREAMS), "--output-format", "jsonl", "-c", "4096"
        )
        (row,) = [json.loads(line) for line in batched.splitlines() if line.startswith("{")]
        return {
            "prefill": self._bench("-p", str(PROMPT), "-n", "0"),
            "one": self._bench("-p", "0", "-n", str(ANSWER)),
            "deep": self._bench("-p", "0", "-n", str(ANSWER), "-d", str(DEEP)),
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
    options = parser.parse_args()
    path = locate(options.model)
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(path, options.threads)
        sides: dict[str, Callable[[], dict[str, float]]] = {ours.name: ours}
        theirs = [Llama(options.llama, path, options.threads, "llama.cpp, the same file")]
        if options.quantize:
            other = Path(folder) / "q4_0.gguf"
            subprocess.run([options.llama / "llama-quantize", "--allow-requantize", path, other, "Q4_0"], check=True, capture_output=True)
            theirs.append(Llama(options.llama, other, options.threads, "llama.cpp, Q4_0"))
        sides |= {side.name: side for side in theirs}
        speed = bandwidth(options.threads)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for number in range(options.rounds):
            for name in list(sides) if number % 2 == 0 else list(reversed(sides)):
                rounds[name].append(sides[name]())
                print(f"{name:<28} " + "  ".join(f"{key} {value:,.0f}" for key, value in rounds[name][-1].items()), flush=True)
        ours.engine.close()
    results = {}
    for key, what in MEASURES.items():
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
                "read_bandwidth_gigabytes_per_second": round(speed, 1),
                "results": results,
                "machine": describe(),
                "versions": versions(),
            }
        )
    )


if __name__ == "__main__":
    main()
