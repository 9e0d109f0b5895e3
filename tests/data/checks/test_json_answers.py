"""JSON in answers, and schemas checked as the package jsonschema does."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import SteelyardError
from steelyard.data.checks.json_answers import find_json, read_json
from steelyard.data.checks.json_schema import matches, unsupported, violations

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(-4, 4, allow_nan=False).map(lambda x: round(x, 1))
    | st.text("ab1", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])


def schemas(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    small = st.integers(0, 3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES, min_size=1, max_size=2, unique=True),
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "const": VALUES,
            "minimum": st.integers(-3, 3),
            "exclusiveMaximum": st.integers(-3, 3),
            "multipleOf": st.integers(1, 3),
            "minLength": small,
            "maxLength": small,
            "pattern": st.sampled_from(["a", "^b", "1$"]),
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "minItems": small,
            "maxItems": small,
            "uniqueItems": st.booleans(),
            "contains": inner,
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
            "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
            "additionalProperties": inner,
            "minProperties": small,
            "maxProperties": small,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
        },
    )


SCHEMAS = st.recursive(st.booleans() | schemas(st.booleans()), schemas, max_leaves=4)


@given(VALUES, SCHEMAS)
def test_a_value_matches_exactly_when_jsonschema_says_so(value: object, schema: object) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    assert unsupported(schema) == []
    assert matches(value, schema) == jsonschema.Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/x"},
        {"format": "date"},
        {"type": "text"},
        {"minimum": "1"},
        {"required": "a"},
        {"properties": {"a": {"if": {}}}},
        {"pattern": "("},
        [],
        {"anyOf": []},
        {"type": []},
        {"minLength": -1},
        {"multipleOf": 0},
        {"items": 3},
    ],
)
def test_what_is_not_supported_is_refused_never_ignored(schema: object) -> None:
    assert unsupported(schema)
    with pytest.raises(SteelyardError):
        violations(1, schema)


def test_a_break_says_where_it_is() -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["name"]}
    assert violations({"age": "x"}, schema) == ["value lacks `name`", "value.age is not integer"]


def test_true_is_not_one_and_one_point_zero_is() -> None:
    assert not matches(True, {"enum": [1]}) and not matches(1, {"const": True})
    assert matches(1.0, {"type": "integer", "const": 1})
    assert matches(0.3, {"multipleOf": 0.1})


def test_a_schema_nested_without_end_is_refused() -> None:
    schema: dict = {}
    for _ in range(200):
        schema = {"not": schema}
    assert unsupported(schema)


@pytest.mark.parametrize("text", ['{"a": 1}', ' {"a": 1}\n', '```json\n{"a": 1}\n```', '```\n{"a": 1}```'])
def test_json_alone_is_seen_as_such(text: str) -> None:
    found = find_json(text)
    assert found is not None and found.alone and found.value == {"a": 1}


@pytest.mark.parametrize("text", ['Here: {"a": 1}', '{"a": 1} I hope this helps', 'x {oops} {"a": 1}', '{"a": 1}{"b": 2}'])
def test_json_with_something_around_it_is_found_but_not_alone(text: str) -> None:
    found = find_json(text)
    assert found is not None and not found.alone and found.value == {"a": 1}


@pytest.mark.parametrize(
    "text", ["", "none", "{a: 1}", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, '{"a": ' * 5000, '{"a": ' + "9" * 5000 + "}"]
)
def test_what_is_not_json_is_not_found(text: str) -> None:
    assert find_json(text) is None


@given(st.text(max_size=100))
def test_any_text_can_be_searched_for_json(text: str) -> None:
    found = find_json(text)
    assert found is None or found.alone or isinstance(found.value, dict | list)  # what stands among words is an object or array


@given(VALUES)
def test_json_reads_back(value: object) -> None:
    assert read_json(json.dumps(value)) == value
