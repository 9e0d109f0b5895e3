"""What a constraint costs a token: the same prompts answered with one and without, in turns.

    python benchmarks/constraint.py [--model smollm2-135m-instruct] [--rounds 3] [--tokens 120] [--confidence]

Both sides run in one engine on the file's own blocks: a request asks for its form or does not. An answer under a constraint ends
where its form ends, the other one is drawn to the same number of tokens. What is compared is the median time from one token to the
next of an answer (the reading of the prompt is not in it), as the ratio of two neighbouring runs; and, since such ratios are never
still on a shared machine, the time spent in the constraints themselves in each step, as a share of a plain step. A draw asks whether
the token it would take may come, and needs a mask of all only where some asking did not settle it; with --confidence, which tells every
token's log-probability under the distribution it was drawn from, an unfiltered draw needs the mask each time. The last line is JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

import steelyard
from steelyard.core.hardware import describe, versions
from steelyard.core.protocols import AnswerSettings, Done, Event, Failure, Text, Usage
from steelyard.generate.constraints.constraint import ConstraintSession
from steelyard.generate.engine import Engine

RECORD = {
    "type": "object",
    "properties": {
        "guest": {"type": "string"},
        "nights": {"type": "integer", "minimum": 1, "maximum": 60},
        "arrival": {"type": "string", "format": "date"},
        "room": {"enum": ["single", "double", "suite"]},
        "wishes": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 6},
        "address": {"type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}, "required": ["city"]},
    },
    "required": ["guest", "nights", "arrival", "room", "wishes", "address"],
    "additionalProperties": False,
}
SUMS = r"""
start: line+
line: NAME " = " NUMBER (" + " NUMBER)+ "\n"
NAME: /[a-z_]+/
NUMBER: /[0-9]{1,5}/
"""
FORMS = {
    "JSON record": {"json_schema": RECORD},
    "JSON records": {"json_schema": {"type": "array", "items": RECORD, "minItems": 3}},
    "any JSON object": {"json_schema": {"type": "object"}},
    "regex": {"regex": "([A-Z][a-z]+( [a-z]+){3,12}\\. ){4,}"},
    "grammar": {"grammar": SUMS},
}
PROMPT = "Write down, as data, what you know of a guest who booked a room in a hotel in Lisbon: {}."
STREAMS = ("in full", "briefly", "with all wishes", "with the address", "for three nights", "for a family", "in May", "for a suite")


class Spent:
    """Seconds spent so far in the constraints of all answers."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for name in ("__call__", "permits", "advance"):
            setattr(ConstraintSession, name, self.clocked(getattr(ConstraintSession, name)))

    def clocked(self, method: Callable) -> Callable:
        @functools.wraps(method)
        def timed(*arguments: Any) -> Any:
            begun = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                self.seconds += time.perf_counter() - begun

        return timed


def run(engine: Engine, streams: int, each: Sequence[AnswerSettings], spent: Spent) -> tuple[float, float, list[int]]:
    """(median seconds from a token to the next over all answers, and of the constraints' share of them, tokens of each answer)."""
    inside: list[float] = []
    clocks: list[list[float]] = [[] for _ in range(streams)]
    counts = [0] * streams
    ended = threading.Semaphore(0)

    def listener(number: int):
        clock = clocks[number]

        def hear(event: Event) -> None:
            if isinstance(event, Text):
                clock.append(time.perf_counter())
                if clock is clocks[0]:
                    inside.append(spent.seconds)
            if isinstance(event, Usage):
                counts[number] = event.completion_tokens
            if isinstance(event, Failure):
                raise SystemExit(f"an answer failed: {event.message}")
            if isinstance(event, Done):
                ended.release()

        return hear

    for number in range(streams):
        message = {"role": "user", "content": PROMPT.format(STREAMS[number])}
        engine.submit([message], each[number], listener(number))
    for _ in range(streams):
        ended.acquire()
    gaps = [later - earlier for clock in clocks for earlier, later in zip(clock, clock[1:], strict=False)]
    shares = [later - earlier for earlier, later in zip(inside, inside[1:], strict=False)]
    return statistics.median(gaps), statistics.median(shares), counts


def compared(engine: Engine, form: dict, streams: int, temperature: float, chosen: argparse.Namespace, spent: Spent) -> dict[str, object]:
    """Milliseconds a token with the form and without, and what it costs in percent: median and range over rounds."""
    pairs = []
    for number in range(chosen.rounds + 1):
        alike = {"temperature": temperature, "seed": number, "token_events": chosen.confidence}
        mine, inside, counts = run(engine, streams, [AnswerSettings(chosen.tokens, constraint=form, **alike)] * streams, spent)  # type: ignore[arg-type]
        free = [AnswerSettings(count, ignore_eos=True, **alike) for count in counts]
        pairs.append((mine, run(engine, streams, free, spent)[0], sum(counts), inside))
    pairs = pairs[1:]
    costs = sorted(100 * (mine / plain - 1) for mine, plain, *_ in pairs)
    shares = sorted(100 * inside / plain for _, plain, _, inside in pairs)
    return {
        "constrained_ms": round(1e3 * statistics.median(mine for mine, *_ in pairs), 2),
        "plain_ms": round(1e3 * statistics.median(plain for _, plain, *_ in pairs), 2),
        "overhead_percent": round(statistics.median(costs), 1),
        "overhead_range": [round(costs[0], 1), round(costs[-1], 1)],
        "inside_ms": round(1e3 * statistics.median(inside for *_, inside in pairs), 3),
        "inside_percent": round(statistics.median(shares), 1),
        "inside_range": [round(shares[0], 1), round(shares[-1], 1)],
        "tokens": sum(count for _, _, count, _ in pairs),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--tokens", type=int, default=120, help="most tokens of an answer")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    options.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    options.add_argument("--confidence", action="store_true", help="tell each token's log-probabilities too")
    chosen = options.parse_args()
    results: dict[str, object] = {}
    spent = Spent()
    with Engine(steelyard.load(chosen.model, dtype="stored"), slots=8, context=1024) as engine:
        for streams in chosen.streams:
            for temperature in chosen.temperatures:
                for name, form in FORMS.items():
                    result = compared(engine, form, streams, temperature, chosen, spent)
                    results[f"{name}, temperature {temperature:g}, {streams} stream{'s' * (streams > 1)}"] = result
                    print(f"{streams} streams  temperature {temperature:g}  {name:16} {result}", flush=True)
    about = {
        "model": chosen.model,
        "tokens": chosen.tokens,
        "rounds": chosen.rounds,
        "threads": torch.get_num_threads(),
        "confidence": chosen.confidence,
    }
    print(json.dumps(about | {"results": results, "versions": versions(), "machine": describe()}))


if __name__ == "__main__":
    main()
