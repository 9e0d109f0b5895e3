"""How long a person waits: `steelyard --help`, and the first token of a GGUF model from the start of the process; and what it then holds.

    python benchmarks/startup.py [--repeats 7]

Each measurement is a fresh process, timed from outside by the clock; told are medians and ranges in seconds. The peer for the first
token is transformers reading the same GGUF file. One uncounted run of each warms the file cache. Memory is what the process holds above
what it held after its imports, as the server runs a model: in the file's own blocks, the model itself let go, one answer given; resident,
and the private part of it. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time

from steelyard.core.get import get
from steelyard.core.hardware import describe, versions
from steelyard.serve.engine_keeper import SPARE_AFTER
from steelyard.serve.engine_process import EngineProcess, ServedModel

SPARE_STARTS = 10.0
"""Seconds that the process which waits has to read its libraries."""

OURS = """
import steelyard
engine = steelyard.Engine(steelyard.load(MODEL))
first = engine.generate(["The capital of France is"], max_tokens=1)[0]
print("token:" + first.text)
"""
THEIRS = """
import pathlib, torch, transformers
path = pathlib.Path(MODEL)
tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16)
ids = tokenizer("The capital of France is", return_tensors="pt")
print("token:" + tokenizer.decode(model.generate(**ids, max_new_tokens=1, do_sample=False)[0][-1:]))
"""

HELD = """
import gc, json, pathlib, re
import steelyard, steelyard.generate.scheduler
from steelyard.core.meters import memory
from steelyard.generate.engine import Engine
from steelyard.kernels import native
from steelyard.model.load import load
from steelyard.model.released import release
native.routines()
def held():
    told = pathlib.Path("/proc/self/smaps_rollup").read_text()
    return [1024 * int(re.search(name + r": +(\\d+) kB", told)[1]) for name in ("Rss", "Anonymous")]
before = held()
model = load(MODEL, "stored")
engine = Engine(model)
release(model, engine.trunk)
engine.generate(["The capital of France is"], max_tokens=16)
gc.collect()
memory.hand_back()
after = held()
print("token:" + json.dumps({
    "file": pathlib.Path(MODEL).stat().st_size, "weights": engine.trunk.weight_bytes(),
    "resident": after[0] - before[0], "private": after[1] - before[1],
}))
"""


def said(command: list[str], says: str) -> str:
    """What a process printed, which must hold the given word."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert says in done.stdout, done.stdout + done.stderr
    return done.stdout


def seconds(command: list[str], says: str) -> float:
    """Seconds until a process has ended, which must have printed the given word."""
    start = time.perf_counter()
    said(command, says)
    return time.perf_counter() - start


async def again(model: str) -> float:
    """Seconds from the death of a server's engine (SIGSEGV) until it is ready again, its spare process having had time to start."""
    engine = EngineProcess([ServedModel("model", model)], queue=1, spare=True)
    await engine.start()
    try:
        await asyncio.sleep(SPARE_AFTER + SPARE_STARTS)
        assert engine.pid is not None
        begun = time.perf_counter()
        os.kill(engine.pid, signal.SIGSEGV)
        while engine.ready:
            await asyncio.sleep(0.005)
        while not engine.ready:
            await asyncio.sleep(0.005)
        return time.perf_counter() - begun
    finally:
        await engine.close(0)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=7)
    repeats = options.parse_args().repeats
    model = str(get("smollm2-135m-instruct"))
    commands = {
        "help": ([sys.executable, "-m", "steelyard.cli.main", "--help"], "weigh"),
        "first token": ([sys.executable, "-c", OURS.replace("MODEL", repr(model))], "token:"),
        "first token, transformers": ([sys.executable, "-c", THEIRS.replace("MODEL", repr(model))], "token:"),
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for round_ in range(repeats + 1):
        for name, (command, says) in commands.items():
            time_taken = seconds(command, says)
            if round_:
                taken[name].append(time_taken)
        if round_:
            taken.setdefault("ready again after a crash", []).append(asyncio.run(again(model)))
    results = {
        name: {"median_seconds": round(statistics.median(times), 2), "range": [round(min(times), 2), round(max(times), 2)], "runs": repeats}
        for name, times in taken.items()
    }
    for name, result in results.items():
        print(f"{name:26} {result}")
    held = [
        json.loads(said([sys.executable, "-c", HELD.replace("MODEL", repr(model))], "token:").split("token:")[1]) for _ in range(repeats)
    ]
    memory = {name: [round(one[name] / 1e6, 1) for one in held] for name in held[0]}
    print(f"{'megabytes':26} {memory}")
    print(json.dumps({"results": results, "megabytes": memory, "versions": versions(), "machine": describe()}))


if __name__ == "__main__":
    main()
