"""Typical sampling keeps the tokens that transformers keeps, and nothing else changes."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tiny_engines import Heard, generation, run_all, scheduler, talker

from steelyard.core import levers
from steelyard.core.errors import RecipeError
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.engine import Engine
from steelyard.generate.processor import FunctionProcessor, View
from steelyard.generate.processors.typical import Typical, TypicalSet, typical
from steelyard.generate.sampling import draw
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.model.model import Model

CONTEXT = 128
NOWHERE = View([1], [])


@pytest.fixture(scope="module")
def model() -> Model:
    return talker(16.0, max_position_embeddings=CONTEXT, num_hidden_layers=1)


def said(spec: EngineSpec, model: Model, requests) -> list[tuple]:
    turns, heard = scheduler(spec), [Heard() for _ in requests]
    for (prompt, wanted), ear in zip(requests, heard, strict=True):
        turns.add(generation(model, prompt, wanted, ear, CONTEXT))
    run_all(turns)
    return [ear.said for ear in heard]


# The set


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize("mass", [0.1, 0.2, 0.5, 0.9, 0.95, 0.999])
def test_the_same_tokens_are_kept_as_by_transformers(mass, temperature):
    from transformers.generation.logits_process import TemperatureLogitsWarper, TypicalLogitsWarper

    generator = torch.Generator().manual_seed(5)
    warm, theirs = TemperatureLogitsWarper(temperature), TypicalLogitsWarper(mass)
    for vocabulary in (2, 7, 64, 65, 300, 5000):
        for sharpness in (0.3, 1.0, 3.0, 9.0):
            logits = sharpness * torch.randn(vocabulary, generator=generator)
            if vocabulary > 60:  # as a constraint leaves them
                logits[torch.rand(vocabulary, generator=generator) < 0.3] = float("-inf")
            expected = theirs(torch.zeros(1, 1, dtype=torch.long), warm(torch.zeros(1, 1), logits[None]))[0].isfinite()
            assert torch.equal(typical(logits, mass, temperature).isfinite(), expected), (vocabulary, sharpness)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40), st.floats(0.01, 0.999), st.floats(0.05, 5))
def test_what_is_kept_lies_nearest_the_entropy_and_reaches_the_mass_and_no_less_would(values, mass, temperature):
    logits = torch.tensor(values)
    kept = typical(logits, mass, temperature).isfinite()
    logprobs = torch.log_softmax(logits.double() / temperature, -1)
    distance = (-logprobs - torch.special.entr(logprobs.exp()).sum()).abs()
    slack = 1e-4 * (1 + float(distance.max()))
    edge = float(distance[kept].max())
    assert kept.any() and (not (~kept).any() or float(distance[~kept].min()) >= edge - slack)
    assert float(logprobs.exp()[kept].sum()) >= mass - 1e-4
    assert float(logprobs.exp()[kept & (distance < edge - slack)].sum()) <= mass + 1e-4


def test_a_token_likelier_than_expected_may_be_left_out():
    """What no nucleus does, and the point of it: one token of 0.4, and two hundred that share the rest."""
    logits = torch.tensor([0.4, *[0.003] * 200]).log()
    kept = typical(logits, 0.2).isfinite()
    assert not kept[0] and kept[1:].all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_end_the_request_with_a_message(model, bad):
    def spoil(tokens: list[int], logits: torch.Tensor) -> torch.Tensor:
        logits[3] = bad
        return logits

    spec = Typical().decode(EngineSpec(model, processors=(FunctionProcessor(spoil),)))
    turns, heard = scheduler(spec), Heard()
    turns.add(generation(model, [5], AnswerSettings(temperature=1.0), heard, CONTEXT))
    run_all(turns)
    assert heard.reason == "error" and "no token can be drawn" in (heard.failure or "")


def test_the_argument_is_left_as_it_was():
    logits = torch.randn(100)
    before = logits.clone()
    TypicalSet(0.3).start(AnswerSettings(temperature=1.0))(logits, NOWHERE)  # type: ignore[misc]
    assert torch.equal(logits, before)


def test_draws_follow_the_models_own_odds_within_the_set():
    """Chi-square over 4,000 draws; the odds without the filter, the control, are refused by the same test."""
    logits = torch.tensor([3.0, 2.0, 1.5, 1.0, 0.9, 0.5, 0.0, -0.5, -1.0, -2.0])
    wanted = AnswerSettings(temperature=1.0, seed=3)
    shaped = TypicalSet(0.8).start(wanted)(logits, NOWHERE)  # type: ignore[misc]
    counts = torch.bincount(torch.tensor([draw(shaped, wanted, place).token for place in range(4000)]), minlength=10)
    expected = torch.softmax(shaped, -1).double()
    kept = expected > 0
    assert 2 <= int(kept.sum()) < 10 and not counts[~kept].any()
    shares = expected[kept] / expected[kept].sum()
    assert stats.chisquare(counts[kept].numpy(), 4000 * shares.numpy()).pvalue > 1e-3
    plain = torch.softmax(logits, -1).double()
    assert stats.chisquare(counts.numpy(), 4000 * (plain / plain.sum()).numpy()).pvalue < 1e-6


# In the engine


def request(dice: random.Random, temperature: float) -> tuple[list[int], AnswerSettings]:
    prompt = [dice.randrange(256) for _ in range(dice.randint(1, 5))] * 6
    return prompt, AnswerSettings(
        max_tokens=24,
        temperature=temperature,
        top_p=dice.choice([1.0, 0.9]),
        repetition_penalty=dice.choice([1.0, 0.8, 1.2]),
        seed=dice.randrange(1000),
        token_events=True,
        ignore_eos=True,
        alternatives=1,
    )


def test_greedy_answers_do_not_change_and_sampled_ones_do(model):
    dice = random.Random(1)
    spec = EngineSpec(model, deterministic=True, dtype="float32")
    for temperature, same in ((0.0, True), (1.0, False)):
        requests = [request(dice, temperature) for _ in range(6)]
        assert (said(spec, model, requests) == said(Typical(mass=0.2).decode(spec), model, requests)) is same


def test_the_text_is_the_same_inside_speculation(model):
    dice = random.Random(2)
    spec = Typical(mass=0.5).decode(EngineSpec(model, deterministic=True, slots=3, dtype="float32"))
    for _ in range(12):
        requests = [request(dice, dice.choice([0.0, 0.3, 0.8])) for _ in range(3)]
        assert said(spec, model, requests) == said(PromptLookup(shortest=1).decode(spec), model, requests)


def test_rewinding_leaves_no_trace():
    session = TypicalSet(0.5).start(AnswerSettings(temperature=0.7))
    assert session is not None
    logits = torch.randn(50)
    first = session(logits, NOWHERE)
    for token in (3, 4, 5):
        session.advance(token)
    session.rewind(3)
    assert torch.equal(session(logits, NOWHERE), first)


def test_a_mass_of_one_is_no_change_at_all(model):
    spec = EngineSpec(model)
    assert Typical(mass=1.0).decode(spec) is spec


def test_another_mass_is_another_fingerprint(model):
    spec = EngineSpec(model)
    prints = {lever.decode(spec).fingerprint for lever in (Typical(mass=1), Typical(), Typical(mass=0.2))}
    assert len(prints) == 3
    assert len({lever.fingerprint for lever in (Typical(), Typical(mass=0.2))}) == 2


def test_the_lever_is_found_by_name_and_refuses_settings_that_mean_nothing():
    lever = levers.parse({"typical": 0.2})
    assert isinstance(lever, Typical) and lever.mass == 0.2
    for wrong in ({"mass": 0}, {"mass": 1.01}, {"mass": float("nan")}, {"mas": 0.5}):
        with pytest.raises(RecipeError):
            levers.parse({"typical": wrong})
    with pytest.raises(RecipeError, match="needs weights"):
        levers.check_chain([lever], set(), "arm")


def test_the_engine_draws_only_from_the_set(model):
    """Each token's own surprise and entropy are told unfiltered, so the answer itself shows that the filter worked."""
    options = {"max_tokens": 100, "temperature": 1.0, "seed": 4, "ignore_eos": True}

    def distance(spec: EngineSpec) -> float:
        with Engine.from_spec(spec) as engine:
            (answer,) = engine.generate(["abc"], **options)
        return sum(abs(-token.logprob - token.entropy) for token in answer.tokens) / len(answer.tokens)

    spec = dataclasses.replace(EngineSpec(model, deterministic=True))
    assert distance(Typical(mass=0.3).decode(spec)) < distance(spec)
