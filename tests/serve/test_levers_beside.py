"""Requests whose levers change the engine: each is answered as by an engine of its own, and the others notice nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from steelyard.core.errors import BusyError
from steelyard.core.levers import parse
from steelyard.core.protocols import Answer, AnswerSettings, Message, collect
from steelyard.generate.engine import Engine
from steelyard.generate.spec import EngineSpec
from steelyard.model.load import load
from steelyard.model.released import release
from steelyard.serve.engine_process import EngineGone, ServedModel
from steelyard.serve.engines_beside import MOST, EnginesBeside
from tests.serve.tiny_served import Running, saved_talker
from tests.tiny_talker import tiny_talker

HI = (Message("user", "one two one two one"),)
GREEDY = AnswerSettings(max_tokens=12, token_events=True, ignore_eos=True)
LONG = AnswerSettings(max_tokens=15_000, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("beside")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    saved_talker(folder / "tiny", num_hidden_layers=4, max_position_embeddings=16_384)
    saved_talker(folder / "small", seed=1, max_position_embeddings=16_384)
    models = [ServedModel("tiny", str(folder / "tiny"), slots=2), ServedModel("small", str(folder / "small"), slots=2)]
    running = Running(models, queue=8)
    yield running
    running.close()


def answered(running: Running, *levers: Any, settings: AnswerSettings = GREEDY, name: str = "tiny") -> Answer:
    return running.run(collect(running.engine.answerer(name).answer(HI, settings, levers=[parse(lever) for lever in levers])))


@pytest.mark.parametrize(
    ("lever", "changes"),
    [
        ({"dola": {"layers": [1, 2]}}, True),
        ({"contrastive": {"without": 0.5}}, True),
        ({"contrastive": {"amateur": "small"}}, True),
        ({"beam": 3}, True),
        ({"kv_cache": {"bits": 2, "window": 0, "group": 8}}, True),
        ("prompt_lookup", False),
        ("self_speculative", False),
        ({"early_exit": 2}, False),
        ({"speculative": "small"}, False),
    ],
)
def test_a_request_is_answered_as_by_an_engine_with_its_lever(running: Running, folder: Path, lever: Any, changes: bool) -> None:
    pulled = parse(lever).bind(lambda reference: load(folder / reference.name))
    with Engine.from_spec(pulled.decode(EngineSpec(load(folder / "tiny"), slots=4))) as engine:  # type: ignore[attr-defined]
        expected = engine.generate([HI], settings=GREEDY)[0]
    before = answered(running)
    found = answered(running, lever)
    assert found.text == expected.text and found.usage == expected.usage
    if changes:  # what it says, or how likely it finds that
        assert [(token.id, token.logprob) for token in found.tokens] != [(token.id, token.logprob) for token in before.tokens]
    else:
        assert found.text == before.text
    assert answered(running).text == before.text, "others are answered as before"


def test_levers_that_share_an_engine_and_those_that_do_not_go_together(running: Running) -> None:
    both = answered(running, {"typical": 1e-6}, {"dola": {"layers": [1, 2]}}, {"prompt": {"system": "Be brief."}})
    assert both.usage and both.usage.prompt_tokens > answered(running).usage.prompt_tokens  # type: ignore[union-attr]
    formed = answered(running, {"constraint": {"regex": "yes|no"}}, "prompt_lookup", settings=AnswerSettings(max_tokens=12))
    assert formed.text in ("yes", "no")
    raw = running.engine.answerer("tiny").complete("one two", GREEDY, levers=[parse({"beam": 2})])
    assert running.run(collect(raw)).text


def test_a_lever_whose_settings_do_not_fit_is_refused_before_anything_is_written(running: Running) -> None:
    for lever, settings, why in (
        ({"beam": 3}, AnswerSettings(max_tokens=4, temperature=0.7), "does not sample"),
        ({"beam": 64}, GREEDY, "slots"),
        ({"dola": {"layers": [9]}}, GREEDY, "layer 9"),
        ({"speculative": "elsewhere"}, GREEDY, "not registered"),
        ({"contrastive": {"amateur": "/etc"}}, GREEDY, "not registered"),
    ):
        with pytest.raises(Exception, match=why):
            answered(running, lever, settings=settings)
    with pytest.raises(Exception, match="conflicts"):
        answered(running, "prompt_lookup", "self_speculative")


def test_only_levers_that_the_model_can_be_asked_with_are_offered(running: Running) -> None:
    offered = {lever.name for lever in running.engine.models["tiny"].levers if lever.per_request}
    assert {"beam", "contrastive", "dola", "early_exit", "kv_cache", "prompt_lookup", "self_speculative", "speculative"} <= offered
    assert not {"further_heads", "steering", "offload", "numerics", "abstain", "quantize"} & offered
    assert "self_speculative" not in {lever.name for lever in running.engine.models["small"].levers}, "it has but two blocks"


def test_when_all_engines_beside_are_in_use_others_are_told_to_come_again(running: Running) -> None:
    async def at_once() -> None:
        answerer = running.engine.answerer("tiny")
        streams = [answerer.answer(HI, LONG, levers=[parse({"dola": {"alpha": 0.1 + place / 100}})]) for place in range(MOST)]
        async with aclosing(streams[0]) as one, aclosing(streams[1]) as two:  # type: ignore[type-var]
            await asyncio.gather(anext(one), anext(two))
            with pytest.raises(BusyError, match="in use"):
                await collect(answerer.answer(HI, GREEDY, levers=[parse({"dola": {"alpha": 0.5}})]))
            assert (await collect(answerer.answer(HI, GREEDY))).text
        while True:  # those who left are gone before the next step
            try:
                assert (await collect(answerer.answer(HI, GREEDY, levers=[parse({"dola": {"alpha": 0.5}})]))).text
                return
            except BusyError:
                await asyncio.sleep(0.01)

    running.run(at_once())


def test_a_leaver_frees_the_engine_beside(running: Running) -> None:
    async def leave() -> None:
        answerer = running.engine.answerer("tiny")
        async with aclosing(answerer.answer(HI, LONG, levers=[parse("prompt_lookup")])) as events:  # type: ignore[type-var]
            await anext(events)
        while (await running.engine.status())["models"]["tiny"]["active"]:
            await asyncio.sleep(0.01)

    running.run(leave())


def test_the_next_engine_process_knows_the_same_levers(running: Running) -> None:
    offered = running.engine.models["tiny"].levers
    expected = answered(running, {"dola": {"layers": [1, 2]}}).text

    async def killed() -> str:
        os.kill(running.engine.pid, signal.SIGKILL)  # type: ignore[arg-type]
        while True:
            try:
                answerer = running.engine.answerer("tiny")
                found = await collect(answerer.answer(HI, GREEDY, levers=[parse({"dola": {"layers": [1, 2]}})]))
                if found.failure is None:
                    return found.text
            except EngineGone:
                pass
            await asyncio.sleep(0.05)

    assert running.run(killed()) == expected
    assert running.engine.models["tiny"].levers == offered


def test_who_was_used_longest_ago_makes_room() -> None:
    with Engine(tiny_talker(), slots=1) as own:
        beside = EnginesBeside(own)
        chains = [[parse({"dola": {"alpha": 0.1 + place / 10}})] for place in range(MOST + 1)]
        ones = []
        for chain in chains[:MOST]:
            ones.append(beside.take(chain, beside.spec(chain)))
            assert ones[-1].engine().generate(["a"], max_tokens=2)[0].usage.completion_tokens <= 2
        assert len(list(beside)) == MOST
        with pytest.raises(BusyError):
            beside.take(chains[MOST], beside.spec(chains[MOST]))
        for one in ones:
            beside.give_back(one)
        again = beside.take(chains[0], beside.spec(chains[0]))  # now the other one was used longest ago
        assert again is ones[0]
        beside.take(chains[MOST], beside.spec(chains[MOST]))
        assert [engine.closed for engine in (ones[0].engine(),)] == [False] and ones[1].opened is not None and ones[1].opened.closed
        with pytest.raises(BusyError, match="closing"):
            ones[1].engine()
        beside.close()
        assert not list(beside)


def test_an_engine_beside_runs_the_weights_that_are_there() -> None:
    with Engine(tiny_talker(), slots=1) as own:
        release(own.model, own.trunk)
        beside = EnginesBeside(own)
        chain = [parse("prompt_lookup")]
        one = beside.take(chain, beside.spec(chain))
        assert one.engine().trunk.heads["lm"].linear.storage is own.trunk.heads["lm"].linear.storage
        beside.close()
