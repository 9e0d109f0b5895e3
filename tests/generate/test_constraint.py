"""Constrained answers match their form, whatever the model would say, alone or beside others, guessed ahead or not."""

from __future__ import annotations

import dataclasses
import json
import random
import re

import pytest
import torch
from tiny_engines import Heard, Script, generation, run_all, scheduler, talker

from steelyard.core import levers
from steelyard.core.errors import RecipeError, SteelyardError, UnsupportedError
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.engine import Engine
from steelyard.generate.processor import View
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.model.model import Model

pytest.importorskip("llguidance", reason="the extra `constraint` is not installed")

from steelyard.generate.constraints.constraint import Constraint, ConstraintSession

PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "Bo"]}, "age": {"type": "integer", "minimum": 0, "maximum": 150}, "well": {"type": "boolean"}},
    "required": ["name", "age", "well"],
    "additionalProperties": False,
}
COMPACT = {"start": 'start: "{" pair ("," pair)* "}"\npair: "a" /[0-9]{1,3}/'}
VIEW = View([], [])


@pytest.fixture(scope="module")
def model() -> Model:
    return talker(20.0, max_position_embeddings=400, num_hidden_layers=1)


@pytest.fixture(scope="module")
def spec(model) -> EngineSpec:
    return EngineSpec(model, deterministic=True, slots=3, dtype="float32", threads=1)


def session(spec: EngineSpec, **form: object) -> ConstraintSession:
    (processor,) = Constraint(**form).decode(dataclasses.replace(spec, processors=())).processors  # type: ignore[arg-type]
    return processor.start(AnswerSettings())  # type: ignore[return-value]


def offered(one: ConstraintSession, rows: int = 260) -> set[int]:
    return set(torch.isfinite(one(torch.zeros(rows), VIEW)).nonzero()[:, 0].tolist())


def test_answers_match_their_schema_and_end_by_themselves(spec):
    with Engine.from_spec(Constraint(json_schema=PERSON).decode(spec)) as engine:
        answers = engine.generate(["a", "bc", "def", "ghij"], max_tokens=380, temperature=1.0)
    assert {answer.finish_reason for answer in answers} <= {"stop", "length"}
    ended = [json.loads(answer.text) for answer in answers if answer.finish_reason == "stop"]
    assert ended and all(list(value) == ["name", "age", "well"] and value["name"] in ("Ada", "Bo") for value in ended)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [({"regex": "(yes|no), [a-f]{2,5}"}, "(yes|no), [a-f]{2,5}"), ({"grammar": COMPACT["start"]}, r"\{a[0-9]{1,3}(,a[0-9]{1,3})*\}")],
)
def test_answers_match_their_regex_or_grammar(spec, form, pattern):
    with Engine.from_spec(Constraint(**form).decode(spec)) as engine:
        for seed in range(4):
            (answer,) = engine.generate(["tell me"], max_tokens=300, temperature=1.0, seed=seed)
            assert answer.finish_reason == "length" or re.fullmatch(pattern, answer.text)


def test_what_is_allowed_keeps_its_logits_and_the_models_own_confidence_is_untouched(spec):
    logits = torch.randn(260)
    kept = session(spec, regex="[ab]+")(logits, VIEW)
    chosen = [index for index in range(260) if torch.isfinite(kept[index])]
    assert len(chosen) == 2 and torch.equal(kept[chosen], logits[chosen])
    with Engine.from_spec(Constraint(regex="(yes|no)").decode(spec)) as engine, Engine.from_spec(spec) as plain:
        (answer,) = engine.generate(["is it?"], max_tokens=5)
        (score,) = plain.score([("is it?", answer.text)])
    assert sum(answer.logprobs) == pytest.approx(score.logprob, abs=1e-4)


def test_the_end_token_comes_exactly_where_the_form_may_end_and_special_tokens_never(spec, model):
    (end,) = model.tokenizer.eos_ids
    one = session(spec, regex="(ab)+c?")
    for letter, ends in (("a", False), ("b", True), ("a", False), ("b", True), ("c", True)):
        one.advance(*model.tokenizer.encode(letter))
        assert (end in offered(one)) is ends
        assert not offered(one) & (model.tokenizer.special_ids - {end})
    assert offered(one) == {end}
    free = offered(session(spec, regex="(?s:.*)"))
    assert free & model.tokenizer.special_ids == {end}


@pytest.mark.parametrize("form", [{"json_schema": PERSON}, {"regex": "[a-z]+( [a-z]+)*"}, {"grammar": COMPACT["start"]}])
def test_going_back_leads_to_where_it_was(spec, model, form):
    """Random steps forward and back end where the steps that count lead."""
    dice, (end,) = random.Random(5), model.tokenizer.eos_ids
    one, path = session(spec, **form), []
    for _ in range(60):
        if path and dice.random() < 0.35:
            back = dice.randint(1, len(path))
            one.rewind(back)
            del path[-back:]
        choices = sorted(offered(one) - {end})
        if choices:
            path.append(dice.choice(choices))
            one.advance(path[-1])
    again = session(spec, **form)
    for token in path:
        again.advance(token)
    assert offered(one) == offered(again)


def test_guesses_and_company_change_nothing(spec, model):
    """Prompt lookup on, several at once: the same text, tokens and endings as alone without."""
    constrained = Constraint(json_schema=PERSON).decode(spec)
    plain, guessing = scheduler(constrained), scheduler(PromptLookup(tokens=6, longest=3, shortest=1).decode(constrained))
    quoted = '{"name": "Ada", "age": 7, "well": true}' * 3
    dice, passes, tokens = random.Random(1), 0, 0
    for _ in range(8):
        wanted = [
            AnswerSettings(
                max_tokens=dice.randint(20, 90),
                temperature=dice.choice([0.0, 0.8]),
                seed=dice.randrange(99),
                repetition_penalty=dice.choice([1.0, 1.1]),
                token_events=True,
            )
            for _ in range(3)
        ]
        heard = {True: [Heard() for _ in wanted], False: [Heard() for _ in wanted]}
        for alone, turns in ((True, plain), (False, guessing)):
            for one, ear in zip(wanted, heard[alone], strict=True):
                turns.add(generation(model, quoted, one, ear, 400))
                if alone:
                    run_all(turns)
            run_all(turns)
        for one, other in zip(heard[True], heard[False], strict=True):
            assert one.failure is None and one.said == other.said
            passes, tokens = passes + other.usage.verified, tokens + one.usage.verified
    assert tokens / passes > 1.2, "too few guesses were right for this to show anything"


def test_an_answer_cut_off_says_so_and_is_no_failure(spec):
    with Engine.from_spec(Constraint(json_schema=PERSON).decode(spec)) as engine:
        (answer,) = engine.generate(["a"], max_tokens=5)
    assert answer.finish_reason == "length"


def test_a_stop_string_that_cuts_the_form_is_a_failure_that_says_so(spec):
    with Engine.from_spec(Constraint(json_schema=PERSON).decode(spec)) as engine:
        with pytest.raises(SteelyardError, match="breaks its constraint: not valid JSON"):
            engine.generate(["a"], max_tokens=300, stop=("name",))
        (answer,) = engine.generate(["a"], max_tokens=5)  # the others go on
        assert answer.finish_reason == "length"


def test_going_on_past_the_end_is_refused(spec):
    with Engine.from_spec(Constraint(regex="a").decode(spec)) as engine, pytest.raises(SteelyardError, match="ignore_eos"):
        engine.generate(["a"], max_tokens=5, ignore_eos=True)


def test_a_later_processor_that_breaks_the_form_is_told(spec):
    processors = [*Constraint(regex="[0-9]+").decode(spec).processors, Script([65], 65)]
    with Engine(spec.model, processors=processors) as engine, pytest.raises(SteelyardError, match="cannot go on with token 65"):
        engine.generate(["a"], max_tokens=5)


def test_nothing_asked_for_changes_nothing(spec):
    assert Constraint().decode(spec) is spec
    assert levers.make(Constraint, Constraint.identity, "test").decode(spec) is spec  # type: ignore[attr-defined]


def test_only_one_form_may_be_given():
    with pytest.raises(RecipeError, match="only one of json_schema, regex and grammar may be given, not json_schema and regex"):
        levers.make(Constraint, {"json_schema": {}, "regex": "a"}, "test")


def test_a_schema_may_lie_in_a_file_and_counts_by_what_it_says(spec, tmp_path):
    path = tmp_path / "person.json"
    path.write_text(json.dumps(PERSON), encoding="utf-8")
    inside, beside = Constraint(json_schema=PERSON), Constraint(json_schema=path)
    assert inside.fingerprint == beside.fingerprint
    assert inside.decode(spec).fingerprint == beside.decode(spec).fingerprint != spec.fingerprint
    assert inside.fingerprint != Constraint(json_schema={}).fingerprint


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read"), ("{", "not valid JSON"), ("[]", "a schema is a JSON object")])
def test_a_file_that_holds_no_schema_is_named(spec, tmp_path, content, words):
    path = tmp_path / "schema.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(SteelyardError, match=words) as raised:
        Constraint(json_schema=path).decode(spec)
    assert str(path) in str(raised.value)


def keyed(name):
    """An object whose one key holds what a definition says."""
    return {"type": "object", "properties": {"c": {"$ref": f"#/$defs/{name}"}}, "required": ["c"]}


UNHONOURED = [
    ({"json_schema": {"not": {"type": "string"}}}, 'Unimplemented keys: \\["not"\\]'),
    ({"json_schema": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
    ({"json_schema": {"type": "string", "format": "colour"}}, "Unknown format: colour"),
    (
        {"json_schema": {"oneOf": [{"minimum": 1}, {"type": "number"}]}},
        "oneOf is supported only where its alternatives are seen to exclude one another",
    ),
    ({"json_schema": {"type": "word"}}, "not a valid schema: 'word'"),
    ({"json_schema": {"$schema": "http://example.org/mine"}}, "the draft 'http://example.org/mine' is not supported"),
    ({"json_schema": {"$ref": "http://example.org/other"}}, "example.org/other"),
    ({"json_schema": {"x-guidance": {"lenient": True}, "not": {}}}, "`x-guidance` is not supported"),
    ({"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}}, "Unsatisfiable"),
    ({"json_schema": {"const": float("nan")}}, "cannot be written as JSON"),
    ({"json_schema": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}}, "refers to itself without end"),
    ({"json_schema": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "refers to itself without end"),
    ({"json_schema": {"$ref": "file:///etc/hosts"}}, "file:///etc/hosts"),
    ({"json_schema": {"const": 10**400}}, "number out of range"),
    ({"json_schema": {"type": "number", "multipleOf": 1e-300}}, "too many digits"),
    ({"json_schema": {"enum": []}}, "Unsatisfiable"),
    ({"json_schema": {"type": "string", "minLength": 5, "maxLength": 2}}, "minLength \\(5\\) is greater than maxLength"),
    ({"json_schema": {"type": "object", "properties": {"c": {"$ref": "#"}}, "required": ["c"]}}, "ever ends"),
    ({"json_schema": {"type": "array", "items": {"$ref": "#"}, "minItems": 1}}, "ever ends"),
    ({"json_schema": {"$defs": {"a": keyed("b"), "b": {"anyOf": [keyed("a"), keyed("b")]}}, "$ref": "#/$defs/a"}}, "ever ends"),
    ({"regex": "[a&&b]"}, "no text matches it"),
    ({"regex": "$^"}, "lookarounds"),
    ({"regex": "(?=a)b"}, "look-around"),
    ({"regex": r"(a)\1"}, "backreferences"),
    ({"regex": "["}, "unclosed character class"),
    ({"grammar": " "}, "it is empty"),
    ({"grammar": 'start: "a" <|im_end|>'}, "may not write special tokens \\(<\\|im_end\\|>\\)"),
    ({"grammar": 'start: "a" <[258]>'}, "special tokens"),
    ({"grammar": "start[temperature=0.5]: /a+/"}, "`temperature` is not supported"),
    ({"grammar": 'start: a "x"\na[max_tokens=3]: /a+/'}, "`max_tokens` is not supported"),
    ({"grammar": "start: foo"}, "foo"),
    ({"grammar": '{"grammars": []}'}, "a grammar in JSON"),
    ({"grammar": 'start: %json {"x-guidance": {"lenient": true}, "not": {}}'}, "not"),
]


@pytest.mark.parametrize(("form", "words"), UNHONOURED, ids=[str(form)[:50] for form, _ in UNHONOURED])
def test_what_cannot_be_honoured_is_refused_by_name_before_anything_runs(spec, form, words):
    with pytest.raises(UnsupportedError) as raised:
        Constraint(**form).decode(spec)
    assert re.search(words, raised.value.what) and raised.value.where and raised.value.do


def test_quoted_text_is_no_special_token(spec, model):
    one = session(spec, grammar='start: "<|im_end|>" /<[0-9]>/ // <[1]>')
    for token in model.tokenizer.encode("<|im_end|><3>", special=False):
        assert token in offered(one)
        one.advance(token)
    assert offered(one) == set(model.tokenizer.eos_ids)


def _chain(length: int) -> dict:
    steps = {f"d{i}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(length)}
    return {"$defs": steps | {f"d{length}": {}}, "$ref": "#/$defs/d0"}


def _nested(levels: int) -> dict:
    schema: dict = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


HOSTILE = {
    "nested": {"json_schema": _nested(900)},
    "a chain of references": {"json_schema": _chain(2500)},
    "a product of choices": {"json_schema": {"allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for j in range(9)]} for i in range(9)]}},
    "many values": {"json_schema": {"enum": [f"value {i}" for i in range(100_000)]}},
    "many keys to choose from": {"json_schema": {"properties": {f"k{i}": {} for i in range(1500)}, "additionalProperties": False}},
    "many rules": {"grammar": "start: a0\n" + "\n".join(f'a{i}: "x" a{i + 1}' for i in range(6000)) + '\na6000: "y"'},
    "deep brackets": {"regex": "(" * 5000 + "a" + ")" * 5000},
    "an endless intersection": {"grammar": "start: A\nA: " + " & ".join(f"/.*(a|b).{{{i}}}c.*/" for i in range(30))},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_absurd_forms_end_in_an_error(spec, monkeypatch, name):
    monkeypatch.setattr("steelyard.generate.constraints.trial.LONGEST", 2.0)
    with pytest.raises(UnsupportedError, match="deep|large|nest|at most|items; max is|longer than 2 s"):
        Constraint(**HOSTILE[name]).decode(spec)
    assert len(offered(session(spec, regex="a"))) == 1  # and the next one is served


@pytest.mark.parametrize("form", [{"regex": "a{1000000}"}, {"grammar": 'start: "a"{1000000}'}, {"regex": "((a{0,100}){0,100}){0,100}b"}])
def test_forms_that_grow_while_they_are_followed_fail_their_own_request_or_end(spec, form):
    with Engine.from_spec(Constraint(**form).decode(spec)) as engine:
        try:
            (answer,) = engine.generate(["a"], max_tokens=60)
        except SteelyardError as error:
            assert "cannot go on" in error.what
        else:
            assert answer.finish_reason in ("length", "stop")


def test_a_model_without_an_end_token_is_refused(spec, model):
    endless = dataclasses.replace(model, tokenizer=dataclasses.replace(model.tokenizer, eos_ids=()))
    with pytest.raises(UnsupportedError, match="end token"):
        Constraint(regex="a").decode(dataclasses.replace(spec, model=endless))


def test_two_constraints_are_refused_and_speculation_is_not():
    one = Constraint(regex="a")
    levers.check_chain([one, PromptLookup()], {"weights"}, "test")
    with pytest.raises(RecipeError, match="conflicts"):
        levers.check_chain([one, Constraint(regex="b")], {"weights"}, "test")


def test_a_missing_package_is_named_with_its_remedy(spec, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match="constraints need llguidance and jsonschema") as raised:
        Constraint(regex="a").decode(spec)
    assert raised.value.do == 'Run: pip install "steelyard[constraint]"'
