"""How long a person waits: `steelyard --help`, and the first token of a GGUF model from the start of the process; and what loading takes.

    python benchmarks/startup.py [--repeats 7]

Each measurement is a fresh process, timed from outside by the clock; told are medians and ranges in seconds. The peer for the first
token is transformers reading the same GGUF file. One uncounted run of each warms the file cache. Loading is told of the GGUF file in its
own blocks and of directories of bfloat16 and of float32, each in the type of its file: seconds from the end of the imports to the first
token, the most private memory meanwhile above what the process held after its imports (looked at every 2 ms; pages of mapped files are the
system's cache), and what is held once the model itself is let go, as the server does. The last line printed is JSON.
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
import tempfile
import time

from steelyard.core.get import get
from steelyard.core.hardware import describe, versions
from steelyard.model.load import load
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

LOADED = """
import gc, json, pathlib, sys, threading, time
import steelyard, steelyard.generate.scheduler
from steelyard.core.meters import memory
from steelyard.generate.engine import Engine
from steelyard.kernels import native
from steelyard.model.load import load
from steelyard.model.released import release
native.routines()
def private():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])
most, watching = 0, True
def watch():
    global most
    while watching:
        most = max(most, private())
        time.sleep(0.002)
watcher = threading.Thread(target=watch)
before = private()
watcher.start()
begun, busy = time.perf_counter(), time.process_time()
model = load(MODEL, TYPE)
engine = Engine(model, dtype=None if TYPE == "stored" else TYPE)
engine.generate(["The capital of France is"], max_tokens=1)
seconds, processor = time.perf_counter() - begun, time.process_time() - busy
watching = False
watcher.join()
peak = most - before
release(model, engine.trunk)
engine.generate(["The capital of France is"], max_tokens=16)
memory.hand_back()
path = pathlib.Path(MODEL)
size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.glob("*.safetensors")))
print("token:" + json.dumps({
    "seconds": seconds, "processor_seconds": processor, "file_megabytes": size / 1e6, "weights_megabytes": engine.trunk.weight_bytes() / 1e6,
    "peak": peak / size, "held": (private() - before) / size,
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
    loading = {}
    with tempfile.TemporaryDirectory(prefix="steelyard-") as folder:
        kinds = {"stored": model, "bfloat16": f"{folder}/bfloat16", "float32": f"{folder}/float32"}
        for kind in ("bfloat16", "float32"):
            load(model, kind).save(kinds[kind])
        for kind, path in kinds.items():
            code = LOADED.replace("MODEL", repr(path)).replace("TYPE", repr(kind))
            runs = [json.loads(said([sys.executable, "-c", code], "token:").split("token:")[1]) for _ in range(repeats + 1)][1:]
            loading[kind] = {name: [round(run[name], 2) for run in runs] for name in runs[0]}
            print(f"{kind:26} {loading[kind]}")
    print(json.dumps({"results": results, "loading": loading, "versions": versions(), "machine": describe()}))


if __name__ == "__main__":
    main()
