"""`POST /api/conversations/{id}/answer`: an answer to a message of the store, streamed and kept with how it was made.

The first event comes with the model's first: until then a request can still be refused with a status. The record is on the disk
before `done` is sent. A client that goes away ends the answer, and what was written till then is kept with the reason `cancelled`.
The text is written down while it grows, so that a server that is killed leaves what its clients have read.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import Field

from steelyard.core.answer_form import AnswerForm
from steelyard.core.errors import SteelyardError, nearest
from steelyard.core.protocols import (
    AnswerSettings,
    Citation,
    Confidence,
    Done,
    Energy,
    Event,
    Failure,
    Lookup,
    Text,
    Token,
    ToolCall,
    ToolResult,
    Usage,
)
from steelyard.serve.api.answers import add_confidence
from steelyard.serve.api.bodies import Body, Part, StrictRoute
from steelyard.serve.api.fields import limit, stops
from steelyard.serve.api.levers import names_of, requested
from steelyard.serve.api.reading import read_all
from steelyard.serve.api.streams import begun, sse, while_connected
from steelyard.serve.http_errors import ApiError, one_line
from steelyard.serve.places.place import quoting
from steelyard.serve.service import Service
from steelyard.serve.store.answers import Generation
from steelyard.serve.store.attachments import Attached
from steelyard.serve.store.rendering import Rendered, rendered
from steelyard.serve.store.store import Store
from steelyard.serve.users import LOCAL

CALIBRATED, ABSTAINED = "calibrated", "abstained"
"""Kinds of confidence that a calibration stands behind (`augment/uncertainty/confidence.py`, which is too heavy for this process)."""
_writing: set[asyncio.Task[Any]] = set()
"""Records being written for clients who have gone; a task that nobody holds may be swept away."""


class Drawn(Part):
    """How an answer is drawn: the names of `AnswerSettings`."""

    max_tokens: int | None = Field(default=None, ge=1, description="most tokens of the answer; None is the server's usual limit")
    temperature: float = Field(default=0.0, ge=0, le=2, description="softmax temperature; 0 always takes the likeliest token")
    top_k: int = Field(default=0, ge=0, le=2**31, description="keep the k likeliest tokens; 0 keeps all")
    top_p: float = Field(default=1.0, gt=0, le=1, description="keep the smallest set of tokens with this probability")
    min_p: float = Field(default=0.0, ge=0, le=1, description="drop tokens below this share of the likeliest's probability")
    repetition_penalty: float = Field(default=1.0, gt=0, le=100, description="above 1, tokens seen become less likely")
    presence_penalty: float = Field(default=0.0, ge=-2, le=2, description="subtracted once from the logits of generated tokens")
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2, description="subtracted per occurrence from the logits of generated tokens")
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63, description="the same seed gives the same answer; None takes a new one")
    stop: str | list[str] | None = Field(default=None, description="texts that end the answer and are no part of it")
    alternatives: int = Field(default=5, ge=0, description="likeliest alternatives to keep of each token")
    token_events: bool = Field(
        default=True, description="whether the stream holds tokens; the record always does where the model gives them"
    )
    quote: bool = Field(
        default=False,
        description="the answer is one of the figures that went with the turn it answers, word for word; the model says only which",
    )
    ignore_eos: bool = Field(default=False, description="go on past the end of the answer until `max_tokens`")
    seconds: float | None = Field(default=None, gt=0, description="longest time to the end of the answer, in seconds")


class AnswerRequest(Body):
    """A message to answer, and how."""

    parent: str = Field(description="id of the message to answer")
    model: str = Field(min_length=1, max_length=512, description="name of a served model")
    settings: Drawn = Field(default_factory=Drawn)
    levers: list[str | dict[str, Any]] = Field(default_factory=list, description="levers for this answer, as a recipe writes them")
    store: bool = Field(True, description="whether the answer is kept")


def router(service: Service) -> APIRouter:
    """The route of answers; its paths are relative to `/api`."""
    assert service.store is not None
    store = service.store
    routes = APIRouter(route_class=StrictRoute)

    @routes.post("/conversations/{conversation}/answer", response_class=StreamingResponse)
    async def answer(request: Request, conversation: str, body: AnswerRequest) -> StreamingResponse:
        """Answers a message; server-sent events of the types message, joined, text, token, citation, confidence, usage, error, done."""
        user: str = request.state.user
        known = service.engine.models
        if body.model not in known or known[body.model].kind != "chat":
            chats = [name for name, info in known.items() if info.kind == "chat"]
            raise ApiError(
                f"No model here that answers is called `{body.model[:80]}`. {nearest(body.model, chats)}", status=404, param="model"
            )
        levers = await run_in_threadpool(requested, service, body.model, body.levers, user) if body.levers else ()
        settings = _settings(body.settings, service, user)
        joins = (
            "turns_in_a_row" not in known[body.model].capabilities or bool(body.levers) or any(one.on for one in known[body.model].levers)
        )
        read = await _context(service, user, conversation, body.parent, joins)
        if body.settings.quote:
            settings = dataclasses.replace(settings, constraint=_quoting(read, service))
        answerer = service.engine.answerer(body.model)
        generation = Generation(body.model, known[body.model].fingerprint, list(body.levers), _told(settings, body.settings.quote))
        generation.joined = next((len(ids) for ids in read.joined if body.parent in ids), 1)
        told = _Told(store if body.store else None, user, conversation, body.parent, generation, body.settings.token_events)
        if (about := known[body.model].calibration) is not None:
            told.calibration = dict(about)
        if body.levers:
            told.names = await run_in_threadpool(names_of, service, user)

        async def pieces(ids: list[int]) -> list[str]:
            return await service.engine.pieces(body.model, ids)

        events = _stream(told, read, answerer.answer_batches(read.messages, settings, levers=levers), pieces)
        silence = service.settings.heartbeat_seconds
        return sse(await while_connected(request, begun(events, silence)), silence=silence)

    return routes


@dataclasses.dataclass
class _Told:
    """An answer as far as it has come, and where it belongs."""

    store: Store | None
    user: str
    conversation: str
    parent: str
    generation: Generation
    shows_tokens: bool
    names: dict[str, str] = dataclasses.field(default_factory=dict)  # of indexes, by what the engine knows them by
    calibration: dict[str, Any] | None = None
    id: str | None = None
    texts: list[str] = dataclasses.field(default_factory=list)
    finished: bool = False
    began: float = dataclasses.field(default_factory=time.monotonic)
    first: float | None = None  # seconds until the first token
    took: dict[str, Any] = dataclasses.field(default_factory=lambda: {"energy_joules": None})

    async def begin(self) -> None:
        if self.store is not None:
            begin = self.store.answers.begin
            self.id = await run_in_threadpool(begin, self.user, self.conversation, self.parent, self.generation)

    def say(self, text: str) -> None:
        """More of the text; it is written down before long, for the case that the server does not live to the end of the answer."""
        self.texts.append(text)
        if self.store is not None and self.id is not None:
            self.store.answers.grow(self.id, text)

    def sure(self, event: Confidence) -> None:
        """How sure the model is, of the answer or of a sentence; what is calibrated says what on."""
        confidence = self.generation.confidence = dict(self.generation.confidence or {})
        add_confidence(confidence, event)
        if self.calibration is not None and event.kind in (CALIBRATED, ABSTAINED):
            confidence["calibration"] = self.calibration

    async def hear(self, event: Event, pieces: Callable[[list[int]], Any]) -> dict[str, Any] | None:
        """Takes in an event other than the last; what the client is told of it."""
        generation = self.generation
        if self.first is None and isinstance(event, Text | Token):
            self.first = time.monotonic() - self.began
        match event:
            case Text(text):
                self.say(text)
                return {"type": "text", "text": text}
            case Token():
                token = await _token(event, pieces)
                generation.tokens.append(token)
                return {"type": "token"} | token if self.shows_tokens else None
            case ToolCall() | ToolResult():
                tool = {"type": "tool_call" if isinstance(event, ToolCall) else "tool_result"} | dataclasses.asdict(event)
                generation.tools.append(tool)
                return tool
            case Citation():
                citation = dataclasses.asdict(event) | {"score": _finite(event.score)}
                generation.citations.append(citation)
                return {"type": "citation"} | citation
            case Lookup():
                lookup = lookup_of(event, self.names)
                generation.lookups.append(lookup)
                return {"type": "lookup"} | lookup
            case Confidence():
                self.sure(event)
                return {"type": "confidence"} | (generation.confidence or {})
            case Energy():
                self.took = {"energy_joules": dataclasses.asdict(event)}
            case Usage():
                generation.usage = self.used(event.prompt_tokens, event.completion_tokens)
                return {"type": "usage"} | generation.usage
            case Failure(message):
                return self.fail(message)

    def fail(self, message: str) -> dict[str, Any]:
        """The answer could not go on, or what it is made of failed; what the client is told."""
        self.generation.error = message
        return {"type": "error", "message": message}

    def used(self, read: int | None, wrote: int | None) -> dict[str, Any]:
        """What an answer took, with its counts of tokens as far as they are known."""
        counts = {"prompt_tokens": read, "completion_tokens": wrote}
        return counts | {"seconds": time.monotonic() - self.began, "first_token_seconds": self.first} | self.took

    async def finish(self, reason: str) -> None:
        """Writes the record once, even while the stream it belongs to is being cancelled."""
        if self.finished:
            return
        self.finished = True
        self.generation.reason = reason
        if self.generation.usage is None:  # nobody waits for the engine's own counts: those tokens that came are known
            silent = self.texts and not self.generation.tokens  # a text whose tokens were not told
            self.generation.usage = self.used(None, None if silent else len(self.generation.tokens))
        if self.store is not None and self.id is not None:
            text = "".join(self.texts)
            finish = self.store.answers.finish
            task = asyncio.ensure_future(run_in_threadpool(finish, self.user, self.conversation, self.id, text, self.generation))
            _writing.add(task)
            task.add_done_callback(_writing.discard)
            await asyncio.shield(task)


async def _stream(
    told: _Told, read: Rendered, batches: AsyncIterator[Sequence[Event]], pieces: Callable[[list[int]], Any]
) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
    reason, ended = "cancelled", False  # unless it comes to its end
    frames: list[Mapping[str, Any]] = []
    async with aclosing(batches) as answer:  # type: ignore[type-var]
        events = await anext(answer, None)
        await told.begin()
        try:
            frames.append({"type": "message", "id": told.id, "parent": told.parent})
            frames += [{"type": "joined", "messages": list(ids)} for ids in read.joined]
            while events is not None and not ended:
                for event in events:
                    if isinstance(event, Done):
                        reason, ended = event.reason, True
                    elif (frame := await told.hear(event, pieces)) is not None:
                        frames.append(frame)
                if frames:
                    yield frames
                    frames = []
                if not ended:
                    events = await anext(answer, None)
            if not ended:
                reason = "error"
                yield (told.fail("the answer ended without saying why"),)
        except SteelyardError as error:  # the engine, on the way
            reason = "error"
            yield *frames, told.fail(one_line(error))
        except Exception as error:
            reason, told.generation.error = "error", type(error).__name__
            if frames:
                yield frames
            raise
        finally:
            await told.finish(reason)
    yield ({"type": "done", "reason": reason},)


def lookup_of(event: Lookup, names: Mapping[str, str]) -> dict[str, Any]:
    """A search in documents as the page and the record have it; `given` says which passages the model read."""
    considered = []
    for one in event.considered:
        passage = {"source": one.passage.source, "title": one.passage.title, "text": one.passage.text}
        numbers = {"relevance": _finite(one.passage.score), "bm25": _finite(one.bm25), "fit": _finite(one.fit)}
        places = {"rank": one.rank, "bm25_rank": one.bm25_rank, "given": one.passage.id in event.given}
        considered.append(passage | numbers | places | {"sentence": one.sentence, "found": list(one.found), "asked": list(one.asked)})
    known = {"query": event.query, "index": names.get(event.index, event.index), "threshold": event.threshold}
    return known | {"considered": considered}


async def _token(event: Token, pieces: Callable[[list[int]], Any]) -> dict[str, Any]:
    texts = await pieces([id for id, _ in event.alternatives]) if event.alternatives else []
    others = [{"text": text, "logprob": _finite(chance)} for text, (_, chance) in zip(texts, event.alternatives, strict=True)]
    numbers = {"logprob": _finite(event.logprob), "entropy": _finite(event.entropy)}
    return {"id": event.id, "text": event.text} | numbers | {"alternatives": others}


def _finite(value: float) -> float | None:
    """A number JSON can hold; the logarithm of probability 0 becomes null."""
    return value if math.isfinite(value) else None


async def _context(service: Service, user: str, conversation: str, parent: str, joins: bool) -> Rendered:
    """What the model reads, files included; those that nobody has read yet are read now.

    Messages in a row are `joins`-ed where its chat template refuses them as turns of their own, and where levers, many of which look
    at the last turn, are to find the whole question in it.
    """
    assert service.store is not None
    store = service.store
    spoken = await run_in_threadpool(store.messages.context, user, conversation, parent)
    files = (part["attachment"] for _, parts in spoken for part in parts if part["type"] == "file" and part.get("read") != "none")
    readings = await read_all(service, user, files)

    def file(id: str) -> Attached:
        attached = store.attachments.read(user, id)
        return dataclasses.replace(attached, reading=readings.get(id, attached.reading))  # a reading that does not last is not stored

    read = await run_in_threadpool(rendered, spoken, file, joins)
    if not read.messages:
        raise SteelyardError("there is nothing to answer: all of it is hidden or empty", where="parent", do="Show a message, or write one.")
    return read


def _settings(drawn: Drawn, service: Service, user: str) -> AnswerSettings:
    """The settings of an answer within the server's limits; tokens are always asked for, because the record holds them."""
    if drawn.alternatives > service.settings.alternatives:
        most = service.settings.alternatives
        raise ApiError(
            f"`settings.alternatives`: {drawn.alternatives}; at most {most}.", param="settings.alternatives", code="invalid_value"
        )
    most = service.settings.seconds
    if drawn.seconds is not None and drawn.seconds > most:
        raise ApiError(f"`settings.seconds`: {drawn.seconds:g} s; at most {most:g}.", param="settings.seconds", code="invalid_value")
    given = drawn.model_dump(exclude={"token_events", "quote"})
    return AnswerSettings(
        **given
        | {
            "max_tokens": limit(drawn.max_tokens, service, "settings.max_tokens"),
            "seed": secrets.randbits(62) if drawn.seed is None else drawn.seed,
            "stop": stops(drawn.stop, service),
            "token_events": True,
            "seconds": most if drawn.seconds is None else float(drawn.seconds),
            "tenant": "" if user == LOCAL else user,
        }
    )


def _quoting(read: Rendered, service: Service) -> AnswerForm:
    """The form of an answer that is one of the figures of its turn.

    Raises:
        ApiError: no figures went with it, or so many that holding an answer to them would take too much.
    """
    if not read.figures:
        raise ApiError(
            "`settings.quote`: no figures went with this turn. Point at a table, or leave it out.",
            param="settings.quote",
            code="invalid_value",
        )
    form = quoting(read.figures)
    if len(form.encode()) > service.settings.schema_bytes:
        raise ApiError(f"`settings.quote`: {len(read.figures)} figures are too many.", param="settings.quote", code="invalid_value")
    return AnswerForm("regex", form)


def _told(settings: AnswerSettings, quote: bool) -> dict[str, Any]:
    """The settings as the record keeps them."""
    kept = dataclasses.asdict(settings) | ({"quote": True} if quote else {})
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in kept.items() if name not in ("tenant", "constraint")
    }
