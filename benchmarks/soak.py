"""Does an engine's memory grow? Requests of every kind come and are cancelled at random for minutes, and the process's memory is watched.

    python benchmarks/soak.py [--minutes 10] [--model smollm2-135m-instruct] [--threads 2] [--seed 0]
    python benchmarks/soak.py --short 5000          thousands of questions of a few tokens, and what is held at rest after each tenth of them
    python benchmarks/soak.py --requests 10000      the same question to a whole server, with a tiny model: soak_server.py

Arrivals are a Poisson process, fast enough to keep the slots full at times and leave them empty at others; prompts of 1 to 600 tokens
(some with the beginning of an earlier one), answers of 1 to 96, a fifth cancelled after a random while. The system hands out the memory of
keys and values as it is first touched, so a slot grows with the longest text it has yet held, up to a bound: before the clock starts every
slot has held a text of the whole context (`--empty` leaves that out). Resident memory is sampled every half second. Told is its
growth per minute over the second half: the slope of a straight line through the least of each of 12 equally long stretches (what a turn
works with comes and goes, what is kept does not), with its 95% interval.
Every request must end with exactly one `Done`. The last line is JSON.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy
import scipy.stats
import soak_server

from steelyard.core.errors import SteelyardError
from steelyard.core.get import locate
from steelyard.core.hardware import describe, versions
from steelyard.core.meters import memory as meter
from steelyard.core.protocols import AnswerSettings, Done, Event, Failure
from steelyard.generate.engine import Engine
from steelyard.model.load import load

SLOTS, CONTEXT, EVERY, STRETCHES, WARM = 8, 1024, 0.5, 12, 0.5
BUSY, CALM = 0.15, 2.0
"""Mean seconds between two arrivals, in stretches that take turns."""


@dataclass
class Heard:
    """How requests ended."""

    reasons: collections.Counter[str] = field(default_factory=collections.Counter)
    open: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def listener(self) -> Callable[[Event], None]:
        """What one request tells its events to."""
        with self.lock:
            self.open += 1
        ended = 0

        def on_event(event: Event) -> None:
            nonlocal ended
            with self.lock:
                if isinstance(event, Failure):
                    self.reasons["failed"] += 1
                if isinstance(event, Done):
                    ended += 1
                    self.open -= 1
                    self.reasons[event.reason if ended == 1 else "ended twice"] += 1

        return on_event


def question(draw: random.Random, earlier: list[list[int]]) -> tuple[list[int], AnswerSettings]:
    """Token ids and how to answer them."""
    ids = [draw.randrange(1000, 40_000) for _ in range(draw.choice((1, 20, 100, 600)))]
    if earlier and draw.random() < 0.3:
        ids = (draw.choice(earlier)[: draw.randrange(1, 300)] + ids)[:700]
    settings = AnswerSettings(
        max_tokens=draw.randrange(1, 97),
        temperature=draw.choice((0.0, 0.8)),
        top_k=draw.choice((0, 40)),
        repetition_penalty=draw.choice((1.0, 1.2)),
        alternatives=draw.choice((0, 3)),
        token_events=draw.random() < 0.5,
        seed=draw.randrange(1000),
    )
    return ids, settings


def fill(engine: Engine, draw: random.Random) -> None:
    """Has every slot hold a text as long as the context, so that all memory of keys and values has been touched."""
    prompts = [[draw.randrange(1000, 40_000) for _ in range(CONTEXT - 1)] for _ in range(SLOTS)]
    engine.generate(prompts, max_tokens=1, logprobs=False)


def growth(times: list[float], bytes_: list[int]) -> tuple[float, float, float]:
    """MB a minute: the slope and its 95% interval."""
    at, mb = numpy.array(times) / 60, numpy.array(bytes_) / 1e6
    kept = at >= at[-1] * WARM
    parts = [(part, mb_part) for part, mb_part in zip(*(numpy.array_split(x[kept], STRETCHES) for x in (at, mb)), strict=True) if len(part)]
    if len(parts) < 3:
        raise SteelyardError(f"{len(times)} samples are too few", do="Give it more minutes.")
    fit: Any = scipy.stats.linregress([part.mean() for part, _ in parts], [part.min() for _, part in parts])
    half = float(scipy.stats.t.ppf(0.975, len(parts) - 2) * fit.stderr)
    return float(fit.slope), float(fit.slope) - half, float(fit.slope) + half


def resident() -> int:
    """Bytes of this process in memory now."""
    now = meter.resident()
    if now is None:
        raise SteelyardError("this system does not tell how much memory a process takes", do="Run it on Linux.")
    return now


def at_rest(engine: Engine, count: int, draw: random.Random) -> list[dict[str, float]]:
    """Asks `count` short questions, a fifth of them cancelled, and says after each tenth what the process holds once all have ended:
    megabytes of its own memory, Python objects that may refer to others, and pieces of memory that Python's allocator has given out."""
    held = []
    for tenth in range(1, 11):
        heard = Heard()
        for number in range(count // 10):
            while heard.open >= 2 * SLOTS:
                time.sleep(0.002)
            ids = [draw.randrange(1000, 40_000) for _ in range(draw.choice((1, 4, 12)))]
            settings = replace(question(draw, [])[1], max_tokens=draw.randrange(1, 5))
            request = engine.submit(ids, settings, heard.listener())
            if number % 5 == 0:
                request.cancel()
        while heard.open:
            time.sleep(0.01)
        if heard.reasons["failed"] or heard.reasons["ended twice"]:
            raise SteelyardError(f"{heard.reasons['failed']} failed, {heard.reasons['ended twice']} ended twice")
        gc.collect()
        held.append({"asked": tenth * (count // 10), "megabytes": round(private() / 1e6, 1)})
        held[-1] |= {"objects": len(gc.get_objects()), "pieces": sys.getallocatedblocks()}
        print(held[-1], flush=True)
    return held


def private() -> int:
    """Bytes in memory that are this process's own, those of mapped files not among them."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--requests", type=int, help="ask a whole server so many requests instead")
    parser.add_argument("--short", type=int, help="ask an engine so many short questions instead")
    parser.add_argument("--empty", action="store_true", help="begin with slots that have held nothing yet")
    options = parser.parse_args()
    if options.requests:
        return soak_server.soak(options.requests, options.seed)
    draw, heard, earlier, leaving = random.Random(options.seed), Heard(), [], []
    times: list[float] = []
    memory: list[int] = []
    asked, cancelled = 0, 0
    with Engine(load(locate(options.model), "stored"), threads=options.threads, slots=SLOTS, context=CONTEXT) as engine:
        if not options.empty:
            fill(engine, random.Random(options.seed))
        if options.short:
            held = at_rest(engine, options.short, draw)
            print(json.dumps({"model": options.model, "seed": options.seed, "held": held, "machine": describe(), "versions": versions()}))
            return
        begun, arrival = time.monotonic(), 0.0
        while (now := time.monotonic() - begun) < options.minutes * 60:
            if now >= len(times) * EVERY:
                times.append(now)
                memory.append(resident())
                if len(times) % round(30 / EVERY) == 1:
                    print(f"{now:6.0f} s: {memory[-1] / 1e6:,.0f} MB, {asked} asked, {heard.open} open", flush=True)
            while leaving and leaving[0][0] <= now:
                leaving.pop(0)[1].cancel()
                cancelled += 1
            if now >= arrival and heard.open < 4 * SLOTS:  # more would only wait
                ids, settings = question(draw, earlier)
                request = engine.submit(ids, settings, heard.listener())
                asked += 1
                earlier = [*earlier[-50:], ids]
                if draw.random() < 0.2:
                    leaving = sorted([*leaving, (now + draw.uniform(0, 3), request)], key=lambda one: one[0])
                arrival = now + draw.expovariate(1 / (BUSY if int(now / 20) % 2 == 0 else CALM))
            time.sleep(0.01)
        until = time.monotonic() + 300
        while heard.open and time.monotonic() < until:
            time.sleep(0.05)
    slope, low, high = growth(times, memory)
    print(f"growth: {slope:+.2f} MB a minute [{low:+.2f}, {high:+.2f}], largest {max(memory) / 1e6:,.0f} MB")
    result = {name: getattr(options, name) for name in ("minutes", "model", "threads", "seed", "empty")}
    result |= {"asked": asked, "cancelled": cancelled, "reasons": dict(heard.reasons), "never_ended": heard.open}
    result |= {"growth_megabytes_per_minute": [round(x, 3) for x in (slope, low, high)], "largest_megabytes": round(max(memory) / 1e6, 1)}
    print(json.dumps(result | {"samples": len(times), "machine": describe(), "versions": versions()}))
    if heard.open or heard.reasons["failed"] or heard.reasons["ended twice"]:
        raise SteelyardError(
            f"{heard.open} requests never ended, {heard.reasons['failed']} failed, {heard.reasons['ended twice']} ended twice"
        )


if __name__ == "__main__":
    main()
