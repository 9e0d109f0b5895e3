"""Answering in one run, beside llama.cpp where it is: reading a prompt, one stream, one stream far into a text, eight streams.

    python benchmarks/generate.py [--llama DIR] [--avx2] [--model smollm2-135m-instruct] [--rounds 3] [--threads 2] [--quantize] [--tiny]
    python benchmarks/generate.py --device cuda [--weights bfloat16 fp8 int8 int4] [--eager]

DIR holds llama.cpp's `llama-bench`, `llama-batched-bench` and (for --quantize) `llama-quantize`, which `llama_builds.py` builds. Both
sides read the same GGUF file, whose blocks stay as they are; --quantize adds llama.cpp on the same weights as Q4_0, its quickest form.
--weights are the forms ours multiplies, one engine each, the first of them beside llama.cpp: `stored` (the file's blocks; on a CPU what is
run if nothing is said), floats of 32 or 16 bits, or what `quantize` makes of them. --eager adds each form without CUDA graphs.

Rounds are interleaved (ours, theirs, ours, ...); told are medians over rounds and the ratio's median and range over pairs. Of ours it is
also told what share that is of the machine's own speed, measured in the same round (`steelyard/core/meters/peaks.py`): of the memory's, by
the bytes that every decoding step must read (all weights as they are kept, and keys and values so far), and for the prompt of the rate of
matrix products in the engine's float type, by the operations of reading it (model FLOPs utilisation, arXiv:2204.02311; it may pass 1 where
weights are multiplied in 8 bits, which is quicker). The last line is JSON.

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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steelyard.compress.quantize.quantize import Quantize
from steelyard.core.errors import SteelyardError
from steelyard.core.get import locate
from steelyard.core.hardware import describe, versions
from steelyard.core.meters.peaks import product_rate, read_bandwidth
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.engine import Completion, Engine
from steelyard.model.cost import reading_flops, step_bytes
from steelyard.model.linears.blocks import block_types
from steelyard.model.load import FLOATS, STORED, load
from steelyard.model.model import Model

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


def model_in(path: Path, weights: str, device: str) -> Model:
    """The model with its weights in a form, on a device."""
    if weights in FLOATS or weights == STORED:
        model = load(path, weights, device=device)
        if weights == STORED and not block_types(model.trunk):
            raise SteelyardError(f"{path} holds no blocks", do="Choose other --weights than `stored`.")
        return model
    model = Quantize.model_validate(Quantize.presets[weights]).compress(load(path, "bfloat16"), None)
    return model.with_trunk(model.trunk.to(device))


class Ours:
    """Tokens per second of an engine, and what share of the machine that is."""

    def __init__(self, path: Path, weights: str, device: str, threads: int, lengths: Lengths, graphs: bool | None = None):
        dtype = None if weights == STORED else weights if weights in FLOATS else "bfloat16"
        settings: dict[str, Any] = {"dtype": dtype, "threads": threads, "slots": STREAMS, "graphs": graphs}
        self.engine = Engine(model_in(path, weights, device), context=lengths.deep + 2 * lengths.answer, **settings)
        self.lengths = lengths
        self.asked = 0
        self.name = f"steelyard, {weights}, {self.engine.spec.numerics['kernels']}"
        self._answers([prompt(8, 0)], 8)
        if device != "cpu":  # every shape is recorded once, and libraries choose their kernels, before anything is timed
            self()

    @property
    def product_type(self) -> torch.dtype:
        """The float type that products are measured in: without AVX-512 PyTorch takes minutes for one that is narrower than float32."""
        slow = self.engine.trunk.device.type == "cpu" and "AVX512" not in torch.backends.cpu.get_cpu_capability()
        return torch.float32 if slow else self.engine.spec.weight_type

    def shares(self, rounds: list[dict[str, float]], limits: list[tuple[float, dict[torch.dtype, float]]]) -> dict[str, dict[str, float]]:
        """What share each measurement has of what the machine gave in the same round, bytes and operations a second: medians of rounds."""
        lengths, trunk, state = self.lengths, self.engine.trunk, self.engine.scheduler.host.state
        half = lengths.answer // 2  # a text's mean length while it is answered
        told = {}
        for key, texts in (("one", [8 + half]), ("deep", [lengths.deep + half]), ("eight", [lengths.short + half] * STREAMS)):
            size = step_bytes(trunk, state, texts)
            each = [speeds[key] / len(texts) * size / bandwidth for speeds, (bandwidth, _) in zip(rounds, limits, strict=True)]
            told[key] = {"megabytes_a_step": size / 1e6, "share_of_bandwidth": statistics.median(each)}
        operations = reading_flops(trunk, lengths.prompt)
        each = [
            speeds["prefill"] / lengths.prompt * operations / rates[self.product_type]
            for speeds, (_, rates) in zip(rounds, limits, strict=True)
        ]
        return told | {"prefill": {"gigaflops": operations / 1e9, "model_flops_utilisation": statistics.median(each)}}

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, help="folder of llama.cpp's programs; without, ours alone")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--device", default="cpu", help="where ours runs: cpu, cuda, cuda:1")
    parser.add_argument(
        "--weights", nargs="+", choices=(STORED, *FLOATS, *Quantize.presets), help="forms of ours (stored; on a GPU bfloat16)"
    )
    parser.add_argument("--eager", action="store_true", help="ours without CUDA graphs too")
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
    forms = options.weights or [STORED if options.device == "cpu" else "bfloat16"]
    with tempfile.TemporaryDirectory() as folder:
        theirs = [Llama(options.llama, path, options.threads, lengths, "llama.cpp, the same file")] if options.llama else []
        system = theirs[0].system() if theirs else None
        if options.avx2 and system and "AVX512" in system:
            raise SteelyardError(f"{options.llama} was built with AVX-512", do="Give the folder avx2/bin of benchmarks/llama_builds.py.")
        ways = [None, False] if options.eager else [None]
        ours = [Ours(path, form, options.device, options.threads, lengths, way) for form in forms for way in ways]
        if options.quantize and options.llama:
            other = Path(folder) / "q4_0.gguf"
            subprocess.run([options.llama / "llama-quantize", "--allow-requantize", path, other, "Q4_0"], check=True, capture_output=True)
            theirs.append(Llama(options.llama, other, options.threads, lengths, "llama.cpp, Q4_0"))
        sides: dict[str, Callable[[], dict[str, float]]] = {side.name: side for side in (*ours, *theirs)}
        torch.set_num_threads(options.threads)
        types = {side.product_type for side in ours}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        limits: list[tuple[float, dict[torch.dtype, float]]] = []
        for number in range(options.rounds):
            bandwidth = read_bandwidth(options.device, 2**20 if options.tiny else 2**30)
            limits.append((bandwidth, {dtype: product_rate(dtype, options.device, 64 if options.tiny else None) for dtype in types}))
            for name in list(sides) if number % 2 == 0 else list(reversed(sides)):
                rounds[name].append(sides[name]())
                print(f"{name:<28} " + "  ".join(f"{key} {value:,.0f}" for key, value in rounds[name][-1].items()), flush=True)
    medians = {name: {key: statistics.median(each[key] for each in told) for key in lengths.measures} for name, told in rounds.items()}
    bandwidth = statistics.median(each for each, _ in limits)
    rates = {dtype: statistics.median(each[dtype] for _, each in limits) for dtype in types}
    shares = {side.name: side.shares(rounds[side.name], limits) for side in ours}
    for side in ours:
        side.engine.close()
    results = {}
    for key, what in lengths.measures.items():
        row: dict[str, dict[str, Any]] = {}
        for name in sides:
            row[name] = {"tokens_per_second": round(medians[name][key], 1)}
            row[name] |= {measure: float(f"{value:.3g}") for measure, value in shares.get(name, {}).get(key, {}).items()}
            if name != ours[0].name:
                pairs = zip(rounds[ours[0].name], rounds[name], strict=True)
                ratios = sorted(mine[key] / other[key] for mine, other in pairs)
                row[name] |= {"ratio": round(statistics.median(ratios), 2), "ratio_range": [round(ratios[0], 2), round(ratios[-1], 2)]}
        results[what] = row
        print(f"{what}: " + "; ".join(f"{name} {value}" for name, value in row.items()))
    print(
        json.dumps(
            {
                "model": options.model,
                "device": options.device,
                "rounds": options.rounds,
                "threads": options.threads,
                "instructions": {ours[0].name: os.environ.get("STEELYARD_KERNELS", "the best")} | ({"llama.cpp": system} if system else {}),
                "read_bandwidth_gigabytes_per_second": round(bandwidth / 1e9, 1),
                "product_gigaflops_per_second": {str(dtype).removeprefix("torch."): round(rate / 1e9, 1) for dtype, rate in rates.items()},
                "ratios": f"{ours[0].name} over the other",
                "results": results,
                "machine": describe(),
                "versions": versions(),
            }
        )
    )


if __name__ == "__main__":
    main()
