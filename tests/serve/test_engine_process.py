"""The engine as a process of its own: what a server relies on, whatever clients send and whatever the process suffers."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from steelyard.augment.answerers import LocalAnswerer
from steelyard.augment.retrieve.retrieve import Retrieve
from steelyard.core.errors import BusyError, ContextLengthError, DataError, SteelyardError, UnsupportedError
from steelyard.core.levers import parse
from steelyard.core.protocols import (
    Answer,
    AnswerSettings,
    Citation,
    Done,
    Energy,
    Event,
    Failure,
    Message,
    ScoringAnswerer,
    Text,
    Token,
    Usage,
    collect,
)
from steelyard.generate.engine import Engine
from steelyard.generate.processors.green_lists import GreenLists
from steelyard.model.load import load
from steelyard.serve import engine_keeper
from steelyard.serve.engine_child import Child
from steelyard.serve.engine_process import EngineFault, EngineGone, EngineProcess, ServedModel
from tests.serve.tiny_served import Running, saved_encoder, saved_talker
from tests.tiny_talker import CHATML, tiny_tokenizer

HI = (Message("user", "hi"),)
SHORT = AnswerSettings(max_tokens=5, token_events=True, alternatives=2)
LONG = AnswerSettings(max_tokens=220, ignore_eos=True)
ENDLESS = AnswerSettings(max_tokens=15_000, ignore_eos=True)
"""To `tooled`: whoever leaves, or is refused meanwhile, does so before its end, however slow the machine is."""
TOOL_TEMPLATE = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}{% if messages[0].role == 'tool' %}{{ raise_exception('who asked?') }}{% endif %}"
    + CHATML
)
ASKED_FOR = {
    *("confidence", "constraint", "prompt", "repair", "retrieve", "typical", "watermark"),
    *("beam", "contrastive", "dola", "early_exit", "kv_cache", "prompt_lookup", "speculative"),
}
"""Levers that a request to a model of two blocks may bring, where others are served."""
VOCABULARY = tiny_tokenizer().vocabulary_size
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    saved_talker(folder / "tiny")
    saved_talker(folder / "made", [{"constraint": {"regex": "yes|no"}}, {"prompt": {"system": "Be brief."}}], seed=1)
    saved_talker(folder / "tooled", template=TOOL_TEMPLATE, max_position_embeddings=16_384)
    saved_encoder(folder / "encoder")
    (folder / "documents").mkdir()
    (folder / "documents" / "vltava.txt").write_text("Prague lies on the Vltava. The Vltava flows into the Elbe.")
    models = [
        ServedModel("tiny", str(folder / "tiny"), slots=2),
        ServedModel("made", str(folder / "made"), slots=2),
        ServedModel("tooled", str(folder / "tooled"), slots=1),
        ServedModel("encoder", str(folder / "encoder"), levers=(parse({"prompt": {"system": "Be brief."}}, where="here"),)),
    ]
    before = os.environ.get("STEELYARD_HOME")
    os.environ["STEELYARD_HOME"] = str(folder / "home")  # where an index is built
    running = Running(models, queue=3, documents=[str(folder / "documents")])
    try:
        yield running
    finally:
        running.close()
        os.environ.pop("STEELYARD_HOME") if before is None else os.environ.__setitem__("STEELYARD_HOME", before)


async def heard(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


async def quiet(engine: EngineProcess) -> dict[str, Any]:
    """The status once nothing runs any more: a cancelled request leaves before the next step."""
    while True:
        status = dict(await engine.status())
        if status["under_way"] == 0 and not any(model["active"] + model["waiting"] for model in status["models"].values()):
            return status
        await asyncio.sleep(0.01)


def answered(running: Running, settings: AnswerSettings = SHORT, name: str = "tiny", **more: Any) -> Answer:
    return running.run(collect(running.engine.answerer(name).answer(HI, settings, **more)))


def test_events_are_those_of_the_engine_itself_in_the_same_order(running: Running, folder: Path) -> None:
    answerer = running.engine.answerer("tiny")
    assert isinstance(answerer, ScoringAnswerer)
    with Engine(load(folder / "tiny")) as engine:
        wanted = asyncio.run(heard(LocalAnswerer(engine).answer(HI, SHORT)))
    told = running.run(heard(answerer.answer(HI, SHORT)))
    assert [type(event) for event in told[-3:]] == [Energy, Usage, Done], "only the server tells what an answer took"
    got = [event for event in told if not isinstance(event, Energy)]
    assert [type(event) for event in got] == [type(event) for event in wanted]
    for ours, theirs in zip(got, wanted, strict=True):
        if isinstance(ours, Token) and isinstance(theirs, Token):
            assert (ours.id, ours.text) == (theirs.id, theirs.text)
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-3)
            assert [id for id, _ in ours.alternatives] == [id for id, _ in theirs.alternatives]
        else:
            assert ours == theirs


def test_many_at_once_answer_as_each_does_alone(running: Running) -> None:
    answerer = running.engine.answerer("tiny")
    asked = [(Message("user", f"number {number}"),) for number in range(5)]
    alone = [running.run(collect(answerer.answer(conversation, SHORT))).text for conversation in asked]

    async def together() -> list[Answer]:
        return await asyncio.gather(*(collect(answerer.answer(conversation, SHORT)) for conversation in asked))

    assert [answer.text for answer in running.run(together())] == alone


def test_models_are_told_of_with_their_levers(running: Running) -> None:
    models = running.engine.models
    assert list(models) == ["tiny", "made", "tooled", "encoder"]
    assert {name: info.kind for name, info in models.items()} == {"tiny": "chat", "made": "chat", "tooled": "chat", "encoder": "embedding"}
    assert models["tiny"].context_length == 256 and models["encoder"].context_length == 64
    assert "tools" in models["tooled"].capabilities and "tools" not in models["tiny"].capabilities
    assert models["made"].parents == ("tiny-parent",)
    assert [(lever.name, lever.per_request) for lever in models["made"].levers if lever.on] == [("constraint", True), ("prompt", True)]
    assert {lever.name for lever in models["tiny"].levers if not lever.on} == ASKED_FOR
    assert len({info.fingerprint for info in models.values()}) == 4


def test_the_levers_a_model_was_saved_with_are_on(running: Running) -> None:
    plain, made = answered(running, name="tiny"), answered(running, name="made")
    assert made.text in ("yes", "no") and made.reason == "stop"
    assert made.usage and plain.usage and made.usage.prompt_tokens > plain.usage.prompt_tokens
    assert running.run(running.engine.room("made", HI)) < running.run(running.engine.room("tiny", HI))


def test_a_request_may_bring_a_form(running: Running) -> None:
    assert answered(running, levers=[parse({"constraint": {"regex": "up|down"}})]).text in ("up", "down")
    assert answered(running, AnswerSettings(max_tokens=9, constraint={"regex": "left|right"})).text in ("left", "right")  # type: ignore[arg-type]
    assert answered(running).text not in ("up", "down", "left", "right")


def test_a_request_may_bring_a_prompt(running: Running) -> None:
    plain, prompted = answered(running), answered(running, levers=[parse({"prompt": "Speak like a clock."})])
    assert plain.usage and prompted.usage and prompted.usage.prompt_tokens > plain.usage.prompt_tokens


def test_a_request_may_bring_what_shapes_its_draws_alone(running: Running) -> None:
    def drawn(seed: int, *levers: dict, **settings: Any) -> Answer:
        wanted = AnswerSettings(max_tokens=12, temperature=1.5, seed=seed, ignore_eos=True, **settings)
        return answered(running, wanted, levers=[parse(lever) for lever in levers])

    plain = [drawn(seed).text for seed in range(3)]
    assert len(set(plain)) == 3
    assert len({drawn(seed, {"typical": 1e-6}).text for seed in range(3)}) == 1, "one token is as surprising as expected"
    marked = drawn(0, {"watermark": {"delta": 100, "gamma": 0.1}}, token_events=True)
    lists, ids = GreenLists("steelyard", 0.1, 1), [token.id for token in marked.tokens]
    assert len(ids) == 12 and all(lists.after([before], VOCABULARY)[token] for before, token in itertools.pairwise(ids))
    assert [drawn(seed).text for seed in range(3)] == plain, "others are drawn as before"
    raw = running.engine.answerer("tiny").complete("Is it?", SHORT, levers=[parse({"watermark": 100})])
    assert running.run(collect(raw)).text != running.run(collect(running.engine.answerer("tiny").complete("Is it?", SHORT))).text


def test_a_request_may_have_its_answer_repaired(running: Running) -> None:
    plain, repaired = answered(running), answered(running, levers=[parse({"repair": {"regex": "never written", "times": 2}})])
    assert plain.usage and repaired.usage and repaired.usage.prompt_tokens > 2 * plain.usage.prompt_tokens


def test_a_request_may_search_registered_documents_alone(running: Running, folder: Path) -> None:
    lever = Retrieve.model_validate({"documents": str(folder / "documents"), "threshold": 0})
    question = (Message("user", "Where does the Vltava flow?"),)
    events = running.run(heard(running.engine.answerer("tiny").answer(question, SHORT, levers=[lever])))
    assert isinstance(events[0], Citation) and "Elbe" in events[0].text
    assert isinstance(events[-1], Done)
    with pytest.raises(UnsupportedError, match="not registered"):
        answered(running, levers=[Retrieve.model_validate({"documents": str(folder)})])


@pytest.mark.parametrize(
    ("name", "lever", "why"),
    [
        ("tiny", {"further_heads": {}}, "1 at a place"),
        ("tiny", {"steering": {"pairs": "/etc/hostname"}}, "cannot be asked for"),
        ("tiny", {"quantize": {"bits": 8}}, "cannot be asked for"),
        ("tiny", {"constraint": {"json_schema": "/etc/hostname"}}, "names a file"),
        ("tiny", {"retrieve": {}}, "not registered"),
        ("made", {"constraint": {"regex": "up|down"}}, "conflicts"),
        ("tiny", {"constraint": {"regex": "(("}}, "regex"),
    ],
)
def test_levers_that_no_request_may_bring_are_refused_by_name(running: Running, name: str, lever: dict, why: str) -> None:
    with pytest.raises(SteelyardError, match=why) as caught:
        answered(running, name=name, levers=[parse(lever)])
    assert not isinstance(caught.value, EngineFault)


def test_tools_are_rendered_where_the_template_has_a_place_for_them(running: Running) -> None:
    assert running.run(running.engine.render("tooled", HI, [TOOL])).startswith("[clock]")
    with_tools, without = answered(running, name="tooled", tools=[TOOL]), answered(running, name="tooled")
    assert with_tools.usage and without.usage and with_tools.usage.prompt_tokens == without.usage.prompt_tokens + len("[clock]")
    prompted = answered(running, name="tooled", tools=[TOOL], levers=[parse({"prompt": "x"})])
    assert prompted.usage and prompted.usage.prompt_tokens > with_tools.usage.prompt_tokens
    with pytest.raises(UnsupportedError, match="no place for tools"):
        answered(running, tools=[TOOL])


def test_raw_text_is_completed_without_template_and_wraps(running: Running) -> None:
    answerer, engine = running.engine.answerer("made"), running.engine
    text = running.run(collect(answerer.complete("Is it?", SHORT)))
    ids = running.run(collect(answerer.complete(running.run(engine.tokenize("made", "Is it?")), SHORT)))
    assert text.usage and text.usage.prompt_tokens == len("Is it?")
    assert ids.text == text.text in ("yes", "no")
    with pytest.raises(UnsupportedError, match="raw text"):
        running.run(collect(running.engine.answerer("tiny").complete("a", SHORT, levers=[parse({"prompt": "x"})])))


def test_scores_are_those_of_the_engine(running: Running, folder: Path) -> None:
    continuations = ["yes", "no", "perhaps", " so", "x"]
    with Engine(load(folder / "tiny")) as engine:
        wanted = asyncio.run(LocalAnswerer(engine).score(HI, continuations))
    got = running.run(running.engine.answerer("tiny").score(HI, continuations))
    assert [score.tokens for score in got] == [score.tokens for score in wanted]
    assert [score.logprob for score in got] == pytest.approx([score.logprob for score in wanted], abs=1e-2)


def test_texts_become_tokens_and_tokens_texts(running: Running) -> None:
    engine = running.engine
    ids = running.run(engine.tokenize("tiny", "Prague ☕ <|im_end|>"))
    assert running.run(engine.detokenize("tiny", ids)) == "Prague ☕ <|im_end|>"
    assert len(running.run(engine.tokenize("tiny", "<|im_end|>", special=True))) == 1
    assert len(running.run(engine.tokenize("tiny", "<|im_end|>", special=False))) > 1
    assert running.run(engine.pieces("tiny", ids))[:6] == list("Prague")
    assert running.run(engine.pieces("tiny", [10**9, *ids[:1]])) == ["", "P"]
    rendered = running.run(engine.render("tiny", HI))
    assert running.run(engine.room("tiny", HI)) == 256 - len(running.run(engine.tokenize("tiny", rendered)))


def test_an_encoder_beside_others_is_told_to_have_no_use_for_levers(running: Running) -> None:
    assert "encoder turns texts into vectors and answers nothing: levers have no part in that" in running.said
    assert running.engine.models["encoder"].levers == ()


def test_an_encoder_gives_vectors(running: Running, folder: Path) -> None:
    texts = ["one", "two", "three" * 5] * 30
    vectors = running.run(running.engine.embed("encoder", texts))
    wanted = load(folder / "encoder").embed(texts)
    assert len(vectors) == len(texts)
    assert vectors[2] == pytest.approx(wanted[2].tolist(), abs=1e-6)
    with pytest.raises(ContextLengthError):
        running.run(running.engine.embed("encoder", ["long" * 40]))
    with pytest.raises(UnsupportedError, match="no encoder"):
        running.run(running.engine.embed("tiny", ["one"]))
    with pytest.raises(UnsupportedError, match="answers nothing"):
        running.engine.answerer("encoder")


@pytest.mark.parametrize(
    ("conversation", "settings", "kind"),
    [
        ((Message("user", "half a \ud83d pair"),), SHORT, DataError),
        ((Message("user", "x" * 3_000_000),), SHORT, ContextLengthError),
        ((), SHORT, SteelyardError),
        ((Message("user", None),), SHORT, SteelyardError),  # type: ignore[arg-type]
        ((Message("hacker", "x" * 300),), SHORT, ContextLengthError),  # type: ignore[arg-type]
        (HI, AnswerSettings(max_tokens=-1), SteelyardError),
        (HI, AnswerSettings(temperature=float("nan")), SteelyardError),
        (HI, AnswerSettings(temperature=float("inf")), SteelyardError),
        (HI, AnswerSettings(top_k=10**5000), SteelyardError),
        (HI, AnswerSettings(alternatives=10**9), SteelyardError),
        (HI, AnswerSettings(temperature="hot"), SteelyardError),  # type: ignore[arg-type]
        (HI, AnswerSettings(stop=5), SteelyardError),  # type: ignore[arg-type]
        (HI, AnswerSettings(stop=("",)), SteelyardError),
        (HI, AnswerSettings(stop=(1, None)), SteelyardError),  # type: ignore[arg-type]
        (HI, AnswerSettings(seconds=-1), SteelyardError),
        (HI, AnswerSettings(seed=object()), SteelyardError),  # type: ignore[arg-type]
        (HI, AnswerSettings(constraint={"regex": "(a|b"}), SteelyardError),  # type: ignore[arg-type]
        (HI, AnswerSettings(constraint={"json_schema": {"$ref": "#/nowhere"}}), SteelyardError),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_honoured_is_an_error_of_the_request_alone(running: Running, conversation: Any, settings: Any, kind: type) -> None:
    async def beside_a_good_one() -> Answer:
        answerer = running.engine.answerer("tiny")
        good = asyncio.create_task(collect(answerer.answer(HI, AnswerSettings(max_tokens=40, ignore_eos=True))))
        with pytest.raises(kind) as caught:
            await collect(answerer.answer(conversation, settings))
        assert not isinstance(caught.value, EngineFault)
        return await good

    pid = running.engine.pid
    answer = running.run(beside_a_good_one())
    assert answer.reason == "length" and answer.usage and answer.usage.completion_tokens == 40
    assert running.engine.pid == pid


def test_absurd_settings_that_mean_something_are_honoured(running: Running) -> None:
    settings = AnswerSettings(max_tokens=10**18, seed=-(10**4000), temperature=2.0, ignore_eos=True)
    answer = answered(running, settings)
    assert answer.reason == "length" and answer.usage and answer.usage.completion_tokens == 256 - answer.usage.prompt_tokens


def test_unknown_names_and_deep_nestings_are_refused_before_they_cross(running: Running) -> None:
    with pytest.raises(SteelyardError, match="Did you mean `tiny`"):
        running.engine.answerer("tinny")
    with pytest.raises(SteelyardError, match="Did you mean `tiny`"):
        running.run(running.engine.tokenize("tinny", "x"))
    deep: Any = {}
    for _ in range(300):
        deep = {"items": deep}
    with pytest.raises(SteelyardError, match="nested|Nest"):
        answered(running, levers=[parse({"constraint": {"json_schema": deep}})])
    with pytest.raises(SteelyardError, match="nested"):
        answered(running, name="tooled", tools=[deep])


@pytest.mark.parametrize("prompt", ["", [], [10**30], [-1], [True], [1.5], [[1]], [{"role": "user", "content": "x"}], [None], "\ud800"])
def test_raw_prompts_that_are_neither_text_nor_tokens_are_refused(running: Running, prompt: Any) -> None:
    with pytest.raises(SteelyardError) as caught:
        running.run(collect(running.engine.answerer("tiny").complete(prompt, SHORT)))
    assert not isinstance(caught.value, EngineFault)


def test_texts_that_are_none_are_refused_wherever_they_are_given(running: Running) -> None:
    engine, answerer = running.engine, running.engine.answerer("tiny")
    for bad in ("\ud800", 5, None):
        for asked in (engine.tokenize("tiny", bad), engine.embed("encoder", ["fine", bad]), answerer.score(HI, ["fine", bad])):  # type: ignore[list-item,arg-type]
            with pytest.raises(SteelyardError) as caught:
                running.run(asked)  # type: ignore[arg-type]
            assert not isinstance(caught.value, EngineFault)
    for ids in ([1.5], [10**30], [-1], ["a"], [2**40]):
        with pytest.raises(SteelyardError, match="no token ids"):
            running.run(engine.detokenize("tiny", ids))  # type: ignore[arg-type]


def test_errors_name_the_model_as_clients_know_it(running: Running) -> None:
    refused = (Message("tool", "12:00"),)
    for asked, why in (
        (collect(running.engine.answerer("tiny").complete("x" * 300, SHORT)), "tiny reads at most 256"),
        (running.engine.embed("encoder", ["x" * 300]), "encoder reads at most 64"),
        (collect(running.engine.answerer("tooled").answer(refused, SHORT)), "the chat template of tooled.*: .*who asked"),
    ):
        with pytest.raises(SteelyardError, match=why) as caught:
            running.run(asked)  # type: ignore[arg-type]
        assert "/" not in str(caught.value)


def test_what_cannot_be_served_so_is_refused_before_anything_starts() -> None:
    for model, queue in ((ServedModel("a", "x", slots=0), 1), (ServedModel("a", "x"), -1), (ServedModel("a", object()), 1)):  # type: ignore[arg-type]
        with pytest.raises(SteelyardError):
            EngineProcess([model], queue=queue)
    with pytest.raises(SteelyardError, match="nothing to serve"):
        EngineProcess([], queue=1)


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(SteelyardError, match="two models are called `a`"):
        EngineProcess([ServedModel("a", "x"), ServedModel("a", "y")], queue=1)


def test_leaving_early_frees_the_slot_at_once(running: Running) -> None:
    async def leave() -> dict[str, Any]:
        before = (await quiet(running.engine))["models"]["tooled"]["tokens"]
        async with aclosing(running.engine.answerer("tooled").answer(HI, ENDLESS)) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, Text):
                    break
        assert not running.engine.keeper.waiting
        status = await quiet(running.engine)
        return {"made": status["models"]["tooled"]["tokens"] - before}

    assert 0 < running.run(leave())["made"] < ENDLESS.max_tokens
    assert answered(running, name="tooled").usage


def test_leaving_before_the_first_token_and_under_a_wrap_frees_the_slot_too(running: Running) -> None:
    async def leave() -> None:
        answerer, before = running.engine.answerer("tooled"), (await quiet(running.engine))["models"]["tooled"]["tokens"]
        for levers in ((), (parse({"prompt": "x"}),)):
            for patience in (0.0, 0.001, 0.02):
                task = asyncio.create_task(collect(answerer.answer(HI, ENDLESS, levers=levers)))
                await asyncio.sleep(patience)
                task.cancel()
                await asyncio.wait([task])
        status = await quiet(running.engine)
        assert status["models"]["tooled"]["tokens"] - before < ENDLESS.max_tokens

    running.run(leave())


def test_more_than_slots_and_queue_are_refused_as_busy_and_may_come_again(running: Running) -> None:
    async def crowd() -> int:
        answerer = running.engine.answerer("tooled")
        tasks = [asyncio.create_task(collect(answerer.answer(HI, ENDLESS))) for _ in range(4)]
        await asyncio.sleep(0)
        refused = 0
        for _ in range(2):
            with pytest.raises(BusyError):
                await collect(answerer.answer(HI, SHORT))
            refused += 1
        assert (await collect(running.engine.answerer("tiny").answer(HI, SHORT))).reason == "length"  # another model's queue is its own
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return refused

    assert running.run(crowd()) == 2
    assert answered(running, name="tooled").reason == "length"


def test_who_waits_too_long_for_a_first_token_is_told_so_and_leaves_the_queue(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait() -> None:
        answerer = running.engine.answerer("tooled")  # one slot
        long = [asyncio.create_task(collect(answerer.answer(HI, ENDLESS))) for _ in range(3)]
        await asyncio.sleep(0.02)
        monkeypatch.setattr(running.engine.keeper, "wait", 0.005)
        with pytest.raises(BusyError, match="not begun within 0.005 s"):
            await collect(answerer.answer(HI, SHORT))
        while (await running.engine.status())["models"]["tooled"]["waiting"] > 2:  # it leaves before the next step
            await asyncio.sleep(0.01)
        assert not any(task.done() and task.exception() for task in long)  # whose wait was longer
        for task in long:
            task.cancel()
        await asyncio.wait(long)

    running.run(wait())


def test_an_answer_that_takes_too_long_ends_as_it_is(running: Running) -> None:
    answer = answered(running, AnswerSettings(max_tokens=220, ignore_eos=True, seconds=1e-6))
    assert answer.reason == "timeout"


def test_thousands_of_requests_leave_nothing_behind(running: Running) -> None:
    settings = AnswerSettings(max_tokens=1)

    async def some(count: int) -> int:
        answerer = running.engine.answerer("tiny")

        async def one_after_another(share: int) -> None:
            for number in range(share):
                if number % 50 == 49:
                    with pytest.raises(ContextLengthError):
                        await collect(answerer.answer((Message("user", "x" * 300),), settings))
                    async with aclosing(answerer.answer(HI, LONG)) as events:  # type: ignore[type-var]
                        await anext(events)
                else:
                    assert (await collect(answerer.answer(HI, settings))).usage

        await asyncio.gather(*(one_after_another(count // 4) for _ in range(4)))
        return (await quiet(running.engine))["memory"] or 0

    before = running.run(some(400))
    after = running.run(some(2400))
    assert after - before < 24 * 2**20
    assert not running.engine.keeper.waiting and not any(running.engine.keeper._load.values())


@pytest.mark.parametrize("kind", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_is_told_to_those_under_way_and_the_engine_comes_back_by_itself(running: Running, kind: signal.Signals) -> None:
    engine = running.engine
    before = answered(running).text

    async def crash() -> None:
        first = asyncio.Event()

        async def listen() -> list[Event]:
            events = []
            async for event in engine.answerer("tooled").answer(HI, ENDLESS):
                events.append(event)
                first.set()
            return events

        listening = [asyncio.create_task(listen()) for _ in range(3)]  # two of them wait for a slot
        await first.wait()
        pid = engine.pid
        assert pid is not None
        os.kill(pid, kind)
        for events in await asyncio.gather(*listening):
            assert isinstance(events[-2], Failure) and kind.name in events[-2].message
            assert events[-1] == Done("error")
        assert not engine.ready and not engine.keeper.waiting
        for refused in (collect(engine.answerer("tiny").answer(HI, SHORT)), engine.tokenize("tiny", "x")):
            with pytest.raises(EngineGone):
                await refused
        assert not (await engine.status())["ready"]
        while not engine.ready:
            await asyncio.sleep(0.02)
        assert engine.pid != pid

    running.run(crash())
    assert kind.name in "".join(running.said)
    assert answered(running).text == before
    assert running.run(engine.status())["restarts"] >= 1


def test_the_process_that_waits_takes_the_place_of_one_that_dies(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = running.engine
    monkeypatch.setattr(engine_keeper, "SPARE_AFTER", 0.0)

    async def crash() -> tuple[int | None, int | None]:
        await engine.keeper._prepare_spare()
        spare = engine.keeper._spare
        assert spare is not None and engine.pid is not None and engine.pid != spare.pid
        os.kill(engine.pid, signal.SIGSEGV)
        while engine.ready:
            await asyncio.sleep(0.01)
        while not engine.ready:
            await asyncio.sleep(0.01)
        return spare.pid, engine.pid

    spare, now = running.run(crash())
    assert spare == now and engine.keeper._spare is None
    assert answered(running).reason == "length"


def test_a_process_that_waits_and_is_ended_by_something_is_not_relied_on(running: Running) -> None:
    keeper = running.engine.keeper

    async def lose() -> None:
        keeper._spare = await Child.start()
        keeper._spare.kill()
        await keeper._spare.process.wait()
        assert keeper._take_spare() is None and keeper._spare is None

    running.run(lose())


def test_closing_lets_answers_under_way_end_and_takes_no_more(folder: Path, running: Running) -> None:
    own = Running([ServedModel("tiny", str(folder / "tiny"))], queue=0)

    async def drain() -> Answer:
        first = asyncio.Event()

        async def listen() -> Answer:
            async def told() -> AsyncIterator[Event]:
                async for event in own.engine.answerer("tiny").answer(HI, LONG):
                    first.set()
                    yield event

            return await collect(told())

        listening = asyncio.create_task(listen())
        await first.wait()
        pid = own.engine.pid
        closing = asyncio.create_task(own.engine.close(60))
        await asyncio.sleep(0)
        with pytest.raises(EngineGone, match="closing"):
            await collect(own.engine.answerer("tiny").answer(HI, SHORT))
        answer = await listening
        await closing
        assert pid is not None and not alive(pid)
        return answer

    answer = own.run(drain())
    assert answer.reason == "length" and answer.usage and answer.usage.completion_tokens == 220
    own.close()


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


PARENT = """
import asyncio, sys
from steelyard.core.errors import SteelyardError
from steelyard.serve.engine_process import EngineProcess, ServedModel

async def main():
    refused = EngineProcess([ServedModel("tiny", sys.argv[1])], queue=1, documents=[sys.argv[1] + "-gone"])
    try:
        await refused.start()
    except SteelyardError as error:
        print(str(error).splitlines()[0], flush=True)
    engine = EngineProcess([ServedModel("tiny", sys.argv[1])], queue=1)
    await engine.start()
    print(engine.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc whether a process runs")
def test_what_is_not_there_is_told_at_the_start_and_no_orphan_outlives_its_parent(folder: Path, running: Running) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(folder / "tiny")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        assert "documents `" in parent.stdout.readline()
        child = int(parent.stdout.readline())
        assert alive(child)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    until = time.monotonic() + 60
    while alive(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(child)


def test_what_a_downloaded_model_asks_for_of_this_machine_is_refused(tmp_path: Path) -> None:
    from steelyard.core.errors import ModelFileError
    from steelyard.serve.engine_opening import _saved_levers

    (tmp_path / "steelyard.json").write_text(json.dumps({"serve": [{"retrieve": {"documents": "/etc"}}]}))
    assert [lever.name for lever in _saved_levers(tmp_path, str(tmp_path))] == ["retrieve"]
    with pytest.raises(ModelFileError, match="things of this machine"):
        _saved_levers(tmp_path, "hf:someone/model")
