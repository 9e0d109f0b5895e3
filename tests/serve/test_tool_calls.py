"""Calls of tools: found in what a model wrote, however it is cut into pieces, and written under a grammar."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.protocols import Done, Event, Message, Text, ToolCall
from steelyard.model.tools.offering import shown, spelled_out
from steelyard.serve.api.tool_calls import CallPart, Piece, chosen, forced, form_of, replayed, rooted
from steelyard.serve.arrivals import each

SCHEMA = {"type": "object", "properties": {"zone": {"type": "string"}, "at": {"type": "array"}, "deep": {"type": "object"}}}
NAMES = {"clock": SCHEMA, "stop": None}
CALL = '{"name": "clock", "arguments": {"zone": "utc"}}'


async def _events(pieces: Sequence[str], reason: str = "stop") -> AsyncIterator[Sequence[Event]]:
    for piece in pieces:
        yield (Text(piece),)
    yield (Done(reason),)  # type: ignore[arg-type]


def _read(pieces: Sequence[str], most: int | None = None, reason: str = "stop") -> tuple[str, list[tuple[str, str]], str]:
    return read_in(["hermes"], pieces, most, reason)


def read_in(
    forms: Sequence[str], pieces: Sequence[str], most: int | None = None, reason: str = "stop"
) -> tuple[str, list[tuple[str, str]], str]:
    """Text, calls and the reason for the end, as a model with these forms is read."""

    async def all_of() -> list[Piece]:
        return [piece async for piece in each(chosen(_events(pieces, reason), NAMES, most, forms))]

    return _sorted(asyncio.run(all_of()))


def _forced(pieces: Sequence[str], reason: str = "stop") -> tuple[str, list[tuple[str, str]], str]:
    async def all_of() -> list[Piece]:
        return [piece async for piece in each(forced(_events(pieces, reason)))]

    return _sorted(asyncio.run(all_of()))


def _sorted(pieces: Sequence[Piece]) -> tuple[str, list[tuple[str, str]], str]:
    calls: list[list[str]] = []
    for piece in pieces:
        if isinstance(piece, CallPart):
            if piece.id:
                calls.append([piece.name, ""])
            calls[-1][1] += piece.arguments
    text = "".join(piece.text for piece in pieces if isinstance(piece, Text))
    last = pieces[-1]
    assert isinstance(last, Done)
    return text, [(name, arguments) for name, arguments in calls], last.reason


@given(st.lists(st.integers(0, 200), max_size=12), st.sampled_from(["", "Let me see.\n", "2 < 3 and <tool"]))
def test_tagged_calls_are_found_wherever_the_text_is_cut(cuts: list[int], before: str) -> None:
    whole = f"{before}<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>\n"
    places = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    text, calls, reason = _read([whole[start:end] for start, end in zip(places, places[1:], strict=False)])
    assert (text, calls, reason) == (before, [("clock", '{"zone": "utc"}')] * 2, "tool_calls")


@given(st.lists(st.integers(0, 200), max_size=12))
def test_text_between_calls_is_the_same_wherever_it_is_cut(cuts: list[int]) -> None:
    whole = f"First.\n<tool_call>{CALL}</tool_call> then \n <tool_call>{CALL}</tool_call>\n\nand so on \n"
    places = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    assert _read([whole[start:end] for start, end in zip(places, places[1:], strict=False)]) == _read([whole])


@given(st.text('ab <{["}]tool_cal/>\n', max_size=60), st.integers(1, 7))
def test_text_that_calls_nothing_stays_as_it_is(text: str, size: int) -> None:
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert _read(pieces) == (text, [], "stop")


@pytest.mark.parametrize(
    ("written", "calls"),
    [
        (CALL, [("clock", '{"zone": "utc"}')]),
        ('{"name": "clock", "parameters": {"zone": 1}}', [("clock", '{"zone": 1}')]),
        ('[{"name": "clock", "arguments": {}}, {"name": "stop", "arguments": {}}]', [("clock", "{}"), ("stop", "{}")]),
        ('{"name": "clock", "arguments": "{\\"zone\\": 1"}', [("clock", '{"zone": 1')]),
    ],
)
def test_an_answer_that_is_nothing_but_a_call_is_one(written: str, calls: list[tuple[str, str]]) -> None:
    assert _read([written]) == ("", calls, "tool_calls")


@pytest.mark.parametrize("written", ['{"name": "rm", "arguments": {}}', '{"a": 1}', "[1, 2", '{"name": "clock", "arguments": 3}', "[]"])
def test_json_that_calls_no_offered_tool_is_text(written: str) -> None:
    assert _read([written]) == (written, [], "stop")
    assert _read([f"<tool_call>{written}</tool_call>"]) == (f"<tool_call>{written}</tool_call>", [], "stop")


def test_at_most_so_many_calls_are_passed_on() -> None:
    assert len(_read([f"<tool_call>{CALL}</tool_call>" * 3], most=1)[1]) == 1


@given(st.lists(st.integers(0, 90), max_size=10), st.sampled_from(["", " ", "\n}"[:1]]))
def test_a_forced_call_streams_its_arguments_whole(cuts: list[int], blank: str) -> None:
    whole = f'{blank}{{{blank}"name": "clock", "arguments": {{"zone": {{"a": "}}"}}}}{blank}}}{blank}'
    places = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    text, calls, reason = _forced([whole[start:end] for start, end in zip(places, places[1:], strict=False)])
    assert (text, reason) == ("", "tool_calls")
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [("clock", {"zone": {"a": "}"}})]


def test_a_forced_call_that_was_cut_off_says_so() -> None:
    assert _forced(['{"name": "clock", "arguments": {"zone'], reason="length") == ("", [("clock", '{"zone')], "length")


def test_references_inside_a_tool_point_into_its_own_schema() -> None:
    parameters = {"$schema": "x", "$defs": {"z": {"enum": [1]}}, "properties": {"a": {"$ref": "#/$defs/z"}, "b": {"$ref": "#"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    inner = form_of([tool, tool])["anyOf"][1]["properties"]["arguments"]
    assert inner["properties"] == {"a": {"$ref": "#/anyOf/1/properties/arguments/$defs/z"}, "b": {"$ref": "#/anyOf/1/properties/arguments"}}
    assert "$schema" not in inner and rooted(3, "#") == 3


@given(st.text(max_size=30) | st.sampled_from(['{"a": NaN}', "[" * 5000, "{}", "", '{"a": 1}']))
def test_arguments_are_replayed_as_an_object_whatever_they_were(written: str) -> None:
    assert isinstance(json.loads(replayed(written)), dict)


def test_a_template_without_tools_is_shown_them_in_its_system_prompt_and_past_calls_as_text() -> None:
    tool = {"type": "function", "function": {"name": "clock"}}
    past = [Message("system", "Be brief."), Message("user", "hi"), Message("assistant", "", tool_calls=(ToolCall("1", "clock", "{}"),))]
    turns = shown(past, [tool])
    assert turns[0].content.startswith("Be brief.\n\n") and '"name": "clock"' in turns[0].content and len(turns) == 3
    assert spelled_out(past)[2] == Message("assistant", '{"name": "clock", "arguments": {}}')
    assert [turn.role for turn in shown(past[1:], [tool])] == ["system", "user", "assistant"]
