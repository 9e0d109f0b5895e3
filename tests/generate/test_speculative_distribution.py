"""Speculation leaves the distribution of what is said alone: chi-square over all short strings, and bugs that the same test catches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from plan_talkers import plan_talker
from short_strings import PROMPT, p_value, probabilities, sampled
from tiny_engines import scheduler, talker
from toy_recurrence import recurrent_talker

from steelyard.core.protocols import AnswerSettings
from steelyard.core.references import ModelRef
from steelyard.generate import rejection
from steelyard.generate.scheduler import Scheduler
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation import drafting
from steelyard.generate.speculation.drafting import Guess
from steelyard.generate.speculation.early_exit import EarlyExit
from steelyard.generate.speculation.self_speculative import SelfSpeculative
from steelyard.generate.speculation.speculative import Speculative
from steelyard.model.state import State

SAMPLES = 1000
FAIR, CAUGHT = 1e-3, 1e-5
"""A right way of decoding must reach the first p-value (seeds are fixed), a bug must stay below the second."""
SIZES = {"vocab_size": 3, "num_hidden_layers": 3}
MODELS = {
    "attention": talker(7.0, **SIZES),
    "recurrence": recurrent_talker(8.0, seed=3, **SIZES),
    "mamba": plan_talker({"mixer": ["mamba", "attention"]}, 0.3, seed=3, vocab_size=3),
}
DRAFTS = {
    "attention": talker(5.0, seed=5, vocab_size=3, num_hidden_layers=1),
    "recurrence": recurrent_talker(4.0, seed=5, attention=False, vocab_size=3, num_hidden_layers=1),
}
OPEN = AnswerSettings(max_tokens=5, temperature=1.0, ignore_eos=True)
WARM = replace(OPEN, ignore_eos=False, temperature=0.8, top_p=0.9, repetition_penalty=1.3, frequency_penalty=0.7, presence_penalty=0.2)
LONG = replace(OPEN, max_tokens=8, top_k=2)
NARROW = replace(OPEN, ignore_eos=False, temperature=1.4, top_k=2, frequency_penalty=1.5)
END = 1
"""The token that ends an answer."""


def turns_of(lever, model: str) -> Scheduler:
    spec = EngineSpec(MODELS[model], slots=32, context=16, dtype="float32", kernels="pytorch")
    return scheduler(lever.decode(spec) if lever else spec)


def fit(turns: Scheduler, model: str, settings: AnswerSettings) -> float:
    end = None if settings.ignore_eos else END
    every = [replace(settings, seed=seed) for seed in range(SAMPLES)]
    return p_value(sampled(turns, MODELS[model], every, end), probabilities(MODELS[model], settings, end))


def drafted_by(draft: str, **settings) -> Speculative:
    return Speculative(draft=ModelRef(draft, DRAFTS[draft]), **{"tokens": 3} | settings)


@pytest.mark.parametrize(
    ("lever", "model", "settings"),
    [
        (None, "attention", WARM),
        (drafted_by("attention"), "attention", OPEN),
        (drafted_by("recurrence"), "attention", WARM),
        (drafted_by("recurrence"), "recurrence", NARROW),
        (drafted_by("recurrence"), "recurrence", LONG),
        (drafted_by("recurrence", verify="coupled"), "recurrence", WARM),
        (drafted_by("recurrence"), "mamba", WARM),
        (SelfSpeculative(skip=(0,)), "mamba", LONG),
        (SelfSpeculative(skip=(1,)), "recurrence", WARM),
        (SelfSpeculative(skip=(0, 2)), "attention", NARROW),
        (EarlyExit(exit=1), "recurrence", LONG),
        (EarlyExit(exit=2), "attention", WARM),
    ],
    ids=lambda value: value.name + "-" + value.verify if hasattr(value, "verify") else None,
)
def test_every_short_string_is_said_as_often_as_plain_decoding_says_it(lever, model, settings):
    assert fit(turns_of(lever, model), model, settings) > FAIR


# Bugs: each is one that an implementation may well have


def replaced_from_the_model_itself(monkeypatch):
    """At a rejection the token is drawn from p, not from max(0, p - q)."""
    monkeypatch.setattr(rejection, "left_over", lambda probabilities, guessed: probabilities)


def filtered_on_one_side(monkeypatch):
    """The guess was drawn from filtered probabilities and is judged by unfiltered ones."""
    real = Guess.draft.fget
    assert real is not None

    def unfiltered(self):
        draft = real(self)
        if draft.probabilities is not None:
            draft = replace(draft, probabilities=torch.stack(self.unfiltered))
        return draft

    def noting(self, logits):
        self.unfiltered = [*getattr(self, "unfiltered", []), torch.softmax(logits, -1)]
        draw(self, logits)

    draw = Guess.draw
    monkeypatch.setattr(Guess, "draw", noting)
    monkeypatch.setattr(Guess, "draft", property(unfiltered))


def sessions_not_taken_back(monkeypatch):
    """The penalties go on counting guesses that were never said."""
    monkeypatch.setattr(Guess, "take_back", lambda self: None)


def one_noise_for_guess_and_judgement(monkeypatch):
    """What decided the guess also decides whether it stands."""
    monkeypatch.setattr(rejection, "ACCEPT", drafting.GUESS)


def memory_not_taken_back(monkeypatch):
    """The recurrence has read guesses that were never said."""
    rewind = State.rewind  # a slot's next answer is to begin as it should
    monkeypatch.setattr(State, "rewind", lambda *given: rewind(*given) if given[-1] < len(PROMPT) else given[-1])


@pytest.mark.parametrize(
    ("bug", "lever", "model", "settings"),
    [
        (replaced_from_the_model_itself, drafted_by("attention"), "attention", OPEN),
        (filtered_on_one_side, drafted_by("attention"), "attention", NARROW),
        (sessions_not_taken_back, drafted_by("attention"), "attention", NARROW),
        (one_noise_for_guess_and_judgement, drafted_by("recurrence"), "recurrence", OPEN),
        (memory_not_taken_back, EarlyExit(exit=2), "recurrence", LONG),
        (memory_not_taken_back, drafted_by("recurrence"), "recurrence", LONG),
    ],
)
def test_a_bug_is_caught_by_the_same_test(monkeypatch, bug, lever, model, settings):
    turns = turns_of(lever, model)
    bug(monkeypatch)
    assert fit(turns, model, settings) < CAUGHT
