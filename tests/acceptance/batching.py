"""Answers that come and go while others run: each says what it would have said alone, and no slot waits for the longest answer.

Beside it static batching: as many requests as there are slots are run to the end of the last of them before the next are taken.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from unittest import mock

from acceptance.experiment import MODEL, SMALL, Bench, Claim, Experiment, Finding, compared, counted, untrained
from steelyard.core.protocols import AnswerSettings, Event
from steelyard.core.seeds import derive
from steelyard.data.generated.passages import make_passage
from steelyard.generate import slots
from steelyard.generate.engine import Engine, _collector, _completion
from steelyard.generate.host import Host
from steelyard.generate.spec import EngineSpec
from steelyard.model.load import load
from steelyard.weigh.cells.costs import METRICS
from steelyard.weigh.tasks.task import Metric

PASSES = Metric("passes_per_token", "speed", "passes/token", False, margin=0.02, relative=True, kind="ratio")
SPEED = next(metric for metric in METRICS if metric.name == "tokens_per_second")
SLOTS = 4

Request = tuple[list[int], AnswerSettings]
Said = list[tuple[int, float]]


def requests_of(bench: Bench, engine: Engine, name: str, count: int, lengths: Sequence[int]) -> list[Request]:
    """Questions about a few passages, so that many begin alike; greedy and sampled in turn, of lengths drawn from those given."""
    rng = random.Random(derive(bench.seed, "batching", name))
    passages = [make_passage(rng, 4).text for _ in range(3)]
    made = []
    for number in range(count):
        prompt = engine.encode(f"{rng.choice(passages)} {make_passage(rng, rng.randint(1, 2)).text}")
        settings = AnswerSettings(
            max_tokens=rng.choice(lengths), temperature=(number % 2) * 0.8, seed=rng.randrange(2**31), ignore_eos=True, token_events=True
        )
        made.append((prompt, settings))
    return made


def arriving(engine: Engine, requests: Sequence[Request], rng: random.Random) -> list[Said]:
    """What is said to requests that arrive one by one, after pauses of up to 30 ms."""

    def one(request: Request) -> Said:
        return told(engine, [request])[0]

    pending: list[Future[Said]] = []
    with ThreadPoolExecutor(len(requests)) as callers:
        for request in requests:
            pending.append(callers.submit(one, request))
            time.sleep(rng.random() * 0.03)
        return [done.result() for done in pending]


def alone(spec: EngineSpec, requests: Sequence[Request]) -> list[Said]:
    """What is said to each request by itself, with nothing left from any before it."""
    with mock.patch.object(slots, "common_prefix", lambda *of: 0), Engine.from_spec(replace(spec, slots=1, prefix_bytes=0)) as engine:
        return [told(engine, [request])[0] for request in requests]


def told(engine: Engine, requests: Sequence[Request]) -> list[Said]:
    """Tokens and log-probabilities of answers to requests that all arrive in one turn of the engine."""
    pending: list[tuple[Future[list[Event]], Any]] = []
    with engine._condition:  # the engine takes nothing meanwhile, so that passes do not depend on the machine's speed
        for prompt, settings in requests:
            done: Future[list[Event]] = Future()
            pending.append((done, engine.submit(prompt, settings, _collector(done))))
    return [[(token.id, token.logprob) for token in _completion(done.result(), request).tokens] for done, request in pending]


@contextlib.contextmanager
def beginnings_by_length() -> Iterator[None]:
    """The fault of a prefix cache that compares how long texts are, and not what they say."""
    with mock.patch.object(slots, "common_prefix", lambda held, wanted, most: min(len(held), len(wanted), most)):
        yield


def work(engine: Engine, requests: Sequence[Request], at_once: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """(decoding passes, tokens) and (tokens, seconds) of requests taken in groups, each group to its end."""
    passes, run = [0], Host.run

    def counting(host, pieces, fill, *rest):
        passes[0] += fill == "rows"
        return run(host, pieces, fill, *rest)

    tokens, begun = 0, time.perf_counter()
    with mock.patch.object(Host, "run", counting):
        for start in range(0, len(requests), at_once):
            tokens += sum(map(len, told(engine, requests[start : start + at_once])))
    return (float(passes[0]), float(tokens)), (float(tokens), time.perf_counter() - begun)


def run(bench: Bench) -> Finding:
    model = untrained(load(MODEL), **SMALL) if bench.reduced else load(MODEL)
    spec = EngineSpec(model, deterministic=True, slots=SLOTS, context=512)
    count, batches, each = bench.pick(60, 12), bench.pick(8, 4), bench.pick(24, 12)
    with Engine.from_spec(spec) as engine:
        asked = requests_of(bench, engine, "arrivals", count, bench.pick((1, 8, 24, 40), (1, 4, 12)))
        together = arriving(engine, asked, random.Random(bench.seed))
    by_itself = alone(spec, asked)
    with beginnings_by_length(), Engine.from_spec(spec) as engine:
        faulty = arriving(engine, asked, random.Random(bench.seed))
    same, wrong = (sum(a == b for a, b in zip(by_itself, said, strict=True)) for said in (together, faulty))
    bench.say(f"{same} of {count} the same bits as alone; with the fault {wrong}")
    mixed, alike = bench.pick((4, 8, 16, 64), (2, 4, 24)), bench.pick((24,), (8,))
    passes: dict[str, list[tuple[float, float]]] = {}
    speeds: dict[str, list[tuple[float, float]]] = {}
    with Engine.from_spec(replace(spec, deterministic=False)) as engine:
        for batch in range(batches):
            for kind, lengths in (("mixed", mixed), ("alike", alike)):
                requests = requests_of(bench, engine, f"{kind} {batch}", each, lengths)
                for way, at_once in (("static", SLOTS), ("continuous", each)):
                    done, speed = work(engine, requests, at_once)
                    passes.setdefault(f"{kind} {way}", []).append(done)
                    speeds.setdefault(f"{kind} {way}", []).append(speed)
    task = f"{batches} times {each} answers in {SLOTS} slots"
    claims = [
        Claim(
            "answers that arrive at random have the tokens and log-probabilities, bit for bit, that they have alone",
            counted("continuous", f"{count} answers", "same bits", same, count, "identical" if same == count else "worse"),
            ("identical",),
        ),
        Claim(
            "answers of mixed lengths take fewer passes than in static batches",
            compared("continuous", f"{task}, mixed lengths", PASSES, passes["mixed static"], passes["mixed continuous"]),
            ("better",),
        ),
    ]
    if not bench.reduced:
        claims.append(
            Claim(
                "and are said sooner",
                compared("continuous", f"{task}, mixed lengths", SPEED, speeds["mixed static"], speeds["mixed continuous"]),
                ("better",),
            )
        )
    return Finding(
        [
            *claims,
            Claim(
                "a prefix cache that looks at lengths alone is caught",
                counted("faulty", f"{count} answers", "same bits", wrong, count, "worse" if wrong < count else "identical"),
                ("worse",),
                control=True,
            ),
            Claim(
                "answers of one length save no passes",
                compared("continuous", f"{task}, one length", PASSES, passes["alike static"], passes["alike continuous"]),
                ("equivalent", "identical", "underpowered"),
                control=True,
            ),
        ],
        {},
        [
            f"Answers of {', '.join(map(str, mixed[:-1]))} or {mixed[-1]} tokens to questions about three passages; half of them sampled at 0.8.",
            "Static batching is the same engine, given no request before the last of a group has ended.",
        ],
    )


EXPERIMENT = Experiment(
    "batching",
    "",
    "Requests that come and go share passes and beginnings, leave no bit of each other's answers changed, and leave no slot idle.",
    "A prefix cache that compares lengths only must change answers; where all answers are equally long nothing may be saved.",
    "real model",
    run,
    ("smollm",),
    timed=True,
)
