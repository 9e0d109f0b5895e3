"""Eight clients that ask at the same time: what our server adds to our engine, and both beside llama.cpp's server.

    python benchmarks/clients.py [--llama DIR] [--model smollm2-135m-instruct] [--rounds 3] [--each 3] [--threads 2] [--tiny]

The sides are an engine in this process, `steelyard serve`, and, where DIR holds it (`llama_builds.py` builds it), `llama-server`; all on
the same GGUF file with as many slots as there are clients, ours with the file's own blocks as weights (`numerics: stored`). Each client
asks `--each` questions one after the other, each with a prompt of 128 token ids that nobody asked before and an answer of 128 tokens,
read as it streams. Rounds are interleaved; told are, as medians over rounds, tokens a second from the first question to the last
answer's end, and a client's median wait for the first token and between two; and the ratios of tokens a second with their range over
rounds. Client, server and engine share the machine's cores, so the clients' reading slows what they ask too, and the asker of the engine
in this process reads nothing: what our server's own process, its engine's and this one take of the processors for each token is told as
well. The last line is JSON.
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
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import psutil
from generate import prompt

from steelyard.core.errors import SteelyardError
from steelyard.core.get import locate
from steelyard.core.hardware import describe, versions
from steelyard.core.protocols import AnswerSettings, Done, Event, Failure, Text
from steelyard.generate.engine import Engine
from steelyard.model.load import load

ENGINE, SERVER, LLAMA = "steelyard, engine", "steelyard, server", "llama.cpp, server"
CLIENTS, START, SPARE = 8, 120.0, 15.0
"""Clients at the same time; seconds a server may take until it answers, and until its second child, which waits, has read its libraries."""

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


def llama_command(folder: Path, path: Path, threads: int, room: int, slots: int = CLIENTS) -> list[str]:
    """What starts llama-server, but for its port; `room` is the tokens of each slot."""
    command = [str(folder / "llama-server"), "-m", str(path), "-t", str(threads), "-tb", str(threads), "-np", str(slots)]
    return [*command, "-c", str(slots * room), "--host", "127.0.0.1"]


def our_command(model: str, threads: int, room: int, data: str, slots: int = CLIENTS) -> list[str]:
    """What starts our server, but for its port."""
    program = [sys.executable, "-c", "from steelyard.cli.main import main; main()", "serve", model]
    return [
        *program,
        "--threads",
        str(threads),
        "--slots",
        str(slots),
        "--context",
        str(room),
        "--data",
        data,
        "--try",
        "numerics:stored",
    ]


def spent(pid: int) -> dict[str, float]:
    """Processor seconds of our server's process, of those below it (its engine's), and of this one, so far."""
    server = psutil.Process(pid)
    seconds = lambda process: sum(process.cpu_times()[:2])  # noqa: E731  (its own, user and system)
    return {"server": seconds(server), "engine": sum(map(seconds, server.children(recursive=True))), "clients": seconds(psutil.Process())}


class Running(NamedTuple):
    """A server that runs: the URL of its API, and its process id."""

    url: str
    pid: int


@contextlib.contextmanager
def running(command: list[str], ready: str) -> Iterator[Running]:
    """A server that runs meanwhile and answers 200 at `ready` once it may be asked."""
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(port, ready, process, log)
            yield Running(f"http://127.0.0.1:{port}/v1", process.pid)
        finally:
            process.terminate()
            process.wait()


def wait_for(port: int, ready: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Returns as soon as the server says that it is well."""
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", ready)
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    log.seek(0)
    raise SteelyardError("the server does not answer", where=str(process.args), do=log.read()[-2000:].decode(errors="replace"))


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


def of_both(processor: dict[str, float]) -> float:
    """What share of the processor time of server and engine is the server's."""
    return processor["server"] / (processor["server"] + processor["engine"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, help="folder of llama-server")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--each", type=int, default=3, help="questions of a client in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="a few tokens of everything; the figures mean nothing")
    options = parser.parse_args()
    length, tokens = (8, 4) if options.tiny else (128, 128)
    path, room = locate(options.model), length + tokens + 64
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(Engine(load(path, "stored"), threads=options.threads, slots=CLIENTS, context=room))
        data = stack.enter_context(tempfile.TemporaryDirectory())
        ours = stack.enter_context(running(our_command(options.model, options.threads, room, data), "/ready"))
        sides = {ENGINE: engine_asker(engine), SERVER: endpoint_asker(ours.url, options.model)}
        time.sleep(0 if options.tiny else SPARE)
        if options.llama:
            theirs = stack.enter_context(running(llama_command(options.llama, path, options.threads, room), "/health"))
            sides[LLAMA] = endpoint_asker(theirs.url, options.model)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        shares: list[dict[str, float]] = []
        number = 1
        for name, ask in sides.items():
            all_at_once(ask, 1, length, tokens, number := number + CLIENTS)  # to be warm
            print(f"{name} is ready", flush=True)
        for turn in range(options.rounds):
            for name in list(sides) if turn % 2 == 0 else list(reversed(sides)):
                number += CLIENTS * options.each
                before = spent(ours.pid)
                rounds[name].append(all_at_once(sides[name], options.each, length, tokens, number))
                if name == SERVER:
                    after = spent(ours.pid)
                    shares.append({who: (after[who] - before[who]) / (CLIENTS * options.each * tokens) for who in after})
                print(f"{name:<18} " + "  ".join(f"{key} {value:,.4g}" for key, value in rounds[name][-1].items()), flush=True)
    results = {name: {key: statistics.median(each[key] for each in runs) for key in runs[0]} for name, runs in rounds.items()}
    ratios = {}
    for other in [name for name in (ENGINE, LLAMA) if name in sides]:
        found = sorted(a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(rounds[SERVER], rounds[other], strict=True))
        ratios[other] = [found[0], statistics.median(found), found[-1]]
        print(f"{SERVER} beside {other}: {ratios[other][1]:.2f} [{found[0]:.2f}, {found[-1]:.2f}] times its tokens a second")
    processor = {who: statistics.median(share[who] for share in shares) for who in shares[0]}
    told = ", ".join(f"{who} {seconds * 1e6:,.0f}" for who, seconds in processor.items())
    print(f"processor time a token that the server wrote, us: {told}; the server's of it and its engine's: {of_both(processor):.1%}")
    settings = {
        "clients": CLIENTS,
        "each": options.each,
        "prompt": length,
        "answer": tokens,
        "rounds": options.rounds,
        "threads": options.threads,
    }
    told = {"model": options.model, **settings, "results": results, "ratios": ratios, "processor_seconds_a_token": processor}
    print(json.dumps(told | {"kernels": os.environ.get("STEELYARD_KERNELS", "the best"), "machine": describe(), "versions": versions()}))


if __name__ == "__main__":
    main()
