"""Biases of tokens: what is banned never comes, whatever guesses, forms and penalties there are beside; the rest is as it was."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_engines import talker

from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.engine import Engine
from steelyard.generate.processor import View
from steelyard.generate.processors.logit_bias import MOST, requested
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.model.model import Model

PROMPT = "abcabcabcabc"


@pytest.fixture(scope="module")
def model() -> Model:
    return talker(20.0, num_hidden_layers=1)


@pytest.fixture(scope="module")
def engine(model: Model):
    with Engine(model, deterministic=True, slots=2) as opened:
        yield opened


def said(engine: Engine, **asked) -> list[int]:
    return [token.id for token in engine.generate([PROMPT], max_tokens=24, ignore_eos=True, **asked)[0].tokens]


@given(st.dictionaries(st.integers(0, 259), st.floats(-100, 100, width=32), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_a_bias_is_added_and_minus_a_hundred_rules_out(biases: dict[int, float]) -> None:
    (processor,) = requested(AnswerSettings(logit_bias=tuple(biases.items())), 260)
    logits = torch.linspace(-3, 3, 260)
    shaped = processor.start(AnswerSettings())(logits.clone(), View([], []))
    for token in range(260):
        bias = biases.get(token, 0.0)
        wanted = -math.inf if bias <= -100 else float(logits[token]) + bias
        assert float(shaped[token]) == pytest.approx(wanted, abs=1e-4)


def test_a_banned_token_never_comes_greedy_or_sampled_and_a_forced_one_always(engine: Engine) -> None:
    for drawn in ({}, {"temperature": 1.5, "seed": 3}):
        free = said(engine, **drawn)
        ban = tuple((token, -100) for token in set(free))
        other = said(engine, logit_bias=ban, **drawn)
        assert not set(other) & set(free)
        assert said(engine, logit_bias=ban, **drawn) == other, "the same request gives the same answer"
        assert said(engine, logit_bias=((97, 100.0),), frequency_penalty=0.1, **drawn) == [97] * 24
    assert said(engine) == said(engine, logit_bias=((97, 0.0),))


def test_guesses_do_not_get_round_a_bias(model: Model, engine: Engine) -> None:
    ban = tuple((token, -100.0) for token in set(said(engine)[:3]))
    with Engine.from_spec(PromptLookup(tokens=6, shortest=1).decode(EngineSpec(model, deterministic=True, slots=2))) as looking:
        assert said(looking, logit_bias=ban) == said(engine, logit_bias=ban)


def test_a_form_keeps_the_last_word(engine: Engine) -> None:
    pytest.importorskip("llguidance")

    def under(form: dict, **asked) -> str:
        return engine.generate([PROMPT], max_tokens=4, constraint=form, **asked)[0].text

    assert under({"regex": "a|b"}, logit_bias=((engine.encode("a")[-1], -100),)) == "b"
    assert under({"regex": "a"}, logit_bias=((engine.encode("b")[-1], 100),)) == "a"
    with pytest.raises(SteelyardError, match="every token is ruled out"):
        under({"regex": "a"}, logit_bias=((engine.encode("a")[-1], -100),))


@pytest.mark.parametrize(
    "biases", [((260, 1),), ((-1, 1),), ((True, 1),), (("5", 1),), ((5, 101),), ((5, math.nan),), ((5, 1), (5, 2)), (5,), ((5, True),)]
)
def test_what_is_no_bias_is_refused(engine: Engine, biases: tuple) -> None:
    with pytest.raises(SteelyardError, match="logit_bias"):
        engine.generate([PROMPT], max_tokens=1, logit_bias=biases)
    with pytest.raises(SteelyardError, match="logit_bias"):
        requested(AnswerSettings(logit_bias=tuple((id, 1.0) for id in range(MOST + 1))), MOST + 1)


def test_the_tokens_of_a_prompt_have_the_probabilities_that_scoring_gives(engine: Engine) -> None:
    text = "how likely is this?"
    tokens = engine.prompt_tokens(text, alternatives=2)
    assert "".join(token.text for token in tokens) == text and [token.id for token in tokens] == engine.encode(text)
    assert math.isnan(tokens[0].logprob) and all(len(token.alternatives) == 2 for token in tokens[1:])
    assert engine.model.tokenizer is not None and engine.model.tokenizer.bos_id is not None
    whole = engine.prompt_tokens([engine.model.tokenizer.bos_id, *engine.encode(text)])  # what scoring puts before a text
    (score,) = engine.score_text([text])
    assert sum(token.logprob for token in whole[1:]) == pytest.approx(score.logprob, abs=1e-3)
    assert len(engine.prompt_tokens("a")) == 1
