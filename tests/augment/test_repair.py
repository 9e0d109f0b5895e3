"""Repair: faults that can be told without the right answer, and asking again with them named."""

from __future__ import annotations

import asyncio
import json

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.augment.repair.faults import fixed_json, json_faults, regex_faults, support_faults
from steelyard.augment.repair.repair import Repair
from steelyard.augment.retrieve.retrieve import Retrieve
from steelyard.core.errors import ContextLengthError, RecipeError, UnsupportedError
from steelyard.core.levers import make
from steelyard.core.protocols import AnswerSettings, Done, Failure, Message, Score, Text, Token, Usage, collect
from steelyard.core.references import IndexRef

SCHEMA = {
    "type": "object",
    "properties": {"nights": {"type": "integer"}, "parking": {"type": "boolean"}, "bed": {"enum": ["single", "double"]}},
    "required": ["nights", "parking"],
    "additionalProperties": False,
}
GOOD = '{"nights": 4, "parking": true}'
ASKED = (Message("system", "You fill in forms."), Message("user", "Four nights, with the car."))


class Scripted:
    """Says one thing after another; what it was asked is kept."""

    fingerprint = "scripted"

    def __init__(self, *says: str, scores: bool = False, reason: str = "stop", fails_at: int | None = None, longest: int | None = None):
        self.says, self.reason, self.fails_at, self.longest = says, reason, fails_at, longest
        self.asked: list[list[Message]] = []
        self.with_settings: list[AnswerSettings] = []
        self.capabilities = frozenset({"score"} if scores else ())

    async def answer(self, conversation, settings):
        if self.longest is not None and sum(len(message.content) for message in conversation) > self.longest:
            raise ContextLengthError("too long")
        number = len(self.asked)
        self.asked.append(list(conversation))
        self.with_settings.append(settings)
        if number == self.fails_at:
            yield Failure("the line is dead")
            yield Done("error")
            return
        text = self.says[min(number, len(self.says) - 1)]
        for piece in (text[:3], text[3:]):
            if piece:
                yield Token(1, piece, -0.1, 0.1, -0.1)
                yield Text(piece)
        yield Usage(10, len(text), 1, 2)
        yield Done(self.reason)  # type: ignore[arg-type]

    async def score(self, conversation, continuations):
        return [Score(-1.0, False, 1, len(text)) for text in continuations]


def answered(lever: Repair, inner: Scripted, conversation=ASKED, **how):
    return asyncio.run(collect(lever.wrap(inner).answer(conversation, AnswerSettings(**how))))


def repair(**how) -> Repair:
    return Repair.model_validate({"json_schema": SCHEMA, "fix": False} | how)


def test_the_fault_is_named_with_the_question_and_the_mended_answer_given() -> None:
    inner = Scripted('{"nights": 4, "car": "yes"}', GOOD)
    answer = answered(repair(), inner)
    assert answer.text == GOOD and answer.reason == "stop"
    again = inner.asked[1]
    assert [message.role for message in again] == ["system", "user"] and again[0] == ASKED[0]
    assert again[1].content.startswith("Four nights, with the car.\n\n")
    assert "lacks `parking`" in again[1].content and "answer.car is not allowed" in again[1].content
    assert answer.usage == Usage(20, len(inner.says[0]) + len(GOOD), 2, 4)
    assert "".join(token.text for token in answer.tokens) == GOOD
    assert inner.with_settings[0].seed != inner.with_settings[1].seed


def test_shown_answers_stand_in_the_conversation() -> None:
    inner = Scripted("No idea.", GOOD)
    assert answered(repair(show=True), inner).text == GOOD
    assert [message.role for message in inner.asked[1]] == ["system", "user", "assistant", "user"]
    assert inner.asked[1][2].content == "No idea." and "it is not JSON" in inner.asked[1][3].content


def test_a_sound_answer_costs_nothing_however_wrong_it_is() -> None:
    inner = Scripted('{"nights": 999, "parking": false}')  # the detector knows the form, never the right values
    answer = answered(repair(), inner)
    assert len(inner.asked) == 1 and answer.text == inner.says[0] and answer.usage == Usage(10, len(answer.text), 1, 2)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_it_asks_at_most_so_often_and_keeps_the_least_faulty_and_earliest(times: int) -> None:
    inner = Scripted('{"nights": "many"}', '{"nights": 4}', '{"parking": true}', "What?")
    answer = answered(repair(times=times, regex=None), inner)
    assert len(inner.asked) == times + 1
    assert answer.text == ('{"nights": "many"}' if times == 0 else '{"nights": 4}')


def test_nothing_changes_under_the_identity_setting() -> None:
    inner = Scripted("x")
    assert Repair(**Repair.identity).wrap(inner) is inner
    assert (
        answered(Repair.model_validate({}), inner).text == "x" and len(inner.asked) == 1
    )  # and nothing is asked of an answer without any check


def test_the_form_is_put_right_without_asking() -> None:
    inner = Scripted('Sure! {"nights": "4", "parking": "True"} Bye.')
    answer = answered(repair(fix=True), inner)
    assert json.loads(answer.text) == {"nights": 4, "parking": True} and len(inner.asked) == 1
    assert answer.tokens == []  # they spell another text
    assert answer.usage == Usage(10, len(inner.says[0]), 1, 2)


@pytest.mark.parametrize(
    "text", ['{"nights": "four", "parking": true}', '{"nights": 4}', '{"nights": 4.5, "parking": true}', "4 nights", "", '{"nights": "4.5", "parking": true}']
)  # fmt: skip
def test_what_would_need_a_guess_is_not_put_right(text: str) -> None:
    assert fixed_json(text, SCHEMA) is None


@settings(max_examples=30, deadline=None)
@given(st.text() | st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["nights", "parking", "bed", "x"]), inner)).map(json.dumps))  # fmt: skip
def test_what_is_put_right_is_valid_and_what_has_no_fault_too(text: str) -> None:
    fixed = fixed_json(text, SCHEMA)
    for each in [fixed] * (fixed is not None) + [text] * (not json_faults(text, SCHEMA)):
        assert each is not None
        found = json.loads(each.strip().removeprefix("```json").removesuffix("```"))
        jsonschema.validate(found, SCHEMA)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "it is empty"),
        ("4 nights", "it is not JSON"),
        ('{"nights": 4, "par', "it is not JSON"),
        ('{"nights": NaN, "parking": true}', "it is not JSON"),
        (f"Here: {GOOD}", "something stands around the JSON"),
        ("[]", "answer is not object"),
        ('{"nights": 4, "parking": "yes"}', "answer.parking is not boolean"),
        ('{"nights": 4, "parking": true, "bed": "bunk"}', 'answer.bed is not one of ["single", "double"]'),
    ],
)
def test_faults_of_form_are_named(text: str, what: str) -> None:
    assert any(what in fault.what for fault in json_faults(text, SCHEMA))


def test_patterns_and_support_are_checked() -> None:
    assert [fault.what for fault in regex_faults("Paris", r"^\d+$")] and not regex_faults("12", r"^\d+$")
    read = (Message("user", "Vienna has 1,234 bridges. The tower was built in 1898 by Otto Ümlaut.\n\nWho built it?"),)
    assert support_faults("It was built by Otto Ümlaut in 1898; there are 1234 bridges. He was proud.", read) == []
    told = [fault.what for fault in support_faults("Otto Wagner built it in 1899, near Graz.", read)]
    assert told == [f"`{each}` stands nowhere in what you were given" for each in ("1899", "Wagner", "Graz")]
    inner = Scripted("It was built by Wagner.", "It was built by Otto Ümlaut.")
    assert answered(Repair.model_validate({"supported": True}), inner, read).text == "It was built by Otto Ümlaut."


def test_a_requests_own_form_is_what_its_answer_is_held_to() -> None:
    inner = Scripted("none", GOOD)
    answer = answered(Repair.model_validate({}), inner, constraint={"json_schema": SCHEMA})  # type: ignore[arg-type]
    assert answer.text == GOOD and len(inner.asked) == 2


def test_failures_are_told_and_a_full_context_ends_the_repairing() -> None:
    broken = answered(repair(), Scripted("none", fails_at=1))
    assert broken.failure == "the line is dead" and broken.reason == "error"
    first = Scripted("none", fails_at=0)
    assert answered(repair(), first).failure == "the line is dead" and len(first.asked) == 1
    full = Scripted("none", GOOD, longest=50)
    assert answered(repair(), full).text == "none"
    with pytest.raises(ContextLengthError):
        answered(repair(), Scripted("none", longest=3))


def test_time_is_shared_by_all_tries() -> None:
    inner = Scripted("none", GOOD)
    assert answered(repair(), inner, seconds=30.0).text == GOOD
    assert inner.with_settings[1].seconds is not None and inner.with_settings[1].seconds < 30.0
    late = Scripted("none", reason="timeout")
    assert answered(repair(), late, seconds=30.0).reason == "timeout" and len(late.asked) == 1


def test_scores_are_those_of_what_is_wrapped() -> None:
    wrapped = repair().wrap(Scripted("x", scores=True))
    assert asyncio.run(wrapped.score(ASKED, ["a"])) == [Score(-1.0, False, 1, 1)]  # type: ignore[attr-defined]
    assert not hasattr(repair().wrap(Scripted("x")), "score")


def test_after_retrieve_it_is_refused_and_before_it_is_not() -> None:
    class Nothing:
        fingerprint = "nothing"

        def search(self, query, count):
            return []

    retrieve = Retrieve.model_validate({"documents": IndexRef("nothing", Nothing())})
    with pytest.raises(UnsupportedError, match="before `retrieve`"):
        repair().wrap(retrieve.wrap(Scripted("x")))
    inner = Scripted("none", GOOD)
    assert asyncio.run(collect(retrieve.wrap(repair().wrap(inner)).answer(ASKED, AnswerSettings()))).text == GOOD


@pytest.mark.parametrize("wrong", [{"json_schema": {"$ref": "#"}}, {"regex": "("}, {"times": 9}, {"regex": ""}])
def test_settings_that_cannot_be_checked_are_refused(wrong: dict) -> None:
    with pytest.raises(RecipeError):
        make(Repair, wrong, "arm")
