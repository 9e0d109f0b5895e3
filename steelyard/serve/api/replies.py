"""What the OpenAI routes answer, as the OpenAPI document describes it. The routes write plain JSON; a test holds them to this."""

from __future__ import annotations

from typing import Any, Literal

import pydantic


class _Reply(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


class ErrorDetail(_Reply):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(_Reply):
    """A failure, in OpenAI's shape."""

    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "What is wrong with the request, and which field."},
    401: {"model": ErrorReply, "description": "The key is missing or wrong."},
    403: {"model": ErrorReply, "description": "A page of another origin asks, or the server is called by another's name."},
    404: {"model": ErrorReply, "description": "No such model, or no such thing."},
    408: {"model": ErrorReply, "description": "The body did not come in time."},
    413: {"model": ErrorReply, "description": "The body is too large."},
    422: {"model": ErrorReply, "description": "Never sent: what is wrong with a request is told with 400."},
    429: {"model": ErrorReply, "description": "Too many requests wait. `Retry-After` says when to come again."},
    503: {"model": ErrorReply, "description": "The engine is starting again. `Retry-After` says when to come again."},
}

STREAMED: dict[int | str, dict[str, Any]] = {
    **ERRORS,
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The answer; a stream of events with `stream`."},
}


class UsageReply(_Reply):
    """Tokens read and written."""

    prompt_tokens: int
    total_tokens: int


class Choice(_Reply):
    """One answer."""

    index: int
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatMessage(_Reply):
    """What the model says."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(Choice):
    """One answer to a conversation."""

    message: ChatMessage
    logprobs: dict[str, Any] | None


class ChatCompletion(_Reply):
    """Answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageReply


class TextChoice(Choice):
    """One continuation."""

    text: str
    logprobs: dict[str, Any] | None


class TextCompletion(_Reply):
    """Continuations of a text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageReply


class Vector(_Reply):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Vectors(_Reply):
    """Vectors, in the order of the texts."""

    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: UsageReply


class ModelReply(_Reply):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    steelyard: dict[str, Any]


class ModelList(_Reply):
    """All of them."""

    object: Literal["list"]
    data: list[ModelReply]


class ResponseReply(_Reply):
    """An answer of `/v1/responses`."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]


class Tokens(_Reply):
    """A text as tokens."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(_Reply):
    """Tokens as a text."""

    prompt: str
