"""What schemas promise is what constraints hold to: on random schemas, on real ones, and on the specification's own cases."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_talker import tiny_talker

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.processor import View
from steelyard.generate.spec import EngineSpec

pytest.importorskip("llguidance", reason="the extra `constraint` is not installed")
pytest.importorskip("jsonschema", reason="the extra `constraint` is not installed")

import jsonschema

from steelyard.generate.constraints import schemas
from steelyard.generate.constraints.constraint import Constraint
from steelyard.generate.constraints.grammars import of_schema
from steelyard.generate.constraints.plainer import impossible, plainer


@functools.cache
def spec() -> EngineSpec:
    return EngineSpec(tiny_talker())


def taken(schema: Any, text: str) -> bool:
    """Whether a text goes through token by token, each of them offered, and the end token after the last."""
    (processor,) = Constraint(json_schema=schema).decode(spec()).processors
    session, view = processor.start(AnswerSettings()), View([], [])
    tokenizer = spec().model.tokenizer
    assert session is not None and tokenizer is not None
    for token in [*tokenizer.encode(text, special=False), *tokenizer.eos_ids]:
        if not torch.isfinite(session(torch.zeros(260), view)[token]):
            return False
        if token not in tokenizer.eos_ids:
            session.advance(token)
    return True


# Random schemas, each with a value made for it

KEYS = st.text(alphabet='ab"\\é语_', min_size=1, max_size=4)
TEXTS = st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\x7f"), max_size=8)
"""Any text but the control character DELETE, which llguidance admits as an escape only."""


@st.composite
def pairs(draw: st.DrawFn, depth: int = 2) -> tuple[Any, Any]:
    """(schema, value that matches it), the value's keys in the schema's order."""
    kinds = ["string", "short", "integer", "number", "boolean", "null", "enum", "const", "any", "pattern", "multiple"]
    kind = draw(st.sampled_from([*kinds, *(["array", "tuple", "object", "anyOf", "$ref"] if depth else [])]))
    match kind:
        case "string":
            return {"type": "string"}, draw(TEXTS)
        case "short":
            text = draw(TEXTS)
            return {"type": "string", "minLength": draw(st.integers(0, len(text))), "maxLength": len(text) + draw(st.integers(0, 2))}, text
        case "integer":
            value, low, high = draw(st.integers(-1000, 1000)), draw(st.integers(0, 50)), draw(st.integers(0, 50))
            return {"type": "integer", "minimum": value - low, "maximum": value + high}, value
        case "number":
            value = draw(st.integers(-(10**6), 10**6)) / 100
            return {"type": "number"}, value
        case "multiple":
            step = draw(st.integers(1, 60))
            return {"type": "integer", "multipleOf": step}, step * draw(st.integers(0, 40))
        case "boolean":
            return {"type": "boolean"}, draw(st.booleans())
        case "null":
            return {"type": "null"}, None
        case "enum":
            values = draw(st.lists(TEXTS | st.integers(-9, 9) | st.booleans() | st.none(), min_size=1, max_size=4))
            return {"enum": values}, draw(st.sampled_from(values))
        case "const":
            value = draw(TEXTS | st.integers(-9, 9))
            return {"const": value}, value
        case "any":
            return {}, draw(TEXTS | st.lists(st.integers(0, 9), max_size=2))
        case "pattern":
            return {"type": "string", "pattern": "^[a-c]+-[0-9]{2}$"}, draw(st.from_regex("[a-c]{1,3}-[0-9]{2}", fullmatch=True))
        case "array":
            inner, value = draw(pairs(depth - 1))
            count = draw(st.integers(0, 3))
            return {"type": "array", "items": inner, "minItems": draw(st.integers(0, count)), "maxItems": count + 1}, [value] * count
        case "tuple":
            both = draw(st.lists(pairs(depth - 1), min_size=1, max_size=3))
            return {"type": "array", "prefixItems": [s for s, _ in both], "items": False, "minItems": len(both)}, [v for _, v in both]
        case "object":
            fields = draw(st.dictionaries(KEYS, pairs(depth - 1), max_size=3))
            needed = [key for key in fields if draw(st.booleans())]
            shown = {key: value for key, (_, value) in fields.items() if key in needed or draw(st.booleans())}
            closed = {"additionalProperties": False} if draw(st.booleans()) else {}
            return {"type": "object", "properties": {key: s for key, (s, _) in fields.items()}, "required": needed, **closed}, shown
        case "anyOf":
            both = draw(st.lists(pairs(depth - 1), min_size=1, max_size=3))
            return {"anyOf": [s for s, _ in both]}, both[0][1]
        case _:
            inner, value = draw(pairs(0))
            return {"type": "object", "properties": {"one": inner}, "required": ["one"]}, {"one": value}


@settings(max_examples=120, deadline=None)
@given(pair=pairs(), other=pairs(), indent=st.sampled_from([None, 2]))
def test_what_matches_goes_through_and_what_does_not_is_stopped(pair, other, indent):
    (schema, value), (_, stranger) = pair, other
    try:
        of_schema(schema)
    except UnsupportedError as error:
        assert error.where == "json_schema"
        return
    assert taken(schema, json.dumps(value, indent=indent, ensure_ascii=False))
    if not jsonschema.Draft202012Validator(schema).is_valid(stranger):
        assert not taken(schema, json.dumps(stranger, ensure_ascii=False))


@settings(max_examples=25, deadline=None)
@given(pair=pairs(), seed=st.integers(0, 2**32))
def test_whatever_is_drawn_at_random_matches_once_it_may_end(pair, seed):
    """A model that says anything: short of the budget of tokens, its answer is valid JSON of the schema."""
    schema, _ = pair
    try:
        (processor,) = Constraint(json_schema=schema).decode(spec()).processors
    except UnsupportedError:
        return
    dice, session, tokens = random.Random(seed), processor.start(AnswerSettings()), []
    tokenizer = spec().model.tokenizer
    assert session is not None and tokenizer is not None
    for _ in range(120):
        offered = torch.isfinite(session(torch.zeros(260), View([], []))).nonzero()[:, 0].tolist()
        ends = [token for token in offered if token in tokenizer.eos_ids]
        if ends and (len(offered) == 1 or dice.random() < 0.3):
            text = tokenizer.decode(tokens)
            assert jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))
            assert schemas.complaint(text, schema) is None
            return
        tokens.append(dice.choice([token for token in offered if token not in ends]))
        session.advance(tokens[-1])


def test_strange_but_honest_schemas_are_honoured():
    """(schema, what matches, what does not), each written as JSON."""
    tree = {"$defs": {"n": {"properties": {"c": {"items": {"$ref": "#/$defs/n"}}}, "type": "object"}}, "$ref": "#/$defs/n"}
    for schema, right, wrong in [
        ({}, "[null]", "[nul]"),
        (True, "-1e5", "-"),
        ({"const": "a\u0000b"}, '"a\\u0000b"', '"a\u0000b"'),
        ({"const": "\u2028\U0001f600\x7f"}, '"\u2028\U0001f600\\u007f"', '"\u2028\U0001f600"'),
        ({"type": "object", "properties": {"\u0000": {"const": 1}}, "required": ["\u0000"]}, '{"\\u0000": 1}', "{}"),
        ({"type": "string", "pattern": "^\\u00e9{1,3}$"}, '"éé"', '"e"'),
        ({"type": "string", "maxLength": 2.0}, '"ab"', '"abc"'),
        ({"type": "array", "maxItems": 10**18}, "[1, 2]", "1"),
        ({"enum": [f"v{i:05}" for i in range(26_000)]}, '"v25999"', '"v26000"'),
        ({"type": "integer", "maximum": 10**300}, "123", "1e400"),
        (tree, '{"c": [{"c": []}, {}]}', '{"c": [[]]}'),
    ]:
        grammar = of_schema(schema)
        assert grammar.accepts(right) and schemas.complaint(right, schema) is None
        assert not grammar.accepts(wrong)


# Alternatives


def keyed(value: Any, **others: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"k": {"const": value}, **others}, "required": ["k"]}


REFERRING = {"oneOf": [{"$ref": "#/$defs/a%20b"}, {"$ref": "#/$defs/c~1d"}]}


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"oneOf": [{"const": 1}, {"const": 2}], "type": "number"}, ["1", "2"], ["3", '"1"']),
        ({"oneOf": [{"const": 1}, {"const": True}, {"const": "1"}]}, ["1", "true", '"1"'], ["false"]),
        ({"oneOf": [{"enum": [1, 2]}, {"enum": [3.5]}]}, ["2", "3.5"], ["3"]),
        ({"oneOf": [{"type": "integer", "maximum": 3}, {"type": "number", "exclusiveMinimum": 3}]}, ["3", "3.5"], ["2.5"]),
        (REFERRING | {"$defs": {"a b": keyed("a"), "c/d": keyed("b", x={"const": 1})}}, ['{"k": "a"}', '{"k": "b", "x": 1}'], ['{"k": "c"}']),
        (REFERRING | {"$defs": {"a b": {"type": "string"}, "c/d": {"type": "null"}}}, ['"x"', "null"], ["1"]),
        ({"type": "object", "oneOf": [{"required": ["a"], "properties": {"a": {"const": n}}} for n in (1, 2)]}, ['{"a": 2}'], ['{"a": 3}']),
        (
            {"type": "object", "oneOf": [{"properties": {"a": False}}, {"required": ["a"], "properties": {"b": False}}]},
            ['{"b": 1}', '{"a": 1}', '{"c": 1}'],
            ['{"a": 1, "b": 1}'],
        ),
        ({"anyOf": [{"const": 1}, {"const": 2}], "oneOf": [{"const": 2}, {"const": 3}]}, ["2"], ["1", "3"]),
        ({"type": "array", "items": {"oneOf": [{"maximum": 0}, {"minimum": 1}], "type": "integer"}, "uniqueItems": False}, ["[0, 1, 1]"], ["[1.5]"]),
    ],
    ids=str,
)  # fmt: skip
def test_alternatives_that_exclude_one_another_are_honoured(schema, right, wrong):
    grammar = of_schema(schema)
    assert all(grammar.accepts(text) and schemas.complaint(text, schema) is None for text in right)
    assert not any(grammar.accepts(text) for text in wrong)


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"const": 1}, {"const": 1.0}]},
        {"oneOf": [{"type": "integer", "maximum": 3}, {"type": "number", "minimum": 3}]},
        {"oneOf": [{"minimum": 4}, {"maximum": 3}]},  # of numbers alone: text matches both
        {"oneOf": [{"properties": {"k": {"const": n}}, "required": ["k"]} for n in (1, 2)]},  # and so it does here
        {"type": "object", "oneOf": [{"properties": {"k": {"const": n}}} for n in (1, 2)]},
        {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"oneOf": [{"$ref": "#"}, {"type": "integer"}]},
        REFERRING | {"$defs": {"a b": keyed(1), "c/d": {"$id": "http://example.org/", **keyed(2)}}},  # references lead elsewhere
        {"const": {"oneOf": []}, "oneOf": [{"type": "object"}, {}]},
    ],
    ids=str,
)
def test_alternatives_of_which_two_may_match_are_refused_by_name(schema):
    with pytest.raises(UnsupportedError, match=r"oneOf is supported only where its alternatives are seen to exclude|itself without end"):
        of_schema(schema)


@settings(max_examples=200, deadline=None)
@given(one=pairs(), other=pairs())
def test_what_is_taken_for_exclusive_is(one, other):
    either = [one[0], other[0]]
    if "anyOf" in plainer({"oneOf": either}):
        for _, value in (one, other):
            assert sum(jsonschema.Draft202012Validator(schema).is_valid(value) for schema in either) == 1


TREE = {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (TREE, '{"left": {}}'),
        (TREE | {"properties": {"left": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["left"]}, '{"left": {"left": null}}'),
        ({"type": "array", "items": {"$ref": "#"}}, "[[], [[]]]"),
        ({"$defs": {"a": {**keyed(0, k={"$ref": "#/$defs/a"}), "type": ["object", "string"]}}, "$ref": "#/$defs/a"}, '{"k": "x"}'),
        ({"type": "array", "prefixItems": [{"type": "null"}], "items": {"$ref": "#"}, "minItems": 1}, "[null]"),
    ],
    ids=str,
)
def test_what_holds_its_own_kind_and_may_end_is_honoured(schema, text):
    """Whereas what must hold its own kind is refused (tests/generate/test_constraint.py)."""
    assert of_schema(schema).accepts(text) and schemas.complaint(text, schema) is None


@settings(max_examples=200, deadline=None)
@given(one=pairs())
def test_what_is_taken_for_impossible_has_no_value(one):
    schema, value = one
    assert not (impossible(schema) and jsonschema.Draft202012Validator(schema).is_valid(value))


NAMES = ("a", "b", "c")


@st.composite
def definitions(draw):
    """Three schemas that refer to one another, and for each how its values are made: kind, and the names it needs."""
    made = {}
    for name in NAMES:
        kind, needs = (
            draw(st.sampled_from(["null", "object", "array", "any", "all"])),
            draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2)),
        )
        made[name] = kind, needs
    return made


def in_words(kind, needs):
    refer = [{"$ref": f"#/$defs/{name}"} for name in needs]
    return {
        "null": {"type": "null"},
        "object": {"type": "object", "properties": dict(zip("xy", refer, strict=False)), "required": list("xy")[: len(refer)]},
        "array": {"type": "array", "items": refer[0], "minItems": 1},
        "any": {"anyOf": refer},
        "all": {"type": "array", "items": refer[0]},  # which may be empty
    }[kind]


@settings(max_examples=300, deadline=None)
@given(definitions())
def test_what_can_never_end_is_seen(made):
    """Against the least fixed point: what has a value, because all or one of what it needs have one."""
    has = set()
    for _ in NAMES:
        for name, (kind, needs) in made.items():
            there = [need in has for need in needs]
            if {"null": True, "all": True, "object": all(there), "array": there[0], "any": any(there)}[kind]:
                has.add(name)
    schema = {"$defs": {name: in_words(*how) for name, how in made.items()}, "$ref": "#/$defs/a"}
    assert impossible(schema) == ("a" not in has)


# The check of finished answers

FORM = {"type": "object", "properties": {"a": {"type": "integer"}}, "patternProperties": {"^x": {"type": "string"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1', "not valid JSON"),
        ('{"a": 1} and more', "not valid JSON"),
        ('{"a": 1, "a": 2}', "`a` appears twice"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": "1"}', "a: '1' is not of type 'integer'"),
        ('{"a": 1, "x1": 2}', "x1: 2 is not of type 'string'"),
        ("{}", "'a' is a required property"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deep"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
)
def test_a_finished_answer_that_breaks_its_schema_is_told_why(text, words):
    assert words in (schemas.complaint(text, FORM) or "")


def test_a_key_that_comes_twice_is_an_error_that_says_how_to_keep_it_from_coming():
    schema = {"type": "object", "properties": {"b": {"type": "integer"}}, "additionalProperties": {"type": "integer"}}
    repeated, opened, closed = '{"a": 1, "a": 2}', of_schema(schema), of_schema(schema | {"additionalProperties": False})
    assert opened.accepts(repeated) and not closed.accepts('{"b": 1, "b": 2}')
    with pytest.raises(SteelyardError, match=r"(?s)`a` appears twice.*Close objects with `additionalProperties: false`"):
        opened.check(repeated)


def test_a_finished_answer_that_matches_is_told_nothing():
    assert schemas.complaint('{"a": 1, "x1": "y", "b": null}', FORM) is None
    assert schemas.complaint("0.3", {"multipleOf": 0.1}) is None
    assert schemas.complaint('{"xy": 1}', {"patternProperties": {"^x": True}, "additionalProperties": False}) is None
    assert schemas.complaint('{"y": 1}', {"patternProperties": {"^x": True}, "additionalProperties": False}) is not None


def test_a_pattern_that_would_take_for_ever_takes_no_time():
    assert schemas.complaint(json.dumps("a" * 5000), {"pattern": "^(a+)+$"}) is None
    assert "does not match" in (schemas.complaint(json.dumps("a" * 5000 + "!"), {"pattern": "^(a|a?)+$"}) or "")


def test_definitions_that_double_at_every_level_use_up_the_budget():
    double = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(30)}
    schema = {"$defs": double | {"d30": {"type": "object"}}, "$ref": "#/$defs/d0"}
    assert schemas.complaint("{}", schema) == f"checking it takes more than {schemas.BUDGET} steps"


# Real schemas and the specification's cases

EVERY = 8
"""One schema of so many is tried token by token; the others byte by byte, which is quicker."""


def cases(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / name
    if not path.exists():
        pytest.skip(f"{name} is not in {folder}")
    if path.is_dir():
        return [{"name": file.stem, **group} for file in sorted(path.glob("*.json")) for group in json.loads(file.read_text("utf-8"))]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def other_spelling(schema: Any, data: Any) -> bool:
    """Values that match a schema and are not offered: integers written with a point, keys in another order than the schema's."""
    text = json.dumps(data)
    return ".0" in text or isinstance(data, dict)


@pytest.mark.parametrize(("name", "supported", "valid"), [("maskbench_dev.jsonl", 265, 332), ("json_schema_tests", 145, 250)])
def test_valid_instances_go_through_and_invalid_ones_do_not(shared_data, name, supported, valid, record_property):
    groups = cases(shared_data, name)
    refused, through, missed, total = 0, 0, [], 0
    for number, group in enumerate(groups):
        try:
            grammar = of_schema(group["schema"])
        except SteelyardError as error:
            assert isinstance(error, UnsupportedError) and error.what and str(error.where).startswith("json_schema") and error.do
            refused += 1
            continue
        for test in group["tests"]:
            text = json.dumps(test["data"], ensure_ascii=False)
            slowly = number % EVERY == 0 and isinstance(group["schema"], dict) and len(text) < 400
            passes = taken(group["schema"], text) if slowly else grammar.accepts(text)
            if not test["valid"]:
                assert not passes, (group["name"], test["description"])
            else:
                assert schemas.complaint(text, group["schema"]) is None, (group["name"], test["description"])
                total, through = total + 1, through + passes
                missed += [] if passes or other_spelling(group["schema"], test["data"]) else [(group["name"], test["description"])]
    record_property("refused, through, valid", (refused, through, total))
    assert not missed or name == "json_schema_tests" and {where for where, _ in missed} <= {"enum"}, missed
    assert len(groups) - refused >= supported and through >= valid
    if name == "maskbench_dev.jsonl":
        assert through == total


def test_unsupported_schemas_of_maskbench_are_refused_by_name(shared_data):
    """Whatever uses a keyword that is not honoured is refused, and the reason names it."""
    unknown = ("not", "uniqueItems", "contains", "dependencies", "propertyNames", "if")
    seen = set()
    for group in cases(shared_data, "maskbench_dev.jsonl"):
        schema = group["schema"]
        present = [key for key in unknown if isinstance(schema, dict) and key in schema]
        if present:
            with pytest.raises(UnsupportedError) as raised:
                of_schema(schema)
            assert any(f'"{key}"' in raised.value.what for key in present) or "oneOf" in raised.value.what, raised.value.what
            seen |= set(present)
    assert seen
