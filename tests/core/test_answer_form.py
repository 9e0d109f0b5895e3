"""The form an answer must have travels in its settings: read from a mapping, kept as text, told apart by what it says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.answer_form import AnswerForm
from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import AnswerSettings

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3),
    max_leaves=12,
)


def asking(constraint: Any) -> AnswerSettings:
    return AnswerSettings(constraint=constraint)


@given(schema=st.dictionaries(st.text(st.characters(codec="utf-8")), PLAIN, max_size=4))
def test_a_schema_stays_what_it_was_and_settings_with_it_can_be_hashed(schema):
    settings = asking({"json_schema": schema})
    form = settings.constraint
    assert form is not None and list(json.loads(form.source).items()) == list(schema.items())  # the order of keys counts
    assert hash(settings) == hash(asking(form)) and settings == asking({"json_schema": schema})


def test_a_text_is_kept_as_it_is():
    assert asking({"regex": "\\d\n"}).constraint == AnswerForm("regex", "\\d\n")
    assert asking({"grammar": 'start: "a"'}).constraint == AnswerForm("grammar", 'start: "a"')
    assert AnswerSettings().constraint is None


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        ({}, "one of json_schema, regex, grammar, not nothing"),
        ({"regex": "a", "grammar": "b"}, "not regex and grammar"),
        ({"json": {}}, "not json"),
        ("yes|no", "not 'yes|no'"),
        (7, "not 7"),
        ({"regex": {}}, "regex is {}, not a text"),
        ({"json_schema": "{}"}, "json_schema is '{}', not an object"),
        ({"json_schema": None}, "json_schema is None"),
        ({"json_schema": {"const": float("inf")}}, "cannot be written as JSON"),
        ({"json_schema": {"const": {1, 2}}}, "cannot be written as JSON"),
        ({"json_schema": {"const": "\ud800"}}, "cannot be written as JSON"),
        ({"regex": "\ud800"}, "not Unicode"),
    ],
)
def test_what_is_no_form_is_refused_where_it_is_said(constraint, words):
    with pytest.raises(SteelyardError) as raised:
        asking(constraint)
    assert words in raised.value.what and raised.value.where and raised.value.do


@pytest.mark.parametrize(("kind", "source"), [("bogus", "x"), ("regex", 5), ("json_schema", {}), (None, None)])
def test_a_form_made_by_hand_is_looked_at_too(kind, source):
    with pytest.raises(SteelyardError, match="no form of an answer"):
        AnswerForm(kind, source)


def test_a_schema_nested_too_deep_is_refused():
    schema: dict = {}
    for _ in range(10_000):
        schema = {"items": schema}
    with pytest.raises(SteelyardError, match="nested too deep"):
        asking({"json_schema": schema})
