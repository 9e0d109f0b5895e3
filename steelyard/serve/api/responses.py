"""`POST /v1/responses`: stateless create, stream and function tools. Nothing is kept, so nothing can be referred to later."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from steelyard.core.protocols import Citation, Confidence, Done, Energy, Failure, Text, Usage
from steelyard.serve.api import answers, fields, levers
from steelyard.serve.api.bodies import Body, Part, StrictRoute
from steelyard.serve.api.chat import Asked, Offer, ask
from steelyard.serve.api.models import chat_model
from steelyard.serve.api.replies import STREAMED, ResponseReply
from steelyard.serve.api.response_items import Item, Output, conversation_of
from steelyard.serve.api.resumption import Streams
from steelyard.serve.api.streams import Frame, Named, closing, while_connected
from steelyard.serve.api.tool_calls import CallPart
from steelyard.serve.http_errors import as_api_error, failed
from steelyard.serve.service import Service


class FunctionTool(Part):
    """A function that the model may call."""

    type: Literal["function"]
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON schema of the arguments; without one there are none")
    strict: bool | None = Field(None, description="arguments match the schema: so they do wherever a call is forced")
    async_: Literal[False] | None = Field(None, alias="async", description="only false: the client makes the calls")
    defer_loading: Literal[False] | None = Field(None, description="only false: every tool is shown")
    allowed_callers: None = None
    output_schema: None = None


class NamedFunctionTool(Part):
    """A function that must be called."""

    type: Literal["function"]
    name: str = Field(max_length=64)


class TextFormat(Part):
    """The form that the text has."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(None, description="without effect")
    description: str | None = Field(None, description="without effect")
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="the JSON schema")
    strict: bool | None = Field(None, description="without effect: the text always has the form")


class TextSettings(Part):
    """How the text is written."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = Field(None, description="only `medium`: say in the prompt how long the answer should be")


class ResponseStreamOptions(Part):
    """How a stream is sent."""

    include_obfuscation: bool = Field(False, description="accepted, without effect: no padding is added")


class ResponseRequest(Body):
    """A request for a response."""

    model: str = Field(min_length=1, max_length=512, description="name of a served model")
    input: str | list[Item] = Field(description="what is asked, or the whole conversation as items")
    instructions: str | None = Field(None, description="the system prompt, before all others")
    max_output_tokens: int | None = Field(None, ge=1, description="most tokens of the answer")
    temperature: float = Field(1.0, ge=0, le=2, description="softmax temperature; 0 always takes the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1, description="keep the smallest set of tokens with this probability")
    stream: bool = Field(False, description="send the response in pieces, as server-sent events")
    stream_options: ResponseStreamOptions | None = None
    text: TextSettings | None = None
    tools: list[FunctionTool] | None = Field(None, description="functions that the model may call")
    tool_choice: Literal["none", "auto", "required"] | NamedFunctionTool | None = None
    parallel_tool_calls: bool = Field(True, description="false: at most one call. A forced call is always one")
    steelyard: fields.Extension = Field(default_factory=lambda: fields.Extension.model_validate({}))

    inert: ClassVar[Mapping[str, str]] = fields.INERT_RESPONSES
    refused: ClassVar[Mapping[str, tuple[tuple[Any, ...], str]]] = fields.REFUSED_RESPONSES


def understood(body: ResponseRequest, service: Service, user: str) -> Asked:
    """A request, checked against the model and the server's limits.

    Raises:
        ApiError, SteelyardError: what is wrong with it.
    """
    info = chat_model(service, body.model, "messages")
    fields.check_resumable(body.steelyard, body.stream)
    wanted = body.text.format if body.text else None
    form = fields.form(wanted.type, wanted.schema_, service, "text.format.schema") if wanted else None
    conversation = conversation_of(body.input, body.instructions, service)
    conversation, about_tools, form = ask(service, info.name, conversation, _offer(body), form)
    drawn = fields.Sampling.model_validate({name: getattr(body, name) for name in ("model", "temperature", "top_p", "steelyard")})
    most = fields.limit(body.max_output_tokens, service, "max_output_tokens")
    settings = fields.answer_settings(drawn, service, user, most=most, alternatives=None, constraint=form)
    return Asked(info.name, conversation, settings, levers.requested(service, info.name, body.steelyard.levers, user), **about_tools)


def _offer(body: ResponseRequest) -> Offer:
    tools = [
        {"type": "function", "function": tool.model_dump(include={"name", "description", "parameters", "strict"}, exclude_none=True)}
        for tool in body.tools or ()
    ]
    if isinstance(body.tool_choice, NamedFunctionTool):
        return Offer(tools, "required", body.tool_choice.name)
    return Offer(tools, body.tool_choice or "auto", several=body.parallel_tool_calls)


def router(service: Service, streams: Streams) -> APIRouter:
    """`POST /v1/responses`."""
    routes = APIRouter(tags=["OpenAI"], route_class=StrictRoute)

    @routes.post("/v1/responses", response_model=ResponseReply, responses=STREAMED)
    async def responses(body: ResponseRequest, request: Request) -> Response:
        """An answer to a conversation; with `stream` as server-sent events."""
        asked = await levers.understood(lambda: understood(body, service, request.state.user), body.steelyard.levers)
        head = _head(body, asked.model)
        if not body.stream:
            return JSONResponse(await while_connected(request, _whole(service, asked, head)))
        return await streams.respond(request, _frames(service, asked, head), head["id"], body.steelyard.resumable)

    return routes


def _head(body: ResponseRequest, model: str) -> dict[str, Any]:
    """A response of which nothing is there yet."""
    choice = body.tool_choice.model_dump() if isinstance(body.tool_choice, NamedFunctionTool) else body.tool_choice or "auto"
    wanted = body.text.format if body.text and body.text.format else None
    return {
        "id": f"resp_{secrets.token_hex(16)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": None,
        "store": False,
        "temperature": body.temperature,
        "text": {"format": wanted.model_dump(by_alias=True, exclude_none=True) if wanted else {"type": "text"}},
        "tool_choice": choice,
        "tools": [tool.model_dump(include={"type", "name", "description", "parameters", "strict"}) for tool in body.tools or ()],
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
    }


async def _whole(service: Service, asked: Asked, head: dict[str, Any]) -> dict[str, Any]:
    last: dict[str, Any] = {}
    async with closing(batches := _events(service, asked, head)):
        async for events in batches:
            last = events[-1]
    return last["response"]


async def _frames(service: Service, asked: Asked, head: dict[str, Any]) -> AsyncIterator[Sequence[Frame]]:
    """The numbered events of a stream. A failure before the first piece is raised, a later one is the event `response.failed`."""
    number = 0
    opening = [{"type": kind, "response": dict(head)} for kind in ("response.created", "response.in_progress")]
    async with closing(batches := _events(service, asked, head)):
        try:
            async for events in batches:
                numbered = enumerate((*opening, *events), number)
                frames = [Named(event["type"], {**event, "sequence_number": place}) for place, event in numbered]
                number, opening = number + len(frames), []
                yield frames
        except Exception as error:
            if not number:
                raise
            told = as_api_error(error)
            gone = {**head, "status": "failed", "error": {"code": "server_error", "message": told.message}}
            yield (Named("response.failed", {"type": "response.failed", "response": gone, "sequence_number": number}),)


async def _events(service: Service, asked: Asked, head: dict[str, Any]) -> AsyncIterator[Sequence[dict[str, Any]]]:
    """The events between the opening and the end; the last one holds the whole response."""
    output, usage, told, why = Output(), Usage(0, 0), {}, "stop"
    energies: list[Energy] = []
    async with closing(batches := answers.together(asked.answers(service))):
        async for pieces in batches:
            events: list[dict[str, Any]] = []
            for _, piece in pieces:
                match piece:
                    case Text(text):
                        events += output.text(text)
                    case CallPart():
                        events += output.call(piece)
                    case Citation():
                        told.setdefault("citations", []).append(answers.citation_of(piece))
                    case Confidence():
                        answers.add_confidence(told.setdefault("confidence", {}), piece)
                    case Usage():
                        usage = piece
                    case Energy():
                        energies.append(piece)
                    case Failure(message):
                        if events:
                            yield events
                        raise failed(message, service.engine.ready)
                    case Done(reason):
                        why = reason
                    case _:
                        pass
            if events:
                yield events
    cut = why not in ("stop", "tool_calls")
    last = list(output.close("incomplete" if cut else "completed"))
    if why == "timeout":
        told["reason"] = why
    response = head | {
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": output.items,
        "usage": {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            **answers.energy_of(energies),
        },
    }
    yield *last, {"type": f"response.{response['status']}", "response": response | ({"steelyard": told} if told else {})}
