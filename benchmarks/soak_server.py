"""Does a server keep anything of requests that are over? What `soak.py --requests N` runs.

`steelyard serve` with a tiny random model (SmolLM2's tokenizer and template, two blocks of width 64) is asked by 16 clients at once:
whole answers, streams read to their end, streams left at a random frame, kept streams that are deleted, raw completions with
alternatives, several answers to one question, forms, requests that are refused, tokens of texts, and conversations that are stored,
answered, judged and erased. After every tenth of the requests, and some seconds with none under way, the memory, open files and threads of
the server and of its engine's process are read. Told is their growth from the second tenth to the last, and of memory the slope over these
tenths, with its 95% interval. The last line is JSON.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import os
import random
import sys
import tempfile
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import scipy.stats
import torch
from clients import running

from steelyard.core.errors import SteelyardError
from steelyard.core.get import locate
from steelyard.core.hardware import describe, versions
from steelyard.model.families.config import Config
from steelyard.model.families.family import find
from steelyard.model.load import load
from steelyard.model.model import Model

NAME, AT_ONCE, TENTHS = "tiny", 16, 10
MOST_GROWTH = {
    "server megabytes": 16.0,
    "engine megabytes": 16.0,
    "server files": 4,
    "engine files": 2,
    "server threads": 4,
    "engine threads": 4,
}
"""What may be there after all requests more than after a fifth of them: allocators round, pools of threads fill up."""
QUIET = 4.0
"""Seconds without a request before memory is read: an engine that rests hands back what it has freed."""
FORM = {"type": "json_schema", "json_schema": {"name": "f", "schema": {"type": "object", "properties": {"a": {"type": "boolean"}}}}}
WORDS = "Tell me about rivers mountains kettles lamps the sea a train and what they have in common please".split()


def tiny(folder: Path) -> Path:
    """A model that answers nonsense in a millisecond a token."""
    from_whom = load(locate("smollm2-135m-instruct"), "stored")
    assert from_whom.tokenizer is not None
    values = {
        "model_type": "llama",
        "vocab_size": from_whom.tokenizer.vocabulary_size,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "eos_token_id": from_whom.tokenizer.eos_ids[0],
    }
    torch.manual_seed(0)
    family = find("llama", NAME)
    Model(family.plan(Config(values)).build().eval(), family, values, from_whom.tokenizer, from_whom.template, NAME).save(folder)
    return folder


class Client:
    """One connection, kept open between requests as browsers and libraries do, and what came of them."""

    def __init__(self, url: str, statuses: collections.Counter[str]):
        parts = urllib.parse.urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        self.statuses = statuses

    def ask(self, method: str, path: str, body: Any = None, frames: int | None = None) -> Any:
        """The answer as JSON; of a stream its first `frames` lines, after which the connection is closed."""
        self.connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        self.statuses[f"{method} {path.split('?')[0].split('/')[1]} {answer.status}"] += 1
        if frames is not None:
            lines = [answer.readline() for _ in range(frames)]
            self.connection.close()
            return answer.headers, lines
        content = answer.read()
        return json.loads(content) if content[:1] in (b"{", b"[") else content


def one_request(client: Client, draw: random.Random) -> None:
    """A request of a random kind."""
    said = " ".join(draw.choices(WORDS, k=draw.randrange(1, 60)))
    chat = {
        "model": NAME,
        "messages": [{"role": "user", "content": said}],
        "max_tokens": draw.randrange(1, 24),
        "seed": draw.randrange(100),
        "temperature": draw.choice((0, 1)),
    }
    match draw.choices(range(10), weights=(20, 20, 12, 4, 12, 6, 6, 10, 5, 5))[0]:
        case 0:
            client.ask("POST", "/v1/chat/completions", chat)
        case 1:
            client.ask("POST", "/v1/chat/completions", chat | {"stream": True, "logprobs": True, "top_logprobs": 3})
        case 2:
            client.ask("POST", "/v1/chat/completions", chat | {"stream": True, "max_tokens": 200}, frames=draw.randrange(0, 12))
        case 3:
            lasting = chat | {"stream": True, "max_tokens": 50, "steelyard": {"resumable": True}}
            headers, _ = client.ask("POST", "/v1/chat/completions", lasting, frames=draw.randrange(0, 6))
            if id := headers["X-Steelyard-Stream"]:
                client.ask("DELETE", f"/v1/streams/{id}")
        case 4:
            client.ask("POST", "/v1/completions", {"model": NAME, "prompt": said, "max_tokens": 12, "logprobs": 2, "temperature": 0})
        case 5:
            client.ask("POST", "/v1/chat/completions", chat | {"n": 3})
        case 6:
            client.ask("POST", "/v1/chat/completions", chat | {"response_format": FORM})
        case 7:
            bad = draw.choice(
                ({"temperature": 9}, {"model": "gone"}, {"messages": [{"role": "user", "content": said * 200}]}, {"wrong": 1})
            )
            client.ask("POST", "/v1/chat/completions", chat | bad)
        case 8:
            client.ask("POST", "/tokenize", {"model": NAME, "prompt": said})
        case 9:
            conversation(client, said, chat["max_tokens"])


def conversation(client: Client, said: str, tokens: int) -> None:
    """What the page does: a conversation with a message, its answer and a judgement, and the end of it."""
    id = client.ask("POST", "/api/conversations", {"title": said[:40]})["id"]
    parts = [{"type": "text", "text": said}]
    question = client.ask("POST", f"/api/conversations/{id}/messages", {"parent": None, "role": "user", "parts": parts})["id"]
    answering = {"parent": question, "model": NAME, "settings": {"max_tokens": tokens}, "levers": [], "store": True}
    events = client.ask("POST", f"/api/conversations/{id}/answer", answering)
    frames = [json.loads(line[6:]) for line in events.splitlines() if line.startswith(b"data: {")]
    answer = next(frame["id"] for frame in frames if frame["type"] == "message")
    client.ask("POST", "/api/feedback", {"message": answer, "kind": "thumbs", "value": "up"})
    client.ask("DELETE", f"/api/conversations/{id}")


def state(server: int, engine: int) -> dict[str, float]:
    """Memory (MB), open files and threads of both processes."""
    found: dict[str, float] = {}
    for name, pid in (("server", server), ("engine", engine)):
        resident = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
        found[f"{name} megabytes"] = int(resident.split()[1]) * 1024 / 1e6
        found[f"{name} files"] = len(os.listdir(f"/proc/{pid}/fd"))
        found[f"{name} threads"] = len(os.listdir(f"/proc/{pid}/task"))
    return found


def engine_of(pid: int) -> int:
    """The engine's process of a server, which may have others for a while (one collects what levers there are)."""
    children = [child for path in Path(f"/proc/{pid}/task").iterdir() for child in (path / "children").read_text().split()]
    engines = [int(child) for child in children if "engine_worker" in Path(f"/proc/{child}/cmdline").read_text()]
    if len(engines) != 1:
        raise SteelyardError(f"the server has {len(engines)} engines' processes, not one")
    return engines[0]


def slope(states: list[dict[str, float]], name: str) -> list[float]:
    """What grows with each further tenth, after the first: the slope of a straight line, and its 95% interval."""
    values = [state[name] for state in states[1:]]
    fit: Any = scipy.stats.linregress(range(len(values)), values)
    half = float(scipy.stats.t.ppf(0.975, len(values) - 2) * fit.stderr)
    return [round(float(fit.slope) + add, 3) for add in (0, -half, half)]


def all_over(client: Client) -> None:
    """Returns when no request is under way; unused connections are closed by then."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        text = client.ask("GET", "/metrics").decode()
        figures = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line and not line.startswith("#")}
        going = figures["steelyard_requests_going"]  # this one itself is not counted, or is the only one
        if going <= 1 and all(figures[f'steelyard_engine_{kind}{{model="{NAME}"}}'] == 0 for kind in ("active", "waiting")):
            return
        time.sleep(0.2)
    raise SteelyardError("requests are still under way two minutes after the last one")


def soak(count: int, seed: int) -> None:
    """Asks and tells."""
    statuses: collections.Counter[str] = collections.Counter()
    here = threading.local()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tiny(folder / NAME)
        program = [sys.executable, "-c", "from steelyard.cli.main import main; main()", "serve", str(folder / NAME)]
        options = ["--data", str(folder / "data"), "--threads", "1", "--slots", "4", "--no-spare"]
        server = stack.enter_context(running([*program, *options], "/ready"))
        engine, url = engine_of(server.pid), server.url

        def ask(number: int) -> None:
            if not hasattr(here, "client"):
                here.client = Client(url, statuses)
            one_request(here.client, random.Random(f"{seed} {number}"))

        begun, states = time.monotonic(), []
        for tenth in range(TENTHS):
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(ask, range(count * tenth // TENTHS, count * (tenth + 1) // TENTHS)))
            all_over(Client(url, collections.Counter()))
            time.sleep(QUIET)
            states.append(state(server.pid, engine))
            told = "  ".join(f"{name} {value:.5g}" for name, value in states[-1].items())
            print(f"{count * (tenth + 1) // TENTHS:>6} requests, {time.monotonic() - begun:5.0f} s: {told}", flush=True)
        seconds = time.monotonic() - begun
        same = engine_of(server.pid) == engine
    growth = {name: round(states[-1][name] - states[1][name], 2) for name in MOST_GROWTH}
    slopes = {name: slope(states, name) for name in MOST_GROWTH if name.endswith("megabytes")}
    for name, (middle, low, high) in slopes.items():
        print(f"{name} of each further {count // TENTHS} requests: {middle:+.2f} [{low:+.2f}, {high:+.2f}]")
    result = {"requests": count, "seed": seed, "seconds": round(seconds, 1), "statuses": dict(sorted(statuses.items())), "states": states}
    print(json.dumps(result | {"growth": growth, "slopes": slopes, "machine": describe(), "versions": versions()}))
    wrong = [f"{name}: {value:+}" for name, value in growth.items() if value > MOST_GROWTH[name]]
    failed = [status for status in statuses if status.split()[-1].startswith("5")]
    if wrong or failed or not same:
        raise SteelyardError(f"what grew: {wrong}; failures of the server: {failed}; the engine's process lived: {same}")
