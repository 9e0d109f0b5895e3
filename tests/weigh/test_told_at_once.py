"""Answers that are told all at once, as a search tells them, are timed as a whole; a model that ends at once is timed past its end."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
import time

import pytest
import torch
from tiny_talker import tiny_talker

from steelyard.augment.answerers import EndpointAnswerer, LocalAnswerer
from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import Message
from steelyard.generate.beams.beam import Beam
from steelyard.generate.constraints.constraint import Constraint
from steelyard.generate.engine import Engine
from steelyard.generate.processor import FunctionProcessor
from steelyard.generate.spec import EngineSpec
from steelyard.weigh.asking.arms import OpenArm
from steelyard.weigh.cells.costs import Measured, values
from steelyard.weigh.measure_worker import as_it_comes, timed_answer
from steelyard.weigh.tasks.task import Metric
from tests.augment.endpoint_server import USAGE, says, serving, status, stream


def test_the_speed_of_a_search_is_that_of_its_whole_answer():
    with Engine.from_spec(Beam(beams=2).decode(EngineSpec(tiny_talker()))) as engine:
        arm = OpenArm("search", LocalAnswerer(engine), engine.fingerprint, engine=engine)
        timed = asyncio.run(timed_answer(arm, [Message("user", "hello")], 12))
    assert timed["decoded"] == timed["tokens"] and timed["gaps"] == []
    assert timed["decode_seconds"] >= timed["first_token"] > 0
    side = Measured(({"answers": [timed], "reading": {}},), 1)
    speed = Metric("tokens_per_second", "speed", "tokens/s", True, margin=0.05)
    assert values(speed, side) == [(float(timed["tokens"]), timed["decode_seconds"])]
    assert values(Metric("token_p50", "speed", "ms", False, margin=0.05), side) == [None]


def ending_at_once(*processors):
    """A talker that would rather end than say anything."""
    spec = EngineSpec(tiny_talker())
    (end,) = spec.model.tokenizer.eos_ids
    ending = FunctionProcessor(lambda tokens, logits: logits.index_fill(0, torch.tensor([end]), 1e4))
    return dataclasses.replace(spec, processors=(*processors, ending))


def test_a_model_that_ends_at_once_is_timed_past_its_end():
    with Engine.from_spec(ending_at_once()) as engine:
        arm = OpenArm("brief", LocalAnswerer(engine), engine.fingerprint, engine=engine)
        timed = asyncio.run(timed_answer(arm, [Message("user", "hello")], 12))
    assert timed["tokens"] == 12 and timed["decoded"] == 11 and len(timed["gaps"]) == 11 and timed["decode_seconds"] > 0


def test_an_empty_answer_that_a_form_ends_has_no_speed():
    (form,) = Constraint(regex="a?").decode(EngineSpec(tiny_talker())).processors
    with Engine.from_spec(ending_at_once(form)) as engine:
        arm = OpenArm("brief", LocalAnswerer(engine), engine.fingerprint, engine=engine)
        with pytest.raises(SteelyardError, match="the answer was empty"):
            asyncio.run(timed_answer(arm, [Message("user", "hello")], 12))


def timed_through(reply, kind=EndpointAnswerer):
    with serving(reply) as fake:
        answerer = kind(fake.url, "some-model", whole=True)
        as_it_comes(answerer)
        return asyncio.run(timed_answer(OpenArm("far", answerer, "far"), [Message("user", "hello")], 12))


def test_an_endpoints_tokens_are_timed_as_they_come():
    heard, begun = threading.Event(), time.monotonic()

    class Heard(EndpointAnswerer):
        async def answer(self, *asked, **how):
            async for event in super().answer(*asked, **how):
                yield event
                heard.set()  # whoever listens has looked at the clock

    def hesitates(handler):
        stream(says("He"), done=False)(handler)
        heard.wait(60)
        time.sleep(max(0.05, 0.05 * (time.monotonic() - begun)))  # a share of the whole that no slow start makes small
        for frame in (says("llo"), says("", "stop"), USAGE):
            handler.wfile.write(b"data: " + json.dumps(frame).encode() + b"\n\n")
        handler.wfile.write(b"data: [DONE]\n\n")

    timed = timed_through(hesitates, Heard)
    assert len(timed["gaps"]) == 1 and timed["decode_seconds"] >= 0.05 and timed["decoded"] == 1


def test_an_endpoint_that_tells_all_at_once_is_timed_as_a_whole():
    whole = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": USAGE["usage"]}
    timed = timed_through(status(200, whole))
    assert timed["decoded"] == timed["tokens"] == 2 and timed["decode_seconds"] == timed["first_token"] > 0 and timed["gaps"] == []
