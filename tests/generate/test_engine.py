"""An answer depends on its own request alone, however many others run beside it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from arrivals import CONTEXT, arrivals, take_turns
from hypothesis import HealthCheck, given, settings
from tiny_engines import Heard, alone, generation, run_all, scheduler, talker

from steelyard.core.protocols import AnswerSettings
from steelyard.generate.scheduler import Scheduler
from steelyard.generate.spec import EngineSpec
from steelyard.model.model import Model

NARROW = {"max_position_embeddings": CONTEXT}
WIDE = NARROW | {"hidden_size": 192, "intermediate_size": 200, "num_attention_heads": 3, "num_key_value_heads": 1}
"""Wide enough for every fast path, with one key/value head and sizes no tile divides."""


NUMERICS = [(NARROW, "float32", "auto"), (WIDE, "float32", "auto"), (WIDE, "bfloat16", "auto"), (WIDE, "bfloat16", "pytorch")]


@pytest.fixture(scope="module", params=NUMERICS, ids=["narrow", "wide", "bfloat16", "bfloat16 without native kernels"])
def numerics(request) -> tuple[dict, str, str]:
    return request.param


@pytest.fixture(scope="module")
def model(numerics) -> Model:
    return talker(12.0 if numerics[0] is NARROW else 5.0, **numerics[0])


@pytest.fixture(scope="module")
def crowded(numerics, model) -> Scheduler:
    return scheduler(EngineSpec(model, deterministic=True, slots=3, dtype=numerics[1], kernels=numerics[2]))


@pytest.fixture(scope="module")
def lonely(crowded) -> Scheduler:
    return Scheduler(crowded.trunk, crowded.spec, crowded.context)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(arrivals)
def test_an_answer_is_the_same_to_the_bit_whatever_else_runs_arrives_or_is_cancelled(crowded, lonely, model, requests):
    together = take_turns(crowded, model, requests)
    for (prompt, wanted, _, cancel), beside in zip(requests, together, strict=True):
        solo = Heard()
        alone(lonely, generation(model, prompt, wanted, solo, lonely.context))
        if beside.reason == "cancelled":
            assert cancel is not None
            assert beside.tokens == solo.tokens[: len(beside.tokens)]
        else:
            assert beside.said == solo.said
    assert sorted(crowded.slots.free) == [0, 1, 2]


def test_an_answer_is_the_same_whether_its_prompt_was_read_before_or_not(crowded, lonely, model):
    wanted = AnswerSettings(max_tokens=20, temperature=1.0, seed=5, token_events=True, ignore_eos=True)
    prompt = list(range(200)) + list(range(70))
    first, again, longer, shorter = Heard(), Heard(), Heard(), Heard()
    crowded.slots.held.clear()
    requests = []
    for tokens, ear in [(prompt, first), (prompt, again), (prompt + [1, 2, 3], longer), (prompt[:120] + [9], shorter)]:
        requests.append(generation(model, tokens, wanted, ear, crowded.context))
        crowded.add(requests[-1])
        run_all(crowded)
    assert [request.reused for request in requests] == [0, 269, 270, 120]
    for request, ear in zip(requests[1:], [again, longer, shorter], strict=True):
        fresh = Heard()
        alone(lonely, generation(model, request.prompt, wanted, fresh, lonely.context))
        assert fresh.said == ear.said
    assert first.said == again.said


def test_slots_of_another_number_and_length_give_the_same_bits(crowded, model, numerics):
    wanted = AnswerSettings(max_tokens=20, temperature=1.0, seed=2, token_events=True, ignore_eos=True)
    other = scheduler(EngineSpec(model, deterministic=True, slots=7, context=277, dtype=numerics[1], kernels=numerics[2]))
    for prompt in ([1, 2, 3], list(range(250))):
        here, there = Heard(), Heard()
        alone(crowded, generation(model, prompt, wanted, here, crowded.context))
        alone(other, generation(model, prompt, wanted, there, crowded.context))
        assert here.said == there.said


def test_a_prompt_whose_reading_was_cancelled_halfway_reads_the_same_the_next_time():
    model, heard = talker(max_position_embeddings=2048), [Heard(), Heard(), Heard()]
    turns = scheduler(EngineSpec(model, deterministic=True, slots=1, dtype="float32"))
    prompt, wanted = [(i * i) % 251 for i in range(1300)], AnswerSettings(max_tokens=6, ignore_eos=True, token_events=True)
    requests = [generation(model, prompt, wanted, ear, 2048) for ear in heard]
    with torch.inference_mode():
        turns.add(requests[0])
        turns.turn()
    requests[0].cancel()
    turns.add(requests[1])
    run_all(turns)
    alone(turns, requests[2])
    assert heard[0].reason == "cancelled" and 0 < requests[1].reused < 1299
    assert heard[1].said == heard[2].said


def test_two_seeds_beside_one_another_draw_independently_and_each_repeats(crowded, lonely, model):
    wanted = AnswerSettings(max_tokens=24, temperature=1.0, token_events=True, ignore_eos=True)
    seeds = [0, 1, 0]
    heard = take_turns(crowded, model, [([5, 6, 7], dataclasses.replace(wanted, seed=seed), 0, None) for seed in seeds])
    assert heard[0].said == heard[2].said
    assert heard[0].text != heard[1].text
