"""What crosses between a server and its engine's process: frames of JSON, many events in one.

A frame is its length (4 bytes, big-endian) and a JSON list of messages; a message is a list that begins with the request's number
(0: the process itself) and a word. JSON rather than pickle: neither side can be made to run code by the other, lone surrogates and
infinities come through as they are, and one call encodes all that has gathered since the last frame.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from steelyard.core import errors
from steelyard.core.answer_form import AnswerForm
from steelyard.core.errors import SteelyardError
from steelyard.core.levers import Lever
from steelyard.core.protocols import (
    AnswerSettings,
    Citation,
    Confidence,
    Considered,
    Conversation,
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
from steelyard.core.recipe_parts import written_lever
from steelyard.serve.served import EngineFault, EngineGone, ServedInfo, ServedLever

HEADER = 4
MOST_BYTES = 256 * 2**20
"""Longest frame; far above what a server lets in, and a bound on what a damaged length can ask for."""
MOST_DEPTH = 64
"""Containers within containers, in levers' settings and tools."""
DEFAULTS = AnswerSettings()


def framed(messages: Sequence[Any]) -> bytes:
    """Messages as one frame.

    Raises:
        SteelyardError: they hold what JSON has no words for, or are too long.
    """
    try:
        body = json.dumps(messages, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise SteelyardError(f"the request cannot be passed on: {error}", do="Use texts, numbers and lists of them.") from None
    if len(body) > MOST_BYTES:
        raise SteelyardError(f"the request is {len(body)} bytes long", do=f"At most {MOST_BYTES} bytes are passed on.")
    return len(body).to_bytes(HEADER, "big") + body


# Events. What comes with every token is short.

_WRITTEN: Mapping[type, Callable[[Any], list[Any]]] = {
    Text: lambda e: ["text", e.text],
    Token: lambda e: ["token", e.id, e.text, e.logprob, e.entropy, e.sampled_logprob, e.alternatives],
    ToolCall: lambda e: ["call", e.id, e.name, e.arguments],
    ToolResult: lambda e: ["tool", e.id, e.content],
    Citation: lambda e: ["citation", e.source, e.title, e.text, e.score],
    Lookup: lambda e: ["lookup", e.query, e.index, e.threshold, [dataclasses.astuple(one) for one in e.considered], e.given],
    Confidence: lambda e: ["confidence", e.value, e.kind, e.start, e.end],
    Usage: lambda e: ["usage", e.prompt_tokens, e.completion_tokens, e.calls, e.verified],
    Energy: lambda e: ["energy", e.low, e.high, e.source, e.shared],
    Failure: lambda e: ["failure", e.message],
    Done: lambda e: ["done", e.reason],
}


def _token(id: int, text: str, logprob: float, entropy: float, sampled: float, alternatives: list[list[Any]]) -> Token:
    return Token(id, text, logprob, entropy, sampled, tuple((other, value) for other, value in alternatives))


def _lookup(query: str, index: str, threshold: float, considered: list[list[Any]], given: list[str]) -> Lookup:
    weighed = [
        Considered(Passage(*passage), rank, bm25_rank, bm25, fit, sentence, tuple(found), tuple(asked))
        for passage, rank, bm25_rank, bm25, fit, sentence, found, asked in considered
    ]
    return Lookup(query, index, threshold, tuple(weighed), tuple(given))


_READ: Mapping[str, Callable[..., Event]] = {
    "text": Text,
    "token": _token,
    "call": ToolCall,
    "tool": ToolResult,
    "citation": Citation,
    "lookup": _lookup,
    "confidence": Confidence,
    "usage": Usage,
    "energy": Energy,
    "failure": Failure,
    "done": Done,
}


def event_written(event: Event) -> list[Any]:
    """An event as a word and its fields."""
    return _WRITTEN[type(event)](event)


def event_read(word: str, fields: Sequence[Any]) -> Event:
    """The event that a word and fields are."""
    return _READ[word](*fields)


# Errors cross as what they are.

_ERRORS: Mapping[str, type[SteelyardError]] = {
    kind.__name__: kind
    for kind in (*(value for value in vars(errors).values() if isinstance(value, type)), EngineGone, EngineFault)
    if issubclass(kind, SteelyardError)
}


def error_written(error: BaseException) -> list[Any]:
    """Class name, what, where and what to do. Kinds of other packages cross as the nearest kind of ours above them."""
    if isinstance(error, SteelyardError):
        kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS)
        return [kind, error.what, error.where, error.do]
    return [EngineFault.__name__, f"the engine failed ({type(error).__name__})", None, "Its log says more; please report it."]


def error_read(kind: str, what: str, where: str | None, do: str | None) -> SteelyardError:
    """The error that was written."""
    return _ERRORS[kind](what, where=where, do=do)


# Requests.


def conversation_written(conversation: Conversation) -> list[Any]:
    """Messages as lists.

    Raises:
        SteelyardError: something in it is no message, or its content no text.
    """
    out = []
    for number, message in enumerate(conversation, 1):
        if not isinstance(message, Message) or not isinstance(message.content, str):
            raise SteelyardError(f"{message!r:.80} is no message with a text", where=f"message {number}", do="Give a role and a text.")
        calls = [[call.id, call.name, call.arguments] for call in message.tool_calls]
        out.append([message.role, message.content, message.name, calls])
    return out


def conversation_read(written: Sequence[Any]) -> list[Message]:
    """The messages that were written."""
    return [Message(role, content, name, tuple(ToolCall(*call) for call in calls)) for role, content, name, calls in written]


def settings_written(settings: AnswerSettings) -> dict[str, Any]:
    """The fields that are not at their defaults.

    Raises:
        SteelyardError: `stop` is nothing that could hold strings.
    """
    if not isinstance(settings.stop, str | list | tuple):
        raise SteelyardError(f"stop is of type {type(settings.stop).__name__}", where="answer settings", do="Give a list of strings.")
    out: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if type(value) is not type(getattr(DEFAULTS, field.name)) or value != getattr(DEFAULTS, field.name):
            out[field.name] = [value.kind, value.source] if isinstance(value, AnswerForm) else value
    return out


def settings_read(written: Mapping[str, Any]) -> AnswerSettings:
    """The settings that were written; whether they mean anything is for the engine to say."""
    fields = dict(written)
    if isinstance(fields.get("stop"), list):
        fields["stop"] = tuple(fields["stop"])
    if isinstance(fields.get("tools"), list):
        fields["tools"] = tuple(fields["tools"])
    if "logit_bias" in fields:
        fields["logit_bias"] = tuple((id, bias) for id, bias in fields["logit_bias"])
    if isinstance(fields.get("constraint"), list):
        fields["constraint"] = AnswerForm(*fields["constraint"])
    return AnswerSettings(**fields)


def levers_written(levers: Sequence[Lever]) -> list[dict[str, Any]]:
    """Levers as recipe entries.

    Raises:
        SteelyardError: something that is no lever.
    """
    for lever in levers:
        if not isinstance(lever, Lever):
            raise SteelyardError(f"{lever!r:.80} is no lever", where="levers", do="Read it with steelyard.core.levers.parse.")
    try:
        written = [written_lever(lever) for lever in levers]
    except (ValueError, RecursionError) as error:
        raise SteelyardError(f"a lever's settings cannot be passed on: {error}", where="levers", do="Nest them less.") from None
    check_depth(written, "levers")
    return written


def check_depth(value: Any, where: str, left: int = MOST_DEPTH) -> None:
    """Refuses what is nested so deep that reading it, here or there, would not end well.

    Raises:
        SteelyardError: more than `MOST_DEPTH` containers within one another.
    """
    if isinstance(value, Mapping | list | tuple):
        if not left:
            raise SteelyardError(f"nested more than {MOST_DEPTH} deep", where=where, do="Flatten it.")
        for part in value.values() if isinstance(value, Mapping) else value:
            check_depth(part, where, left - 1)


def tools_written(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Descriptions of tools as they are.

    Raises:
        SteelyardError: one is no object, or nested too deep.
    """
    if tools is None:
        return None
    if not all(isinstance(tool, Mapping) for tool in tools):
        raise SteelyardError("a tool is no object", where="tools", do="Describe tools as OpenAI's API does.")
    check_depth(tools, "tools")
    return [dict(tool) for tool in tools]


def info_written(info: ServedInfo) -> dict[str, Any]:
    """A model's description as JSON."""
    return dataclasses.asdict(info) | {"capabilities": sorted(info.capabilities)}


def info_read(written: Mapping[str, Any]) -> ServedInfo:
    """The description that was written."""
    changes = {
        "capabilities": frozenset(written["capabilities"]),
        "parents": tuple(written["parents"]),
        "levers": tuple(ServedLever(**lever) for lever in written["levers"]),
        "eos_ids": tuple(written["eos_ids"]),
        "tool_forms": tuple(written["tool_forms"]),
    }
    return ServedInfo(**{**written, **changes})
