"""What crosses to the engine's process and back is what was sent, whatever is in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core import errors
from steelyard.core.answer_form import AnswerForm
from steelyard.core.errors import SteelyardError
from steelyard.core.levers import parse
from steelyard.core.protocols import (
    AnswerSettings,
    Citation,
    Confidence,
    Considered,
    Done,
    Energy,
    Event,
    Failure,
    Lookup,
    Message,
    Passage,
    Text,
    Token,
    ToolCall,
    ToolResult,
    Usage,
)  # fmt: skip
from steelyard.serve import engine_messages as messages
from steelyard.serve.engine_process import EngineFault, EngineGone, ServedInfo, ServedLever

TEXTS = st.text(st.characters())  # lone surrogates too
NUMBERS = st.floats(allow_nan=False)
COUNTS = st.integers(0, 10**12)
PASSAGES = st.builds(Passage, TEXTS, TEXTS, TEXTS, TEXTS, NUMBERS)
WORDS = st.lists(TEXTS, max_size=2).map(tuple)
CONSIDERED = st.builds(Considered, PASSAGES, COUNTS, COUNTS, NUMBERS, NUMBERS, TEXTS, WORDS, WORDS)
EVENTS = st.one_of(
    st.builds(Text, TEXTS),
    st.builds(Token, COUNTS, TEXTS, NUMBERS, NUMBERS, NUMBERS, st.lists(st.tuples(COUNTS, NUMBERS), max_size=3).map(tuple)),
    st.builds(ToolCall, TEXTS, TEXTS, TEXTS),
    st.builds(ToolResult, TEXTS, TEXTS),
    st.builds(Citation, TEXTS, TEXTS, TEXTS, NUMBERS),
    st.builds(Lookup, TEXTS, TEXTS, NUMBERS, st.lists(CONSIDERED, max_size=2).map(tuple), st.lists(TEXTS, max_size=2).map(tuple)),
    st.builds(Confidence, NUMBERS, TEXTS),
    st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS),
    st.builds(Energy, NUMBERS, NUMBERS, TEXTS, st.booleans()),
    st.builds(Failure, TEXTS),
    st.builds(Done, st.sampled_from(["stop", "length", "timeout", "cancelled", "error", "tool_calls"])),
)


def crossed(value: Any) -> Any:
    """A message as the other side reads it."""
    frame = messages.framed([value])
    assert int.from_bytes(frame[: messages.HEADER], "big") == len(frame) - messages.HEADER
    return json.loads(frame[messages.HEADER :])[0]


@given(EVENTS)
def test_events_cross_as_they_are(event: Event) -> None:
    word, *fields = crossed(messages.event_written(event))
    assert messages.event_read(word, fields) == event


@given(st.lists(st.builds(Message, st.sampled_from(["user", "tool"]), TEXTS, st.none() | TEXTS, st.lists(st.builds(ToolCall, TEXTS, TEXTS, TEXTS)).map(tuple))))  # fmt: skip
def test_conversations_cross_as_they_are(conversation: list[Message]) -> None:
    assert messages.conversation_read(crossed(messages.conversation_written(conversation))) == conversation


@given(
    st.builds(
        AnswerSettings,
        max_tokens=st.integers(),
        temperature=NUMBERS | st.integers(),
        seed=st.integers(),
        stop=st.lists(TEXTS).map(tuple),
        constraint=st.none() | st.builds(AnswerForm, st.just("regex"), st.text()),
        ignore_eos=st.booleans(),
        seconds=st.none() | NUMBERS,
        tenant=TEXTS,
    )
)
def test_settings_cross_as_they_are(settings: AnswerSettings) -> None:
    assert messages.settings_read(crossed(messages.settings_written(settings))) == settings


def test_true_is_not_taken_for_one() -> None:
    """A wrong type must still be wrong on the other side, where it is refused by name."""
    read = messages.settings_read(crossed(messages.settings_written(AnswerSettings(top_p=True, alternatives=False))))
    assert read.top_p is True and read.alternatives is False


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SteelyardError)]


@pytest.mark.parametrize("kind", [*KINDS, EngineGone, EngineFault])
def test_errors_cross_as_what_they_are(kind: type[SteelyardError]) -> None:
    error = kind("too \ud800 long", where="prompt", do="Shorten it.")
    read = messages.error_read(*crossed(messages.error_written(error)))
    assert type(read) is kind and str(read) == str(error)


def test_errors_of_other_packages_cross_as_the_nearest_kind_and_mistakes_as_faults() -> None:
    class OwnError(errors.ContextLengthError):
        pass

    assert type(messages.error_read(*messages.error_written(OwnError("x")))) is errors.ContextLengthError
    fault = messages.error_read(*messages.error_written(ZeroDivisionError("a secret prompt")))
    assert type(fault) is EngineFault and "secret" not in str(fault)


def test_descriptions_of_models_cross_as_they_are() -> None:
    lever = ServedLever("prompt", True, True, {"system": "Be brief."})
    info = ServedInfo("a", "f00", 256, frozenset({"score", "chat"}), 5, ("b",), "chat", (lever,), 2, 99, (7,))
    assert messages.info_read(crossed(messages.info_written(info))) == info


@pytest.mark.parametrize("value", [object(), {1, 2}, [10**5000], b"x"], ids=["object", "set", "huge", "bytes"])
def test_what_json_has_no_words_for_is_refused(value: Any) -> None:
    with pytest.raises(SteelyardError, match="cannot be passed on"):
        messages.framed([value])


def test_levers_cross_as_recipes_write_them() -> None:
    levers = [parse({"prompt": "Be brief."}), parse({"retrieve": {"documents": "encyclopedia"}})]
    assert [parse(entry) for entry in crossed(messages.levers_written(levers))] == levers
    with pytest.raises(SteelyardError, match="no lever"):
        messages.levers_written(["prompt"])  # type: ignore[list-item]
