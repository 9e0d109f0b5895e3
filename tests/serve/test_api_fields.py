"""Every field of OpenAI's requests is honoured, accepted without effect, or refused by name; nothing is silently ignored."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest

from steelyard.serve.api import messages, response_items
from steelyard.serve.api.bodies import Body
from steelyard.serve.api.chat import ChatRequest, Function
from steelyard.serve.api.completions import CompletionRequest
from steelyard.serve.api.embeddings import EmbeddingRequest
from steelyard.serve.api.fields import StreamOptions
from steelyard.serve.api.responses import FunctionTool, ResponseRequest, TextFormat
from steelyard.serve.http_errors import ApiError
from tests.serve.live_server import LiveServer

HI = [{"role": "user", "content": "hi"}]


def _clients_fields() -> dict[type[Body], set[str]]:
    pytest.importorskip("openai", reason="the client is of the extra `test`")
    from openai.types import completion_create_params, embedding_create_params
    from openai.types.chat import completion_create_params as chat_create_params
    from openai.types.responses import response_create_params

    return {
        ChatRequest: set(typing.get_type_hints(chat_create_params.CompletionCreateParamsStreaming, include_extras=True)),
        CompletionRequest: set(typing.get_type_hints(completion_create_params.CompletionCreateParamsStreaming, include_extras=True)),
        EmbeddingRequest: set(typing.get_type_hints(embedding_create_params.EmbeddingCreateParams, include_extras=True)),
        ResponseRequest: set(typing.get_type_hints(response_create_params.ResponseCreateParamsStreaming, include_extras=True)),
    }


def test_every_field_of_the_client_has_a_place() -> None:
    for kind, names in _clients_fields().items():
        known = {*kind.model_fields, *kind.inert, *kind.refused}
        assert names <= known, f"{kind.__name__}: {sorted(names - known)}"
        assert not set(kind.inert) & set(kind.refused) and not set(kind.model_fields) & {*kind.inert, *kind.refused}


def test_the_page_of_serving_names_every_field_without_effect_and_every_refused_one() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    inert, refused = page[page.index("Accepted without effect") :].split("Refused by name")
    for kind in (ChatRequest, CompletionRequest, EmbeddingRequest, ResponseRequest):
        assert all(f"`{name}`" in inert for name in kind.inert) and all(f"`{name}`" in refused for name in kind.refused)


def test_every_field_of_the_clients_messages_and_tools_has_a_place() -> None:
    pytest.importorskip("openai", reason="the client is of the extra `test`")
    from openai.types import chat, responses, shared_params

    for theirs, own in (
        (chat.ChatCompletionSystemMessageParam, messages.SystemTurn),
        (chat.ChatCompletionDeveloperMessageParam, messages.SystemTurn),
        (chat.ChatCompletionUserMessageParam, messages.UserTurn),
        (chat.ChatCompletionAssistantMessageParam, messages.AssistantTurn),
        (chat.ChatCompletionToolMessageParam, messages.ToolTurn),
        (chat.ChatCompletionContentPartTextParam, messages.ContentPart),
        (chat.ChatCompletionContentPartRefusalParam, messages.ContentPart),
        (chat.ChatCompletionStreamOptionsParam, StreamOptions),
        (shared_params.FunctionDefinition, Function),
        (responses.EasyInputMessageParam, response_items.MessageItem),
        (responses.ResponseOutputMessageParam, response_items.MessageItem),
        (responses.ResponseFunctionToolCallParam, response_items.CallItem),
        (responses.ResponseInputTextParam, response_items.InputPart),
        (responses.ResponseOutputTextParam, response_items.InputPart),
        (responses.FunctionToolParam, FunctionTool),
        (responses.ResponseFormatTextJSONSchemaConfigParam, TextFormat),
    ):
        known = {field.alias or name for name, field in own.model_fields.items()}
        assert set(typing.get_type_hints(theirs, include_extras=True)) <= known, own.__name__


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest, EmbeddingRequest, ResponseRequest])
def test_a_refused_field_is_named_unless_it_changes_nothing(kind: type[Body]) -> None:
    base: dict[str, Any] = {"model": "m", "messages": HI} if kind is ChatRequest else {"model": "m", "input": "x"}
    base = {"model": "m", "prompt": "x"} if kind is CompletionRequest else base
    for name, (neutral, instead) in kind.refused.items():
        assert instead.endswith(".")
        for value in (None, *neutral):
            kind.model_validate({**base, name: value})
        with pytest.raises(ApiError, match=f"`{name}`") as refusal:
            kind.model_validate({**base, name: {"any": "thing"}})
        assert refusal.value.param == name and refusal.value.status == 400
    for name in kind.inert:
        kind.model_validate({**base, name: "anything"})


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": "1"}, "temperature"),
        ({"temperature": 1e999}, None),
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": True}, "n"),
        ({"n": 10**400}, "n"),
        ({"seed": 2**63}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": "y"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": "x", "colour": "red"}]}, "messages.0.colour"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"steelyard": {"levers": ["nothing_of_this_name"]}}, None),
        ({"steelyard": {"colour": 1}}, "steelyard.colour"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"repetition_penalty": 5e-324}, "repetition_penalty"),
        ({"steelyard": {"seconds": 1e6}}, "steelyard.seconds"),
    ],
)
def test_what_is_wrong_with_a_request_is_told_with_the_field(server: LiveServer, change: dict[str, Any], param: str | None) -> None:
    import json

    body = json.dumps({"model": "tiny", "messages": HI, **change})
    response = server.client.post(
        "/v1/chat/completions", content=body.replace("Infinity", "1e999"), headers={"Content-Type": "application/json"}
    )
    error = response.json()["error"]
    assert response.status_code == 400 and error["type"] == "invalid_request_error" and error["message"]
    assert param is None or error["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"model": NaN}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 70 + b"1" + b"}" * 70,
        b'{"model": "\\ud800"}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b'{"model": "tiny", "model": 3}',
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/tokenize"])
def test_a_body_that_is_no_request_is_a_400(server: LiveServer, path: str, body: bytes) -> None:
    response = server.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400 and response.json()["error"]["message"]


def test_levers_of_clients_name_nothing_of_the_servers_own(server: LiveServer) -> None:
    def asked(lever: Any) -> Any:
        return server.post("/v1/chat/completions", {"model": "tiny", "messages": HI, "max_tokens": 3, "steelyard": {"levers": [lever]}})

    assert asked({"prompt": "Be brief."}).status_code == 200
    for lever in (
        {"constraint": "/etc/passwd"},
        {"retrieve": {"documents": "/etc"}},
        "steering",
        {"quantize": 8},
        {"speculative": {"draft": "x"}},
    ):
        response = asked(lever)
        assert response.status_code == 400, lever
    plain, led = (
        server.post("/v1/chat/completions", {"model": "tiny", "messages": HI, "max_tokens": 3, **more}).json()
        for more in ({}, {"steelyard": {"levers": ["prompt"]}})
    )
    assert plain["usage"]["prompt_tokens"] == led["usage"]["prompt_tokens"]  # at its identity a lever changes nothing
