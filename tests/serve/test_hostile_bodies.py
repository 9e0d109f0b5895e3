"""Bodies that are made to hurt: what is wrong a million times over, said twice, or would be ignored silently."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pytest

from steelyard.serve.api.bodies import DEEPEST, MOST, depth
from steelyard.serve.api.chat import ChatRequest
from steelyard.serve.api.completions import CompletionRequest
from steelyard.serve.api.conversations import NewMessage
from steelyard.serve.api.places import Pointing
from steelyard.serve.api.responses import ResponseRequest
from steelyard.serve.api.tokens import DetokenizeRequest
from steelyard.serve.http_errors import ApiError, as_api_error
from steelyard.serve.store import import_lines
from steelyard.serve.store.errors import StoreError
from tests.serve.live_server import LiveServer

HI = [{"role": "user", "content": "hi"}]
MANY = 100_000
TOOL = {"type": "function", "function": {"name": "f"}}


def said_in(parts: list[Any]) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": parts}]}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ChatRequest, {"model": "tiny", "messages": [[]] * MANY}),
        (ChatRequest, {"model": "tiny", "messages": [{}] * MANY}),
        (ChatRequest, said_in([{"type": 1}] * MANY)),
        (ChatRequest, {"model": "tiny", "messages": [{"role": "user", "content": "hi", **{f"k{i}": 1 for i in range(MANY)}}]}),
        (ChatRequest, {"model": "tiny", "messages": HI, "stop": [1] * MANY}),
        (ChatRequest, {"model": "tiny", "messages": HI, "logit_bias": {str(i): "x" for i in range(MANY)}}),
        (ChatRequest, {"model": "tiny", "messages": HI, "steelyard": {"levers": [1] * MANY}}),
        (ChatRequest, {"model": "tiny", "messages": HI, "tools": [TOOL | {"x": 1}] * MANY}),
        (CompletionRequest, {"model": "tiny", "prompt": [None] * MANY}),
        (CompletionRequest, {"model": "tiny", "prompt": [[None] * 10] * MANY}),
        (ResponseRequest, {"model": "tiny", "input": [{"role": 1}] * MANY}),
        (DetokenizeRequest, {"model": "tiny", "tokens": ["a"] * MANY}),
        (NewMessage, {"role": "user", "parts": [{"type": "text", "x": 1}] * MANY}),
        (
            Pointing,
            {"place": {"type": "place", "source": {"attachment": "a"}, "selection": {"kind": "rows", "rows": ["a"] * MANY}}},
        ),
        (import_lines._Conversation, {"messages": [{}] * MANY, "feedback": [1] * MANY, "attachments": [[]] * MANY}),
    ],
)
def test_what_is_wrong_a_hundred_thousand_times_is_found_once(kind: type[pydantic.BaseModel], body: dict[str, Any]) -> None:
    try:
        kind.model_validate(body)
    except pydantic.ValidationError as error:
        assert error.error_count() < 30
    except ApiError as error:
        assert error.status == 400
    else:
        pytest.fail("it was taken")


def test_many_unknown_keys_are_counted_and_a_few_are_named(server: LiveServer) -> None:
    for count, told in ((1, "k0"), (5000, "5002 fields")):
        turn = {"role": "user", "content": "hi", **{f"k{number}": 1 for number in range(count)}}
        response = server.post("/v1/chat/completions", {"model": "tiny", "messages": [turn]})
        assert response.status_code == 400 and told in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/tokenize", "/api/conversations"])
def test_a_body_of_nothing_but_brackets_is_refused_before_it_is_read(server: LiveServer, path: str) -> None:
    for bracket in ("[]", "{}"):
        content = '{"messages":[' + f"{bracket}," * MOST + bracket + "]}"
        refused = server.client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert refused.status_code == 400 and "200,000" in refused.json()["error"]["message"]


def test_depth_counts_what_is_within_one_another() -> None:
    nested: Any = 1
    for _ in range(DEEPEST):
        nested = {"a": [1, nested]} if isinstance(nested, list) else [nested]
    assert depth(1, DEEPEST) == 0 and depth([], DEEPEST) == depth([1, "a"], DEEPEST) == 1 and depth([{}], DEEPEST) == 2
    assert depth(nested, DEEPEST) > DEEPEST
    assert depth([[]] * 1000, 3) == 2


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_a_key_that_stands_twice_is_refused_by_name(server: LiveServer, path: str) -> None:
    body = '{"model": "tiny", "prompt": "a", "input": "a", "messages": [{"role": "user", "content": "a", "content": "b"}], "max_tokens": 1}'
    response = server.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400 and "`content` appears twice" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("chat/completions", said_in([{"type": "text", "text": "a", "image_url": {"url": "x"}}]), "messages.0.content.0.image_url"),
        ("chat/completions", said_in([{"type": "refusal", "refusal": "a", "text": "b"}]), "messages.0.content.0.text"),
        ("chat/completions", said_in([{"type": "text", "text": 5}]), "messages.0.content.0.text"),
        ("chat/completions", {"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ("chat/completions", {"messages": [{"role": "function", "content": "a"}]}, "messages.0"),
        ("chat/completions", {"response_format": {"type": "text", "json_schema": {"name": "a"}}}, "response_format.json_schema"),
        ("chat/completions", {"response_format": {"type": "json_object", "json_schema": {"name": "a"}}}, "response_format.json_schema"),
        ("chat/completions", {"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice.allowed_tools"),
        ("chat/completions", {"steelyard": {"resumable": True}}, "steelyard.resumable"),
        ("completions", {"steelyard": {"resumable": True}}, "steelyard.resumable"),
        ("completions", {"prompt": "long " * 3000}, "prompt"),
        ("completions", {"prompt": None}, "prompt"),
        ("responses", {"steelyard": {"resumable": True}}, "steelyard.resumable"),
        ("responses", {"input": "long " * 3000}, "input"),
        ("responses", {"input": [{"role": "user", "content": "a", "name": "b"}]}, "input.0.name"),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a", "file_id": "b"}]}]}, "input.0.content.0.file_id"),
        ("responses", {"text": {"format": {"type": "text", "schema": {}}}}, "text.format.schema"),
    ],
)  # fmt: skip
def test_what_would_be_ignored_is_refused_where_it_stands(server: LiveServer, path: str, change: dict[str, Any], param: str) -> None:
    base = {"chat/completions": {"messages": HI}, "completions": {"prompt": "a"}, "responses": {"input": "a"}}[path]
    response = server.post(f"/v1/{path}", {"model": "tiny", **base, **change})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("content", [b"\n" * 200_000, b"{}\n" * 200_000, b'{"messages":[' + b"[]," * 3_000_000 + b"[]]}"])
def test_a_file_to_import_that_is_nothing_but_brackets_is_refused_before_it_is_read(server: LiveServer, content: bytes) -> None:
    refused = server.client.post("/api/import", content=content, params={"bad_rows": "skip"})
    assert refused.status_code == 413 and "are allowed" in refused.json()["error"]["message"]


def test_a_mark_for_a_cache_changes_nothing(server: LiveServer) -> None:
    mark = {"prompt_cache_breakpoint": {"type": "ephemeral"}}
    asked = {"model": "tiny", "max_tokens": 3, "temperature": 0}
    plain, marked = ({**said_in([{"type": "text", "text": "hi", **more}]), **asked} for more in ({}, mark))
    texts = [server.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"] for body in (plain, marked)]
    assert texts[0] == texts[1]


def test_only_uploads_may_be_as_large_as_uploads(server: LiveServer) -> None:
    piece = server.client.post(f"/api/attachments/{'a' * 24}/pieces", content=b"[" + b" " * server.settings.body_bytes + b"]")
    assert piece.status_code == 413


def test_arguments_of_past_calls_may_be_anything(server: LiveServer) -> None:
    deep = '{"a":' * 600 + "1" + "}" * 600
    for arguments in ("no json", "", "NaN", "[1]", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', "9" * 5000, "[" * 50_000, deep, "\0"):
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        turns = [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "x"}]
        for model in ("tiny", "tooled"):
            response = server.post("/v1/chat/completions", {"model": model, "messages": turns, "max_tokens": 1})
            told = json.loads(response.text)
            assert response.status_code == 200 or told["error"]["code"] == "context_length_exceeded", (arguments[:20], response.text)


def test_a_failing_store_tells_clients_what_and_not_where() -> None:
    for where in ("/srv/data/steelyard.sqlite", "postgresql://ann@db.internal/steelyard"):
        told = as_api_error(StoreError("the disk is full", where=where, do="Free some space."))
        assert (told.status, told.code, told.message) == (503, "store_unavailable", "the disk is full. Free some space.")


def test_a_lever_that_cannot_be_pulled_is_told_with_its_field(server: LiveServer) -> None:
    for lever in ("quantize", {"prompt": {"colour": 1}}, {"retrieve": {"documents": "/etc/passwd"}}, {}):
        body = {"model": "tiny", "messages": HI, "steelyard": {"levers": [lever]}}
        refused = server.post("/v1/chat/completions", body)
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "steelyard.levers"


def test_more_answers_than_a_server_can_hold_are_refused_for_good(server: LiveServer) -> None:
    room = 2 + server.settings.queue  # of `tiny`: its slots, and those that may wait
    few = {"model": "tiny", "max_tokens": 1}
    for path, body, param in (
        ("/v1/chat/completions", {"messages": HI, "n": room + 1}, "n"),
        ("/v1/completions", {"prompt": ["a"] * 3, "n": 3}, "n"),
        ("/v1/completions", {"prompt": ["a"] * (room + 1)}, "prompt"),
    ):
        refused = server.post(path, {**few, **body})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == param
    assert len(server.post("/v1/completions", {**few, "prompt": ["a"] * (room // 2), "n": 2}).json()["choices"]) == room
    echoed = server.post("/v1/completions", {**few, "prompt": ["a"] * (room + 1), "max_tokens": 0, "echo": True})
    assert [choice["text"] for choice in echoed.json()["choices"]] == ["a"] * (room + 1)
