"""`POST /v1/chat/completions`: a conversation in, one or several answers out, whole or streamed."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from steelyard.core.answer_form import AnswerForm
from steelyard.core.levers import Lever
from steelyard.core.protocols import AnswerSettings, Citation, Confidence, Done, Message, Text, Token
from steelyard.model.tools.offering import shown, spelled_out
from steelyard.serve.api import answers, fields, levers, tool_calls
from steelyard.serve.api.bodies import Part, StrictRoute
from steelyard.serve.api.messages import Turn, conversation_of
from steelyard.serve.api.models import chat_model
from steelyard.serve.api.replies import STREAMED, ChatCompletion
from steelyard.serve.api.resumption import Streams
from steelyard.serve.api.streams import Alike, Frame, closing, while_connected
from steelyard.serve.http_errors import ApiError
from steelyard.serve.service import Service


class Function(Part):
    """A function that the model may call."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON schema of the arguments; without one there are none")
    strict: bool | None = Field(None, description="arguments match the schema: so they do wherever a call is forced")


class Tool(Part):
    """A tool that the model may use."""

    type: Literal["function"]
    function: Function


class NamedFunction(Part):
    """The name of a function."""

    name: str = Field(max_length=64)


class NamedTool(Part):
    """A tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(fields.Sampling):
    """A request for the next message of a conversation."""

    messages: list[Turn] = Field(description="the conversation, oldest first")
    max_tokens: int | None = Field(None, ge=1, description="most tokens of the answer")
    max_completion_tokens: int | None = Field(None, ge=1, description="the same under its newer name")
    logprobs: bool = Field(False, description="give each token with the log-probability that the unprocessed model gave it")
    top_logprobs: int | None = Field(None, ge=0, description="likeliest alternatives of each token; needs `logprobs`")
    response_format: fields.ResponseFormat | None = Field(None, description="the form of the answer, which it is sure to have")
    tools: list[Tool] | None = Field(None, description="functions that the model may call")
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = Field(None, description="whether it may, must, or which one")
    parallel_tool_calls: bool = Field(True, description="false: at most one call. A forced call is always one")

    inert: ClassVar[Mapping[str, str]] = {**fields.INERT, "prediction": "it would only make the same answer faster"}
    refused: ClassVar[Mapping[str, tuple[tuple[Any, ...], str]]] = fields.REFUSED_CHAT


@dataclass(frozen=True)
class Asked:
    """A request once it is understood.

    Attributes:
        settings: how each answer is drawn.
        tools: shown to the template, in OpenAI's form; None where there are none or they stand in the conversation itself.
        names: functions that may be called, with the schemas of their arguments; empty where none may.
        forced: whether the answer is a call.
        calls: most calls of an answer, or None.
        alternatives: per token, or None where no tokens are asked for.
    """

    model: str
    conversation: Sequence[Message]
    settings: Sequence[AnswerSettings]
    levers: tuple[Lever, ...] = ()
    tools: Sequence[Mapping[str, Any]] | None = None
    names: Mapping[str, Any] = field(default_factory=dict)
    forced: bool = False
    calls: int | None = None
    alternatives: int | None = None

    def answers(self, service: Service) -> list[AsyncIterator[Sequence[tool_calls.Piece]]]:
        """The answers, none of them begun."""
        answerer = service.engine.answerer(self.model)
        drawn: list[AsyncIterator[Sequence[tool_calls.Piece]]] = []
        forms = service.engine.models[self.model].tool_forms
        for settings in self.settings:
            events = answerer.answer_batches(self.conversation, settings, levers=self.levers, tools=self.tools)
            if self.forced:
                drawn.append(tool_calls.forced(events))
            else:
                drawn.append(tool_calls.chosen(events, self.names, self.calls, forms) if self.names else events)
        return drawn


@dataclass(frozen=True)
class Offer:
    """What a request says of tools: which, whether one must be called, and whether several may be at once."""

    tools: Sequence[Mapping[str, Any]]
    choice: Literal["none", "auto", "required"] | str
    named: str | None = None
    several: bool = True


def ask(
    service: Service,
    model: str,
    conversation: Sequence[Message],
    offer: Offer,
    response_form: AnswerForm | None,
) -> tuple[Sequence[Message], dict[str, Any], AnswerForm | None]:
    """What tools make of a request: the conversation, the part of `Asked` that speaks of tools, and the form of the answer.

    Raises:
        ApiError: a call of a function that is not there; more than one thing that shapes the answer; a choice between text and
            tools that this model was not taught.
    """
    takes_tools = "tools" in service.engine.models[model].capabilities
    past_calls = any(message.tool_calls for message in conversation)
    names = [tool["function"]["name"] for tool in offer.tools]
    if len(names) > service.settings.tools:
        raise ApiError(f"`tools`: {len(names)} tools; at most {service.settings.tools}.", param="tools", code="invalid_value")
    if len(set(names)) < len(names):
        raise ApiError("`tools`: two functions have the same name.", param="tools", code="invalid_value")
    if offer.named is not None and offer.named not in names:
        raise ApiError(f"`tool_choice`: there is no tool `{offer.named}` in `tools`.", param="tool_choice", code="invalid_value")
    if not names and offer.choice == "required":
        raise ApiError("`tool_choice`: a call is required, but there are no `tools`.", param="tool_choice", code="invalid_value")
    if not names or offer.choice == "none":
        plain = conversation if takes_tools or not past_calls else spelled_out(conversation)
        return plain, {}, response_form
    if response_form is not None:
        raise ApiError(
            "`response_format` and `tools` both shape the answer: leave one out.", param="response_format", code="unsupported_field"
        )
    if offer.choice == "auto":
        if not takes_tools:
            raise ApiError(
                f"The chat template of {model} has no place for tools, so it cannot choose between them and text. "
                "Set `tool_choice` to required or to a function, which works with every model.",
                param="tools",
                code="unsupported_field",
            )
        if any(tool["function"].get("strict") for tool in offer.tools):
            raise ApiError(
                "`strict` cannot be promised where the model chooses between text and tools: "
                "leave it out, or set `tool_choice` to required or to a function.",
                param="tools",
                code="unsupported_field",
            )
        schemas = {tool["function"]["name"]: tool["function"].get("parameters") for tool in offer.tools}
        return conversation, {"tools": offer.tools, "names": schemas, "calls": None if offer.several else 1}, None
    called = [tool for tool in offer.tools if offer.named in (None, tool["function"]["name"])]
    form = fields.bounded(tool_calls.form_of(called), service, "tools")
    if takes_tools:
        return conversation, {"tools": offer.tools, "forced": True}, form
    return shown(conversation, offer.tools), {"forced": True}, form


def understood(body: ChatRequest, service: Service, user: str) -> Asked:
    """A request, checked against the model and the server's limits.

    Raises:
        ApiError, SteelyardError: what is wrong with it.
    """
    info = chat_model(service, body.model, "messages")
    if body.max_tokens is not None and body.max_completion_tokens is not None and body.max_tokens != body.max_completion_tokens:
        raise ApiError("`max_tokens` and `max_completion_tokens` differ.", param="max_tokens", code="invalid_value")
    most = fields.limit(body.max_completion_tokens or body.max_tokens, service, "max_tokens")
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError("`top_logprobs` needs `logprobs`: true.", param="top_logprobs", code="invalid_value")
    alternatives = checked_alternatives(body.top_logprobs or 0, service, "top_logprobs") if body.logprobs else None
    fields.check_streaming(body)
    wanted = body.response_format
    schema = wanted.json_schema.schema_ if wanted and wanted.json_schema else None
    form = fields.form(wanted.type, schema, service, "response_format.json_schema") if wanted else None
    conversation, about_tools, form = ask(service, info.name, conversation_of(body.messages, service), _offer(body), form)
    if form is not None and body.stop:
        raise ApiError("`stop` could end the answer before its form is complete: leave one of them out.", param="stop")
    settings = fields.answer_settings(body, service, user, most=most, alternatives=alternatives, constraint=form)
    pulled = levers.requested(service, info.name, body.steelyard.levers, user)
    return Asked(info.name, conversation, settings, pulled, alternatives=alternatives, **about_tools)


def checked_alternatives(count: int, service: Service, param: str) -> int:
    """How many alternatives a token comes with.

    Raises:
        ApiError: more than the server gives.
    """
    if count > service.settings.alternatives:
        most = service.settings.alternatives
        raise ApiError(f"`{param}`: {count} alternatives; at most {most}.", param=param, code="invalid_value")
    return count


def _offer(body: ChatRequest) -> Offer:
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
    if isinstance(body.tool_choice, NamedTool):
        return Offer(tools, "required", body.tool_choice.function.name)
    return Offer(tools, body.tool_choice or "auto", several=body.parallel_tool_calls)


def router(service: Service, streams: Streams) -> APIRouter:
    """`POST /v1/chat/completions`."""
    routes = APIRouter(tags=["OpenAI"], route_class=StrictRoute)

    @routes.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAMED)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """The next message of a conversation; with `stream` as server-sent events of `chat.completion.chunk` objects."""
        asked = await levers.understood(lambda: understood(body, service, request.state.user), body.steelyard.levers)
        head = Head.new(service, asked.model, "chatcmpl")
        return await replied(
            request, body, streams, head, lambda: _whole(service, asked, head), lambda counted: _chunks(service, asked, head, counted)
        )

    return routes


async def replied(
    request: Request,
    body: fields.Sampling,
    streams: Streams,
    head: Head,
    whole: Callable[[], Coroutine[Any, Any, dict[str, Any]]],
    chunks: Callable[[bool], AsyncIterator[Sequence[Frame]]],
) -> Response:
    """An answer in one piece, or as a stream; `chunks` is told whether its last one counts tokens."""
    if not body.stream:
        return JSONResponse(await while_connected(request, whole()))
    counted = body.stream_options is not None and body.stream_options.include_usage
    return await streams.respond(request, chunks(counted), head.id, body.steelyard.resumable)


@dataclass(frozen=True)
class Head:
    """What every chunk of an answer begins with."""

    id: str
    created: int
    model: str
    fingerprint: str

    @classmethod
    def new(cls, service: Service, model: str, kind: str) -> Head:
        return cls(f"{kind}-{secrets.token_hex(12)}", int(time.time()), model, f"fp_{service.engine.models[model].fingerprint[:12]}")

    def of(self, object: str, **rest: Any) -> dict[str, Any]:
        told = {"id": self.id, "object": object, "created": self.created, "model": self.model, "system_fingerprint": self.fingerprint}
        return told | rest


async def _whole(service: Service, asked: Asked, head: Head) -> dict[str, Any]:
    wholes = await answers.collected(asked.answers(service), service)
    choices = []
    for place, whole in enumerate(wholes):
        message: dict[str, Any] = {"role": "assistant", "content": whole.text or (None if whole.calls else ""), "refusal": None}
        if whole.calls:
            message["tool_calls"] = [_call(call["id"], call["name"], call["arguments"]) for call in whole.calls]
        logprobs = None
        if asked.alternatives is not None:
            logprobs = {"content": await answers.likelihoods(service, asked.model, whole.tokens, asked.alternatives), "refusal": None}
        choice = {"index": place, "message": message, "logprobs": logprobs, "finish_reason": answers.finish_reason(whole.reason)}
        choices.append(choice | answers.extras(whole))
    return head.of(
        "chat.completion",
        choices=choices,
        usage=answers.usage_of([whole.usage for whole in wholes], [one for whole in wholes for one in whole.energy]),
    )


def _call(id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


async def _chunks(service: Service, asked: Asked, head: Head, counted: bool) -> AsyncIterator[Sequence[Frame]]:
    """The chunks of a stream, then `[DONE]`. A failure on the way is an error frame, after which nothing comes."""
    counts = answers.Counts()
    tokens: dict[int, list[Token]] = {place: [] for place in range(len(asked.settings))}
    opened: set[int] = set()
    shared: dict[str, Any] = {"usage": None} if counted else {}

    async def chunk(place: int, delta: dict[str, Any], reason: str | None = None, **rest: Any) -> Frame:
        if place not in opened:
            opened.add(place)
            delta = {"role": "assistant", **({} if "tool_calls" in delta else {"content": ""}), **delta}
        logprobs = None
        if asked.alternatives is not None and (held := tokens[place]):
            tokens[place] = []
            logprobs = {"content": await answers.likelihoods(service, asked.model, held, asked.alternatives), "refusal": None}
        return whole(place, delta, logprobs, reason, **rest)

    def whole(place: int, delta: dict[str, Any], logprobs: dict[str, Any] | None, reason: str | None, **rest: Any) -> dict[str, Any]:
        choice = {"index": place, "delta": delta, "logprobs": logprobs, "finish_reason": reason, **rest}
        return head.of("chat.completion.chunk", choices=[choice], **shared)

    def plain(place: int) -> Alike:
        return Alike(lambda text: whole(place, {"content": text}, None, None))

    alike = {place: plain(place) for place in tokens}

    async def frame(place: int, piece: tool_calls.Piece) -> Frame | None:
        match piece:
            case Text(text):
                first = place not in opened
                return await chunk(place, {"content": text}) if first or tokens[place] else alike[place].of(text)
            case Token():
                tokens[place].append(piece)
            case tool_calls.CallPart(index, arguments, id, name):
                opening = {"id": id, "type": "function"} if id else {}
                function = {"name": name} if id else {}
                delta = {"index": index, **opening, "function": {**function, "arguments": arguments}}
                return await chunk(place, {"tool_calls": [delta]})
            case Citation():
                return await chunk(place, {}, steelyard={"citations": [answers.citation_of(piece)]})
            case Confidence():
                return await chunk(place, {}, steelyard={"confidence": answers.confidence_of(piece)})
            case Done(reason):
                return await chunk(place, {}, answers.finish_reason(reason), **answers.late(reason))

    async with closing(batches := answers.framed(asked.answers(service), service, counts, frame)):
        async for frames in batches:
            yield frames
    if counted:
        usage = answers.usage_of(list(counts.usages.values()), counts.energies)
        yield head.of("chat.completion.chunk", choices=[], usage=usage), "[DONE]"
    else:
        yield ("[DONE]",)
