"""What was read once is not read again: from free slots, from slots in use, and from what is kept beside them; never across tenants."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_engines import WAIT, Heard, generation, scheduler, talker
from toy_recurrence import recurrent_talker

from steelyard.core.errors import BusyError, SteelyardError
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.engine import Engine
from steelyard.generate.prefixes import BLOCK, Prefixes, common_prefix
from steelyard.generate.scheduler import Scheduler
from steelyard.generate.spec import EngineSpec

CONTEXT = 1024
SETTINGS = AnswerSettings(max_tokens=4, ignore_eos=True, token_events=True)
texts = st.lists(st.integers(0, 3), max_size=12)


def text(length: int, seed: int = 0) -> list[int]:
    return torch.randint(1, 60, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(
    scope="module", params=[("float32", "auto"), ("bfloat16", "auto"), ("float32", "pytorch"), ("bfloat16", "pytorch")], ids=" ".join
)
def spec(request) -> EngineSpec:
    dtype, kernels = request.param
    model = talker(max_position_embeddings=CONTEXT, head_dim=16)
    return EngineSpec(model, dtype=dtype, kernels=kernels, deterministic=True, slots=2, prefix_bytes=1 << 24)


@pytest.fixture
def turns(spec) -> Scheduler:
    return scheduler(spec)


def ask(turns: Scheduler, spec: EngineSpec, prompt: list[int], **changes) -> tuple[Heard, int]:
    heard = Heard()
    request = generation(spec.model, prompt, dataclasses.replace(SETTINGS, **changes), heard, CONTEXT)
    turns.add(request)
    with torch.inference_mode():
        while turns.busy:
            turns.turn()
    return heard, request.reused


def test_a_beginning_that_a_slot_lost_is_still_known(turns, spec):
    shared, fresh = text(300), scheduler(dataclasses.replace(spec, prefix_bytes=0))
    first, none = ask(turns, spec, shared + text(40, 1))
    for seed in (2, 3, 4, 5):  # other texts take both slots
        ask(turns, spec, text(200, seed))
    again, reused = ask(turns, spec, shared + text(50, 6))
    alone, cold = ask(fresh, spec, shared + text(50, 6))
    assert (none, cold) == (0, 0) and reused == 300 // BLOCK * BLOCK
    assert again.said == alone.said and first.reason == "length"


def test_without_room_nothing_is_kept_and_within_it_the_longest_unused_goes_first(spec):
    small = dataclasses.replace(spec, prefix_bytes=1)
    turns = scheduler(small)
    for seed in range(5):
        ask(turns, spec, text(200, seed))
    assert turns.slots.prefixes is not None and turns.slots.prefixes.bytes == 0
    assert ask(turns, spec, text(200, 0))[1] == 0


def test_a_beginning_that_another_answer_is_using_is_copied(turns, spec):
    shared = text(280)
    first = generation(spec.model, shared + text(30, 1), dataclasses.replace(SETTINGS, max_tokens=300), Heard(), CONTEXT)
    turns.add(first)
    with torch.inference_mode():
        while not first.generated:
            turns.turn()
    heard = Heard()
    second = generation(spec.model, shared + text(30, 2), SETTINGS, heard, CONTEXT)
    turns.add(second)
    with torch.inference_mode():
        while not second.finished:
            turns.turn()
        assert not first.finished and second.reused == 280
        first.cancel()
        while turns.busy:
            turns.turn()
    assert heard.said == ask(scheduler(spec), spec, shared + text(30, 2))[0].said


def test_what_was_read_for_one_tenant_is_never_used_for_another(turns, spec):
    prompt = text(200)
    ask(turns, spec, prompt, tenant="a")
    assert ask(turns, spec, prompt, tenant="b")[1] == 0
    assert ask(turns, spec, prompt, tenant="a")[1] == 199
    for seed in (2, 3, 4, 5):
        ask(turns, spec, text(200, seed), tenant="c")
    assert ask(turns, spec, prompt, tenant="c")[1] == 0
    assert ask(turns, spec, prompt, tenant="b")[1] > 0


def test_memory_that_cannot_be_cut_is_neither_copied_nor_kept():
    model = recurrent_talker(max_position_embeddings=CONTEXT)
    spec = EngineSpec(model, kernels="pytorch", deterministic=True, slots=2, prefix_bytes=1 << 24)
    turns, prompt = scheduler(spec), text(150)
    first = ask(turns, spec, prompt)[0]
    for seed in (2, 3, 4):
        ask(turns, spec, text(100, seed))
    again, reused = ask(turns, spec, prompt)
    assert turns.slots.prefixes is None and reused == 0 and again.said == first.said


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 1), max_size=6)), max_size=30), st.integers(0, 12))
def test_the_tree_knows_what_was_kept_and_stays_within_its_room(kept, room):
    tree, known = Prefixes(room), {}
    for tenant, blocks in kept:
        tokens = [token for block in blocks for token in [block] * BLOCK]
        tree.keep(tenant, tokens, lambda start, stop, tokens=tokens: (tokens[start:stop], 1))
        known.setdefault(tenant, []).append(tokens)
        assert tree.bytes <= room
        for owner in "ab":
            found = tree.find(owner, tokens, len(tokens))
            whole = [token for node in found for token in node.data]
            assert whole == tokens[: len(whole)]
            assert not whole or any(text[: len(whole)] == whole for text in known.get(owner, []))
        assert len(tree.find(tenant, tokens, len(tokens))) == min(len(blocks), room) or room < 12


@given(texts, texts, st.integers(0, 15))
def test_a_common_prefix_is_as_long_as_it_can_be(first, second, most):
    count = common_prefix(first, second, most)
    assert first[:count] == second[:count] and count <= most
    assert count == min(len(first), len(second), most) or first[count] != second[count]


def test_an_answer_that_takes_too_long_ends_as_it_is():
    with Engine(talker(), slots=1, context=256) as engine:
        (answer,) = engine.generate(["Hello"], max_tokens=200, ignore_eos=True, seconds=1e-6)
        assert answer.finish_reason == "timeout" and answer.usage.completion_tokens < 200
        (answer,) = engine.generate(["Hello"], max_tokens=5, ignore_eos=True, seconds=60)
        assert answer.finish_reason == "length"
        for wrong in (0, -1, True, "1"):
            with pytest.raises(SteelyardError, match="seconds"):
                engine.generate(["Hello"], seconds=wrong)


def test_more_requests_than_may_wait_are_refused_and_those_before_them_answered():
    with Engine(talker(), slots=1, context=256, queue=2) as engine:
        heard = [Heard() for _ in range(3)]
        begun, asked = threading.Event(), threading.Event()

        def held(event) -> None:
            """Keeps the first answer under way until the others have asked."""
            heard[0](event)
            begun.set()
            asked.wait(WAIT)

        first = engine.submit("Hello", dataclasses.replace(SETTINGS, max_tokens=200), held)
        assert begun.wait(WAIT)
        for listener in heard[1:]:
            engine.submit("Hello", SETTINGS, listener)
        with pytest.raises(BusyError, match="wait"):
            engine.submit("Hello", SETTINGS, Heard())
        first.cancel()
        asked.set()
        assert [listener.wait().reason for listener in heard] == ["cancelled", "length", "length"]


def test_a_short_prompt_is_read_at_the_next_turn_however_long_those_before_it_are(spec):
    turns = scheduler(dataclasses.replace(spec, slots=4, prefix_bytes=0))
    long = [generation(spec.model, text(1000, seed), SETTINGS, Heard(), CONTEXT) for seed in (7, 8, 9)]
    short = generation(spec.model, text(40, 10), SETTINGS, Heard(), CONTEXT)
    with torch.inference_mode():
        for sequence in long:
            turns.add(sequence)
        turns.turn()
        turns.add(short)
        turns.turn()
        assert short.generated and not any(sequence.generated for sequence in long)
        while turns.busy:
            turns.turn()
    assert all(sequence.done for sequence in long)
