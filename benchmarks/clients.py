"""Eight clients that ask at the same time: our engine (or our server) beside llama.cpp's server.

    python benchmarks/clients.py --llama DIR [--ours URL] [--model smollm2-135m-instruct] [--rounds 3] [--each 3] [--threads 2] [--tiny]

DIR holds `llama-server` (`llama_builds.py` builds it); it is started on the same GGUF file with as many slots as there are clients.
Each client asks `--each` questions one after the other, each with a prompt of 128 token ids that nobody asked before and an answer of
128 tokens, read as it streams. Ours is an engine in this process, or with --ours whatever serves OpenAI's completions at that URL
(`http://127.0.0.1:8000/v1`). Rounds are interleaved; told are, as medians over rounds with the ratio's range over pairs: tokens a
second from the first question to the last answer's end, and a client's median wait for the first token and between two. What a server
adds (HTTP, JSON, text from tokens) is in llama.cpp's figures, and in ours only with --ours. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from generate import prompt

from steelyard.core.errors import SteelyardError
from steelyard.core.get import locate
from steelyard.core.hardware import describe, versions
from steelyard.core.protocols import AnswerSettings, Done, Event, Failure, Text
from steelyard.generate.engine import Engine
from steelyard.model.load import load

CLIENTS, START = 8, 120.0
"""Clients at the same time; seconds a server may take until it answers."""

Ask = Callable[[list[int], int], list[float]]
"""Token ids and how many to write -> the moment each piece of the answer arrived."""


def engine_asker(engine: Engine) -> Ask:
    """Questions to an engine of this process."""

    def ask(ids: list[int], tokens: int) -> list[float]:
        ended, times, failed = threading.Event(), [], []

        def on_event(event: Event) -> None:
            if isinstance(event, Text):
                times.append(time.perf_counter())
            if isinstance(event, Failure):
                failed.append(event)
            if isinstance(event, Done):
                ended.set()

        engine.submit(ids, AnswerSettings(max_tokens=tokens, ignore_eos=True), on_event)
        ended.wait()
        if failed:
            raise SteelyardError(f"the engine failed: {failed[0]}")
        return times

    return ask


def endpoint_asker(url: str, model: str) -> Ask:
    """Questions to `/completions` of a server that speaks OpenAI's API. An event of its stream counts as one token."""
    parts = urllib.parse.urlsplit(url)

    def ask(ids: list[int], tokens: int) -> list[float]:
        body = {"model": model, "prompt": ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)
        with contextlib.closing(connection):
            connection.request("POST", f"{parts.path}/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise SteelyardError(f"{url} answered {answer.status}: {answer.read(500).decode(errors='replace')}")
            return [time.perf_counter() for line in answer if line.startswith(b'data: {"') and b'"choices":[{' in line.replace(b" ", b"")]

    return ask


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def llama_server(folder: Path, path: Path, threads: int, room: int) -> Iterator[str]:
    """A running llama-server's URL; `room` is the tokens of each client."""
    port = free_port()
    command = [str(folder / "llama-server"), "-m", str(path), "-t", str(threads), "-tb", str(threads), "-np", str(CLIENTS)]
    command += ["-c", str(CLIENTS * room), "--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(port, process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Returns as soon as the server says that it is well."""
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    log.seek(0)
    raise SteelyardError("llama-server does not answer", where=str(process.args), do=log.read()[-2000:].decode(errors="replace"))


def all_at_once(ask: Ask, each: int, length: int, tokens: int, number: int) -> dict[str, float]:
    """One round of all clients. Prompts of a round are those that `number` and the following numbers draw."""
    waits: list[float] = []
    gaps: list[float] = []
    written: list[int] = []
    errors: list[BaseException] = []
    barrier = threading.Barrier(CLIENTS + 1)

    def client(own: int) -> None:
        barrier.wait()
        try:
            for turn in range(each):
                begun = time.perf_counter()
                times = ask(prompt(length, number + own * each + turn), tokens)
                waits.append(times[0] - begun)
                gaps.extend(after - before for before, after in zip(times, times[1:], strict=False))
                written.append(len(times))
        except (OSError, http.client.HTTPException, SteelyardError, IndexError) as error:  # told below, in the main thread
            errors.append(error)

    clients = [threading.Thread(target=client, args=(own,)) for own in range(CLIENTS)]
    for one in clients:
        one.start()
    barrier.wait()
    begun = time.perf_counter()
    for one in clients:
        one.join()
    seconds = time.perf_counter() - begun
    if errors:
        raise errors[0]
    return {
        "tokens_per_second": CLIENTS * each * tokens / seconds,
        "first_token_seconds": statistics.median(waits),
        "between_tokens_seconds": statistics.median(gaps),
        "events_per_answer": statistics.mean(written),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, required=True)
    parser.add_argument("--ours", help="the URL of our server; without it an engine in this process")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--each", type=int, default=3, help="questions of a client in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="a few tokens of everything; the figures mean nothing")
    options = parser.parse_args()
    length, tokens = (8, 4) if options.tiny else (128, 128)
    path, room = locate(options.model), length + tokens + 64
    with contextlib.ExitStack() as stack:
        theirs = endpoint_asker(stack.enter_context(llama_server(options.llama, path, options.threads, room)), options.model)
        if options.ours:
            ours = endpoint_asker(options.ours.rstrip("/"), options.model)
        else:
            ours = engine_asker(stack.enter_context(Engine(load(path, "stored"), threads=options.threads, slots=CLIENTS, context=room)))
        sides = {"steelyard, server" if options.ours else "steelyard, engine": ours, "llama.cpp, server": theirs}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        number = 1
        for name, ask in sides.items():
            all_at_once(ask, 1, length, tokens, number := number + CLIENTS)  # to be warm
            print(f"{name} is ready", flush=True)
        for turn in range(options.rounds):
            for name in list(sides) if turn % 2 == 0 else list(reversed(sides)):
                number += CLIENTS * options.each
                rounds[name].append(all_at_once(sides[name], options.each, length, tokens, number))
                print(f"{name:<18} " + "  ".join(f"{key} {value:,.4g}" for key, value in rounds[name][-1].items()), flush=True)
    results = {name: {key: statistics.median(each[key] for each in runs) for key in runs[0]} for name, runs in rounds.items()}
    first, second = (rounds[name] for name in sides)
    ratios = sorted(a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(first, second, strict=True))
    print(f"ratio of tokens a second: {statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]")
    settings = {
        "clients": CLIENTS,
        "each": options.each,
        "prompt": length,
        "answer": tokens,
        "rounds": options.rounds,
        "threads": options.threads,
    }
    told = {"model": options.model, **settings, "results": results, "ratio": [ratios[0], statistics.median(ratios), ratios[-1]]}
    print(json.dumps(told | {"kernels": os.environ.get("STEELYARD_KERNELS", "the best"), "machine": describe(), "versions": versions()}))


if __name__ == "__main__":
    main()
