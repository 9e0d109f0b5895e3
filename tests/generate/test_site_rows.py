"""Requests with site programs of their own run beside plain ones: each as if it were alone, and the plain ones in whole C++ steps."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from arrivals import CONTEXT, answer_settings, prompt_tokens
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_engines import Heard, alone, generation, scheduler, talker

from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.engine import Engine
from steelyard.generate.scheduler import Scheduler
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.drafting import Drafter
from steelyard.model.model import Model
from steelyard.model.sites import Add, SiteProgram, with_own

SIZES = {
    "max_position_embeddings": CONTEXT,
    "hidden_size": 96,
    "intermediate_size": 100,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
}
DRAW = torch.Generator().manual_seed(0)
PROGRAMS = (
    None,
    SiteProgram(add={"blocks.1.input": Add(8 * torch.randn(1, 96, generator=DRAW))}),
    SiteProgram(
        add={"blocks.0.channel": Add(8 * torch.randn(1, 96, generator=DRAW)), "final_norm": Add(torch.randn(1, 96, generator=DRAW))}
    ),
    SiteProgram(skip={0: None}),
    SiteProgram(stop=0),
)
WANTED = AnswerSettings(max_tokens=12, token_events=True, ignore_eos=True)


@pytest.fixture(scope="module")
def model() -> Model:
    return talker(6.0, **SIZES)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def crowded(model, request) -> Scheduler:
    return scheduler(EngineSpec(model, deterministic=True, slots=3, dtype=request.param))


@pytest.fixture(scope="module")
def lonely(crowded) -> Scheduler:
    return Scheduler(crowded.trunk, crowded.spec, crowded.context)


def made(model: Model, turns: Scheduler, prompt, wanted: AnswerSettings, program: SiteProgram | None, ear: Heard):
    request = generation(model, prompt, wanted, ear, turns.context)
    request.program = program
    return request


mixed = st.lists(st.tuples(prompt_tokens, answer_settings, st.sampled_from(PROGRAMS), st.integers(0, 8)), min_size=2, max_size=5)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(mixed)
def test_an_answer_is_the_same_to_the_bit_whatever_is_done_inside_the_rows_beside_it(crowded, lonely, model, requests):
    heard = [Heard() for _ in requests]
    waiting = [
        (arrival, made(model, crowded, prompt, wanted, program, ear))
        for (prompt, wanted, program, arrival), ear in zip(requests, heard, strict=True)
    ]
    with torch.inference_mode():
        turn = 0
        while crowded.busy or waiting:
            for pair in [pair for pair in waiting if pair[0] <= turn]:
                crowded.add(pair[1])
                waiting.remove(pair)
            crowded.turn()
            turn += 1
    for (prompt, wanted, program, _), beside in zip(requests, heard, strict=True):
        solo = Heard()
        alone(lonely, made(model, lonely, prompt, wanted, program, solo))
        assert beside.said == solo.said


def test_a_request_of_its_own_program_says_what_an_engine_says_that_has_it_for_all(model):
    prompt = list(range(30))
    for program in PROGRAMS[1:]:
        with Engine(model, dtype="float32") as engine:
            ours, plain = engine.generate([prompt, prompt], 16, ignore_eos=True, programs=[program, None])
        with Engine.from_spec(EngineSpec(model, dtype="float32", program=program)) as engine:
            theirs = engine.generate([prompt], 16, ignore_eos=True)[0]
        with Engine(model, dtype="float32") as engine:
            untouched = engine.generate([prompt], 16, ignore_eos=True)[0]
        assert ours.text == theirs.text != plain.text
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-3)
        assert plain.text == untouched.text


def test_only_the_rows_with_a_program_leave_the_whole_steps(model, monkeypatch):
    turns = scheduler(EngineSpec(model, slots=3, dtype="float32"))
    if turns.host.fused is None:
        pytest.skip("no C++ routines here")
    rows: list[tuple[int, ...]] = []
    forward = turns.trunk.forward
    monkeypatch.setattr(turns.trunk, "forward", lambda ids, step, state=None: rows.append(step.slots) or forward(ids, step, state))
    for program in (None, PROGRAMS[1], None):
        turns.add(made(model, turns, [1, 2, 3], WANTED, program, Heard()))
    with torch.inference_mode():
        while turns.busy:
            turns.turn()
    assert len(rows) == WANTED.max_tokens and set(rows) == {(1,)}


def test_what_was_read_under_one_program_serves_no_other(model):
    turns = scheduler(EngineSpec(model, deterministic=True, slots=1, dtype="float32"))
    prompt, said = list(range(80)), {}
    for number in (0, 1, 0, 1, 2):
        ear = Heard()
        request = made(model, turns, prompt, WANTED, PROGRAMS[number], ear)
        turns.add(request)
        with torch.inference_mode():
            while turns.busy:
                turns.turn()
        assert request.reused == 0
        assert said.setdefault(number, ear.said) == ear.said
    again = made(model, turns, prompt, WANTED, dataclasses.replace(PROGRAMS[2]), ear := Heard())
    turns.add(again)
    with torch.inference_mode():
        while turns.busy:
            turns.turn()
    assert again.reused == 79 and ear.said == said[2]


def test_guesses_keep_the_text_of_rows_with_a_program(model):
    spec = EngineSpec(model, deterministic=True, slots=3, dtype="float32")
    guessed = dataclasses.replace(spec, speculation=Drafter(3, None, "coupled", SiteProgram(skip={1: None})))
    with Engine.from_spec(spec) as plain, Engine.from_spec(guessed) as fast:
        ours, theirs = (
            [answer.text for answer in engine.generate([list(range(9))] * len(PROGRAMS), 12, ignore_eos=True, programs=PROGRAMS)]
            for engine in (fast, plain)
        )
    assert ours == theirs


def test_a_program_for_all_and_one_of_a_row_add_up():
    whole = SiteProgram(add={"blocks.0.input": Add(torch.ones(1, 4))}, skip={2: None})
    own = [None, SiteProgram(add={"blocks.0.input": Add(torch.full((1, 4), 2.0)), "final_norm": Add(torch.ones(1, 4))}, skip={1: None})]
    both = with_own(whole, own, 3)
    assert both is not None
    x = both.at("blocks.0.input", torch.zeros(2, 1, 4))
    assert x[:, 0, 0].tolist() == [1.0, 3.0]
    assert both.at("final_norm", torch.zeros(2, 1, 4))[:, 0, 0].tolist() == [0.0, 1.0]
    assert both.skip == {2: None, 1: (1,)}
    assert with_own(None, [None, None], 3) is None


@pytest.mark.parametrize(
    "program",
    [
        SiteProgram(read=frozenset({"final_norm"})),
        SiteProgram(add={"blocks.2.input": Add(torch.zeros(1, 96))}),
        SiteProgram(add={"blocks.1.input": Add(torch.zeros(1, 95))}),
        SiteProgram(skip={7: None}),
        SiteProgram(stop=-1),
    ],
    ids=["reads", "no such site", "another width", "no such block", "stops before it begins"],
)
def test_a_program_that_this_model_cannot_follow_is_refused_before_it_runs(model, program):
    with Engine(model, dtype="float32") as engine, pytest.raises(SteelyardError, match="site program"):
        engine.generate([[1, 2]], 2, programs=[program])


def test_as_many_programs_as_prompts(model):
    with Engine(model, dtype="float32") as engine, pytest.raises(SteelyardError, match="2 programs for 1 prompts"):
        engine.generate([[1, 2]], 2, programs=[None, None])
