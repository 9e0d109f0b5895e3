"""Recurrent models in the engine: they generate, share batches, take guesses back and go on from earlier texts exactly."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from arrivals import CONTEXT, arrivals, take_turns
from hypothesis import HealthCheck, given, settings
from plan_talkers import plan_talker
from tiny_engines import Heard, alone, generation, scheduler

from steelyard.core.protocols import AnswerSettings
from steelyard.core.references import ModelRef
from steelyard.generate.engine import Engine
from steelyard.generate.scheduler import Scheduler
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.generate.speculation.speculative import Speculative
from steelyard.model.model import Model

PLANS = {
    "mamba": {"mixer": {"mamba": {"state": 4}}},
    "mamba norms": {"mixer": {"mamba": {"norms": True, "state": 3}}, "channel": "gated"},
    "mamba2": {"mixer": {"mamba2": {"state": 8}}},
    "mixture": {"mixer": ["attention", "mamba"]},
}
MODELS = {name: plan_talker(new, max_position_embeddings=1024) for name, new in PLANS.items()}
every_model = pytest.mark.parametrize("name", MODELS)
LOOKUP = PromptLookup(shortest=1)
CHUNKED = ("mamba2",)
"""Models that compute a stretch of tokens as matrices. Where guesses may fail, a prompt's last tokens are read one by one, so the last bits
of their numbers are others than without guesses; Mamba's C++ scan goes token by token in any case."""


def greedy(model: Model, prompt: list[int], count: int) -> list[int]:
    """The likeliest tokens one after the other, each from the whole text."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model.logits(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def alike(name: str, first: Heard, second: Heard) -> bool:
    """Whether two answers are the same: to the bit, or token by token."""
    if name in CHUNKED:
        return ([token.id for token in first.tokens], first.reason) == ([token.id for token in second.tokens], second.reason)
    return first.said == second.said


def text(length: int, seed: int = 0) -> list[int]:
    return torch.randint(1, 250, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@every_model
@pytest.mark.parametrize("kernels", ["auto", "pytorch", "reference"])
def test_answers_are_what_the_model_finds_likeliest(name, kernels):
    model, prompts = MODELS[name], [text(5), text(300, 1), text(40, 2)]
    wanted = [greedy(model, prompt, 8) for prompt in prompts]
    assert len({*wanted[0], *wanted[1], *wanted[2]}) > 6, "the model has too little to say for this to test anything"
    with Engine(model, dtype="float32", kernels=kernels, slots=3) as engine:
        for batch in (prompts, prompts[:1]):
            answers = engine.generate(batch, max_tokens=8, ignore_eos=True)
            assert [[token.id for token in answer.tokens] for answer in answers] == wanted[: len(batch)]


@every_model
def test_an_answer_is_the_same_whatever_else_runs_and_whether_or_not_it_is_guessed(name):
    model = MODELS[name]
    plain = EngineSpec(model, deterministic=True, slots=3, dtype="float32", context=CONTEXT)
    crowded = scheduler(LOOKUP.decode(plain))
    lonely = Scheduler(crowded.trunk, crowded.spec, crowded.context)
    unguessed = scheduler(plain)

    @settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
    @given(arrivals)
    def check(requests):
        together = take_turns(crowded, model, requests)
        for (prompt, wanted, _, cancel), beside in zip(requests, together, strict=True):
            said = []
            for turns in (lonely, unguessed):
                heard = Heard()
                alone(turns, generation(model, prompt, wanted, heard, turns.context))
                said.append(heard)
            assert alike(name, *said)
            if beside.reason == "cancelled":
                assert cancel is not None and beside.tokens == said[0].tokens[: len(beside.tokens)]
            else:
                assert beside.said == said[0].said

    check()


@every_model
def test_a_shared_beginning_is_read_once_and_changes_nothing(name):
    model = MODELS[name]
    spec = EngineSpec(model, deterministic=True, slots=2, dtype="float32", prefix_bytes=1 << 24)
    wanted = AnswerSettings(max_tokens=6, ignore_eos=True, token_events=True)
    turns, shared = scheduler(spec), text(600)

    def ask(turns: Scheduler, prompt: list[int]) -> tuple[Heard, int]:
        heard = Heard()
        request = generation(model, prompt, wanted, heard, 1024)
        turns.add(request)
        with torch.inference_mode():
            while turns.busy:
                turns.turn()
        return heard, request.reused

    ask(turns, shared + text(30, 1))
    again, reused = ask(turns, shared + text(50, 2))
    for seed in (3, 4, 5):  # other texts take both slots
        ask(turns, text(300, seed))
    kept, from_store = ask(turns, shared + text(50, 2))
    fresh, none = ask(scheduler(dataclasses.replace(spec, prefix_bytes=0)), shared + text(50, 2))
    assert reused >= 512 and from_store >= 512 and none == 0
    assert again.said == kept.said == fresh.said


@every_model
def test_guesses_from_what_stood_before_save_passes_and_change_nothing(name):
    model = MODELS[name]
    spec = EngineSpec(model, dtype="float32", slots=1, deterministic=True)
    turns, prompt = scheduler(LOOKUP.decode(spec)), text(9) * 3
    wanted = AnswerSettings(max_tokens=60, ignore_eos=True, token_events=True)
    heard, plain = Heard(), Heard()
    request = generation(model, prompt, wanted, heard, 1024)
    alone(turns, request)
    alone(scheduler(spec), generation(model, prompt, wanted, plain, 1024))
    assert alike(name, heard, plain) and request.guessed


def drafted(name: str, **changes) -> EngineSpec:
    """An engine that has the model itself guess: where every guess is right, it has not read the last of them."""
    spec = EngineSpec(MODELS[name], deterministic=True, slots=3, dtype="float32", context=CONTEXT, **changes)
    return Speculative(draft=ModelRef("draft", MODELS[name]), tokens=3, verify="coupled").decode(spec)


@pytest.mark.parametrize("name", ["mamba", "mixture"])
def test_with_a_companion_that_lags_behind_every_answer_is_its_solo_run_s(name):
    crowded = scheduler(drafted(name, prefix_bytes=1 << 20))
    draft = {key: host.trunk for key, host in crowded.companions.items()}
    lonely = Scheduler(crowded.trunk, dataclasses.replace(crowded.spec, prefix_bytes=0), crowded.context, draft)
    prompts = [text(40), text(64), text(64) + text(30, 1), text(290, 2), text(280, 2), text(7)]
    requests = [(prompt, AnswerSettings(max_tokens=9, temperature=1.0, seed=3, token_events=True, ignore_eos=True)) for prompt in prompts]
    heard = take_turns(crowded, MODELS[name], [(*asked, turn, None) for asked, turn in zip(requests, [0, 1, 2, 3, 9, 10], strict=True)])
    for (prompt, wanted), beside in zip(requests, heard, strict=True):
        solo = Heard()
        alone(lonely, generation(MODELS[name], prompt, wanted, solo, lonely.context))
        assert beside.said == solo.said
    assert sorted(crowded.slots.free) == [0, 1, 2]


@every_model
def test_exact_answers_go_on_from_where_prompts_are_cut_and_from_nowhere_else(name):
    """What was read in one stretch, or was generated, has other last bits than the same text read in other stretches."""
    turns = scheduler(EngineSpec(MODELS[name], deterministic=True, slots=2, dtype="float32"))
    wanted = AnswerSettings(max_tokens=4, ignore_eos=True, token_events=True)
    reused = []
    for prompt in (text(64), text(64) + text(9, 1), text(300, 2), text(300, 2) + text(9, 1)):
        request = generation(MODELS[name], prompt, wanted, Heard(), 1024)
        turns.add(request)
        with torch.inference_mode():
            while turns.busy:
                turns.turn()
        reused.append(request.reused)
    assert reused == [0, 0, 0, 256]
