"""Each request may ask for a form of its own: several run together, and the engine needs no lever for it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import re

import pytest
import torch
from tiny_engines import talker

from steelyard.augment.answerers import LocalAnswerer
from steelyard.core.answer_form import AnswerForm
from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.protocols import AnswerSettings, Message, collect
from steelyard.generate.engine import Engine
from steelyard.generate.processor import View
from steelyard.generate.sequences import Generation
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.model.model import Model

pytest.importorskip("llguidance", reason="the extra `constraint` is not installed")

from steelyard.generate.beams.beam import Beam
from steelyard.generate.constraints.constraint import Constraint, ConstraintSession

SCHEMA = {"type": "object", "properties": {"b": {"type": "boolean"}, "a": {"enum": [1, 22]}}, "required": ["b", "a"]}
SCHEMA |= {"additionalProperties": False}
FORMS = [
    {"json_schema": SCHEMA},
    {"regex": "(yes|no), [a-f]{2,5}"},
    {"grammar": 'start: "<" /[0-9]/ ("," /[0-9]/)* ">"'},
    None,
    {"regex": "[xyz]{3}"},
]
PATTERNS = [r"(?s)\s*\{.*\}\s*", "(yes|no), [a-f]{2,5}", "<[0-9](,[0-9])*>", "(?s).*", "[xyz]{3}"]


@pytest.fixture(scope="module")
def model() -> Model:
    return talker(20.0, max_position_embeddings=400, num_hidden_layers=1)


@pytest.fixture(scope="module")
def spec(model) -> EngineSpec:
    return EngineSpec(model, deterministic=True, slots=3, dtype="float32", threads=1)


def asking(form: object, **others: object) -> AnswerSettings:
    return AnswerSettings(constraint=form, token_events=True, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_several_forms_in_one_batch_are_each_kept_and_change_no_other_answer(spec, temperature):
    each = [asking(form, temperature=temperature, max_tokens=200, seed=3) for form in FORMS]
    with Engine.from_spec(spec) as engine:
        together = engine.generate(["tell me"] * len(FORMS), settings=each)
        alone = [engine.generate(["tell me"], settings=settings)[0] for settings in each]
    assert [(one.text, one.tokens) for one in together] == [(one.text, one.tokens) for one in alone]
    for answer, pattern in zip(together, PATTERNS, strict=True):
        assert answer.finish_reason == "length" or re.fullmatch(pattern, answer.text)
    assert sum(answer.finish_reason == "stop" for answer in together) >= 3


def test_a_request_says_the_same_as_the_lever(spec):
    for form in FORMS[:3]:
        with Engine.from_spec(spec) as asked, Engine.from_spec(Constraint(**form).decode(spec)) as pulled:  # type: ignore[arg-type]
            (one,) = asked.generate(["tell me"], max_tokens=120, temperature=0.7, constraint=form)
            (other,) = pulled.generate(["tell me"], max_tokens=120, temperature=0.7)
        assert (one.text, one.tokens) == (other.text, other.tokens)


def test_forms_are_kept_under_guesses_and_in_a_search(spec):
    guessing = PromptLookup(tokens=6, longest=3, shortest=1).decode(spec)
    each = [asking(form, max_tokens=150) for form in FORMS]
    prompts = ["yes, abc yes, abc <1,1,1,1>"] * len(FORMS)
    with Engine.from_spec(spec) as plain, Engine.from_spec(guessing) as engine:
        assert [one.text for one in plain.generate(prompts, settings=each)] == [one.text for one in engine.generate(prompts, settings=each)]
    with Engine.from_spec(Beam(beams=2).decode(dataclasses.replace(spec, slots=4))) as engine:
        found = engine.generate(["tell me"] * 2, settings=[each[1], each[4]])
    assert all(re.fullmatch(pattern, one.text) for one, pattern in zip(found, (PATTERNS[1], PATTERNS[4]), strict=True))


UNHONOURED = [
    ({"json_schema": {"not": {}}}, 'Unimplemented keys: \\["not"\\]'),
    ({"json_schema": False}, "no value matches the schema `false`"),
    ({"regex": "(?=a)b"}, "look-around"),
    ({"grammar": "start: nowhere"}, "nowhere"),
    (AnswerForm("json_schema", "{"), "the schema is not valid JSON"),
    (AnswerForm("json_schema", '{"a": 1, "a": 2}'), "`a` appears twice"),
    (AnswerForm("json_schema", "[]"), "a schema is a JSON object"),
]


@pytest.mark.parametrize(("form", "words"), UNHONOURED, ids=[str(form)[:40] for form, _ in UNHONOURED])
def test_what_cannot_be_honoured_is_refused_by_name_before_anything_runs(spec, form, words):
    heard = []
    with Engine.from_spec(spec) as engine:
        with pytest.raises(UnsupportedError, match=words):
            engine.submit("a", asking(form), heard.append)
        with pytest.raises(UnsupportedError, match=words):
            engine.generate(["a", "b"], settings=[asking(None), asking(form)])
        assert not heard and engine.generate(["a"], max_tokens=2)


def test_what_goes_against_a_form_is_refused_before_anything_runs(spec):
    with Engine.from_spec(spec) as engine, pytest.raises(UnsupportedError, match="ignore_eos"):
        engine.generate(["a"], constraint={"regex": "a"}, ignore_eos=True)
    with Engine.from_spec(Constraint(regex="a").decode(spec)) as engine, pytest.raises(UnsupportedError, match="has one already"):
        engine.generate(["a"], constraint={"regex": "a"})


def test_a_missing_package_is_named_with_its_remedy(spec, monkeypatch):
    with Engine.from_spec(spec) as engine:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UnsupportedError, match="constraints need llguidance"):
            engine.generate(["a"], constraint={"regex": "a"})
        assert engine.generate(["a"], max_tokens=2)  # and nobody else needs it


def test_settings_for_each_prompt_are_as_many_as_prompts(spec):
    with Engine.from_spec(spec) as engine, pytest.raises(SteelyardError, match="1 settings for 2 prompts"):
        engine.generate(["a", "b"], settings=[AnswerSettings()])


def test_a_local_answerer_passes_a_form_on(spec):
    with Engine.from_spec(spec) as engine:
        settings = AnswerSettings(max_tokens=20, constraint=AnswerForm.read({"regex": "(yes|no)"}))
        answer = asyncio.run(collect(LocalAnswerer(engine).answer([Message("user", "Is it?")], settings)))
    assert answer.text in ("yes", "no")


# One token at a time: whether the likeliest is permitted, in place of a mask


@pytest.mark.parametrize("form", [*(form for form in FORMS if form), {"regex": "(?s:.*)"}, {"json_schema": {}}], ids=str)
def test_a_token_is_permitted_exactly_where_the_mask_has_it(spec, model, form):
    dice, ends = random.Random(2), model.tokenizer.eos_ids  # type: ignore[union-attr]
    (processor,) = Constraint(**form).decode(spec).processors
    one = processor.start(AnswerSettings())
    assert isinstance(one, ConstraintSession)
    for _ in range(40):
        masked = torch.isfinite(one(torch.zeros(260), View([], []))).tolist()
        assert [one.permits(token) for token in range(260)] == masked
        going = [token for token, allowed in enumerate(masked) if allowed and token not in ends]
        if not going:
            return
        one.advance(dice.choice(going))


@pytest.mark.parametrize("form", [form for form in FORMS if form], ids=str)
def test_asking_about_the_likeliest_token_gives_the_answer_that_masks_give(spec, monkeypatch, form):
    """The readable twin: every draw from logits under a mask."""
    with Engine.from_spec(Constraint(**form).decode(spec)) as engine:
        quick = engine.generate(["a", "bc", "def"], max_tokens=80)
        begin = Generation.begin

        def slowly(self: Generation, *arguments: object) -> None:
            begin(self, *arguments)  # type: ignore[arg-type]
            self.ruling = None

        monkeypatch.setattr(Generation, "begin", slowly)
        masked = engine.generate(["a", "bc", "def"], max_tokens=80)
    assert [(one.text, one.tokens, one.finish_reason) for one in quick] == [(one.text, one.tokens, one.finish_reason) for one in masked]


def test_a_model_that_gives_no_numbers_fails_under_a_form_too(spec):
    logits = torch.full((260,), float("nan"))
    generation = Generation([1], asking({"regex": "a+"}), lambda event: None, spec.model.tokenizer.stream_decoder(), frozenset(), 50)  # type: ignore[union-attr]
    generation.begin(Constraint(regex="a+").decode(spec).processors, None)
    with pytest.raises(SteelyardError, match="no token can be drawn"):
        generation.drawn(logits, 1)


def test_the_order_of_keys_in_a_requests_schema_is_the_order_in_the_answer(spec):
    turned = {**SCHEMA, "properties": dict(reversed(SCHEMA["properties"].items()))}  # type: ignore[union-attr]
    each = [asking({"json_schema": schema}, max_tokens=380) for schema in (SCHEMA, turned)]
    with Engine.from_spec(spec) as engine:
        answers = engine.generate(["tell me"] * 2, settings=each)
    keys = [list(json.loads(answer.text)) for answer in answers if answer.finish_reason == "stop"]
    assert keys == [["b", "a"], ["a", "b"]][: len(keys)] and keys
