"""A local answerer gives the engine's events to whoever listens, in order, and frees the engine when nobody does."""

from __future__ import annotations

import asyncio
import threading

import pytest
from tiny_talker import tiny_talker

from steelyard.augment.answerers import LocalAnswerer, count, room
from steelyard.core.errors import ContextLengthError, SteelyardError
from steelyard.core.protocols import AnswerSettings, Done, Message, ScoringAnswerer, Text, Usage, collect
from steelyard.generate.engine import Engine

ASKED = [Message("user", "Hello?")]


@pytest.fixture(scope="module")
def engine():
    with Engine(tiny_talker(max_position_embeddings=16_384), slots=2, deterministic=True) as engine:
        yield engine


def test_an_answer_is_the_engines_own(engine):
    answer = asyncio.run(collect(LocalAnswerer(engine).answer(ASKED, AnswerSettings(max_tokens=12, ignore_eos=True, token_events=True))))
    (completion,) = engine.generate([ASKED], max_tokens=12, ignore_eos=True)
    assert (answer.text, answer.reason, len(answer.tokens)) == (completion.text, "length", 12)
    assert [token.id for token in answer.tokens] == [token.id for token in completion.tokens]


def test_the_last_event_is_done_and_nothing_follows(engine):
    async def events():
        return [event async for event in LocalAnswerer(engine).answer(ASKED, AnswerSettings(max_tokens=5, ignore_eos=True))]

    found = asyncio.run(events())
    assert isinstance(found[-1], Done) and sum(isinstance(event, Done) for event in found) == 1
    assert any(isinstance(event, Usage) for event in found) and all(isinstance(event, Text | Usage | Done) for event in found)


def test_many_answers_at_once_are_each_their_own(engine):
    async def all_of_them():
        local = LocalAnswerer(engine)
        asked = [[Message("user", f"Number {number}?")] for number in range(9)]
        settings = AnswerSettings(max_tokens=6, ignore_eos=True)
        together = await asyncio.gather(*(collect(local.answer(one, settings)) for one in asked))
        alone = [await collect(local.answer(one, settings)) for one in asked]
        return [answer.text for answer in together], [answer.text for answer in alone]

    together, alone = asyncio.run(all_of_them())
    assert together == alone


def idle(engine: Engine) -> bool:
    """Whether the engine's slots come free: a short request is answered long before long ones would have ended."""
    done = threading.Event()
    engine.submit(ASKED, AnswerSettings(max_tokens=1), lambda event: done.set() if isinstance(event, Done) else None)
    return done.wait(60)


@pytest.mark.parametrize("way", ["closed", "cancelled", "never begun"])
def test_an_answer_nobody_waits_for_frees_its_slot(engine, way):
    async def leave():
        settings = AnswerSettings(max_tokens=16_000, ignore_eos=True)
        events = [LocalAnswerer(engine).answer(ASKED, settings) for _ in range(4)]
        if way == "closed":
            for one in events:
                await anext(one)
                await one.aclose()
        elif way == "cancelled":
            tasks = [asyncio.ensure_future(collect(one)) for one in events]
            await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        else:
            for one in events:
                await one.aclose()

    asyncio.run(leave())
    assert idle(engine)


def test_what_is_wrong_is_raised_before_the_first_event(engine):
    local = LocalAnswerer(engine)
    with pytest.raises(ContextLengthError):
        asyncio.run(collect(local.answer([Message("user", "x" * 20_000)], AnswerSettings())))
    with pytest.raises(SteelyardError):
        asyncio.run(collect(local.answer(ASKED, AnswerSettings(temperature=-1))))


def test_scores_are_those_of_the_assistants_next_words(engine):
    local = LocalAnswerer(engine)
    scores = asyncio.run(local.score(ASKED, ["yes", "no"]))
    prompt = engine.render(ASKED, add_generation_prompt=True)
    assert scores == engine.score([(prompt, "yes"), (prompt, "no")]) and isinstance(local, ScoringAnswerer)


def test_room_is_what_the_context_has_left(engine):
    local = LocalAnswerer(engine)
    assert room(local, ASKED) == 16_384 - len(engine.encode(ASKED))
    assert room(local, [Message("user", "x" * 20_000)]) < 0
    assert count(local, "abc") == 3


def test_an_answerer_that_cannot_tell_has_no_room():
    class Silent:
        fingerprint, capabilities = "silent", frozenset()

    assert room(Silent(), ASKED) is None and count(Silent(), "abc") is None


def test_the_fingerprint_is_the_engines(engine):
    assert LocalAnswerer(engine).fingerprint == engine.fingerprint
