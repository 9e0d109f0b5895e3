"""What the tests of generation share: a random model with something to say, answers collected from events, scripted words."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from tiny_talker import tiny_talker
from torch import Tensor

from steelyard.core.protocols import AnswerSettings, Done, Event, Failure, Text, Token, Usage
from steelyard.generate.engine import Engine
from steelyard.generate.scheduler import Scheduler
from steelyard.generate.sequences import Generation
from steelyard.generate.spec import EngineSpec
from steelyard.model.model import Model

WAIT = 240.0
"""Seconds after which a test gives up on an answer; none takes nearly so long."""


def talker(sharpness: float = 12.0, **config: object) -> Model:
    """A random model whose next tokens differ in likelihood (an untrained one finds all alike). More sharpness, more repetition."""
    model = tiny_talker(**({"tie_word_embeddings": False} | config))
    with torch.no_grad():
        for parameter in model.trunk.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(sharpness)
    return model


@dataclass
class Heard:
    """Everything a request said, in order, and a way to wait for its end."""

    events: list[Event] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Done):
            self.ended.set()

    def wait(self) -> Heard:
        assert self.ended.wait(WAIT), "the request never ended"
        return self

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Text))

    @property
    def tokens(self) -> list[Token]:
        return [event for event in self.events if isinstance(event, Token)]

    @property
    def reason(self) -> str:
        (done,) = [event for event in self.events if isinstance(event, Done)]
        assert self.events[-1] is done, "nothing may follow Done"
        return done.reason

    @property
    def usage(self) -> Usage:
        (usage,) = [event for event in self.events if isinstance(event, Usage)]
        return usage

    @property
    def failure(self) -> str | None:
        return next((event.message for event in self.events if isinstance(event, Failure)), None)

    @property
    def said(self) -> tuple:
        """All that must be bit-identical between two runs: text, tokens with every number, reason."""
        return self.text, self.tokens, self.reason


def generation(model: Model, prompt: str | list[int], settings: AnswerSettings, heard: Callable[[Event], None], context: int) -> Generation:
    """A request as the engine makes it, for tests that turn the scheduler themselves."""
    tokenizer = model.tokenizer
    assert tokenizer is not None
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    return Generation(ids, settings, heard, tokenizer.stream_decoder(), frozenset(tokenizer.eos_ids), context)


def scheduler(spec: EngineSpec) -> Scheduler:
    """A scheduler whose turns the test takes, so that arrivals and cancellations happen exactly when it says."""
    engine = Engine.from_spec(spec)  # builds it, penalties and numerics included
    engine.close()
    companions = {name: host.trunk for name, host in engine.scheduler.companions.items()}
    return Scheduler(engine.trunk, engine.scheduler.spec, engine.context, companions)


def run_all(turns: Scheduler) -> None:
    """Turns until nothing is left to do."""
    with torch.inference_mode():
        while turns.busy:
            turns.turn()


def alone(turns: Scheduler, request: Generation) -> None:
    """Runs one request with nothing left over from earlier ones."""
    turns.slots.held.clear()
    turns.add(request)
    run_all(turns)


def said_by(spec: EngineSpec, model: Model, requests: Sequence[tuple], context: int, apart: bool = False) -> list[tuple]:
    """What answers to (prompt, settings) say: all under way at once, or each with nothing left over from those before it."""
    turns, heard = scheduler(spec), [Heard() for _ in requests]
    for (prompt, wanted), ear in zip(requests, heard, strict=True):
        turns.add(generation(model, prompt, wanted, ear, context))
        if apart:
            run_all(turns)
            turns.slots.held.clear()
    run_all(turns)
    return [ear.said for ear in heard]


class Script:
    """A processor that makes the answer say given tokens, after its prompt, whatever the model thinks.

    Once the words are used up it says `then` (the end token, usually).
    """

    def __init__(self, words: Sequence[int], then: int):
        self.words, self.then = list(words), then
        self.prompt_length: int | None = None

    def __call__(self, tokens: list[int], logits: Tensor) -> Tensor:
        if self.prompt_length is None:
            self.prompt_length = len(tokens)
        place = len(tokens) - self.prompt_length
        out = torch.full_like(logits, -1e9)
        out[self.words[place] if place < len(self.words) else self.then] = 0.0
        return out
