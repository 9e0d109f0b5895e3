"""Every field of OpenAI's requests: what is honoured, what is accepted without effect, what is refused by name.

The three lists of this file are the truth that `docs/serve.md` prints and that a test holds against the `openai` client's own types.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from steelyard.core.answer_form import AnswerForm
from steelyard.core.protocols import AnswerSettings
from steelyard.serve.api.bodies import Body, Part
from steelyard.serve.http_errors import ApiError
from steelyard.serve.service import Service
from steelyard.serve.users import LOCAL

NOT_KEPT = "nothing is kept of a request to this API"
ONE_RANK = "every request is served alike"
CACHED = "what was read before is reused by itself, and never across tenants"
INERT = {
    "user": NOT_KEPT,
    "metadata": NOT_KEPT,
    "store": NOT_KEPT,
    "safety_identifier": NOT_KEPT,
    "service_tier": ONE_RANK,
    "prompt_cache_key": CACHED,
    "prompt_cache_retention": CACHED,
    "prompt_cache_options": CACHED,
}
"""Accepted by chat completions and responses without effect, with the reason."""

TEXT_ONLY = "The models here read and write text."
REFUSED_CHAT: dict[str, tuple[tuple[Any, ...], str]] = {
    "audio": ((), TEXT_ONLY),
    "modalities": ((["text"],), TEXT_ONLY),
    "functions": (([],), "Use `tools`."),
    "function_call": (("none",), "Use `tool_choice`."),
    "reasoning_effort": (("none",), "Leave it out."),
    "verbosity": (("medium",), "Say in the prompt how long the answer should be."),
    "web_search_options": ((), "Nothing is fetched from the web."),
    "moderation": ((), "Nothing is moderated."),
}
REFUSED_RESPONSES: dict[str, tuple[tuple[Any, ...], str]] = {
    "previous_response_id": ((), "This API keeps nothing: send the whole conversation in `input`."),
    "conversation": ((), "This API keeps nothing: send the whole conversation in `input`."),
    "background": ((False,), "Stream the response instead."),
    "background_options": ((), "Stream the response instead."),
    "truncation": (("disabled",), "Nothing is cut here: shorten the conversation."),
    "context_management": (([],), "Nothing is cut here: shorten the conversation."),
    "include": (([],), "Of the extras only what chat completions give exists: use `/v1/chat/completions`."),
    "top_logprobs": ((0,), "Use `/v1/chat/completions`."),
    "prompt": ((), "Send the text itself in `input`."),
    "reasoning": (({},), "Leave it out."),
    "moderation": ((), "Nothing is moderated."),
    "image": ((), TEXT_ONLY),
    "access_programs": ((), "Leave it out."),
}
INERT_RESPONSES = {**INERT, "max_tool_calls": "it counts calls of built-in tools, and there are none"}


BIASED = 1024
"""Tokens of one request whose logits may be biased."""


class Extension(Part):
    """What this server knows beyond OpenAI's API."""

    levers: list[str | dict[str, Any]] = Field(default_factory=list, description="levers for this request, as a recipe writes them")
    seconds: float | None = Field(None, gt=0, description="longest time to the end of the answer, in seconds; it then ends as it is")
    resumable: bool = Field(False, description="keep the stream, so that `GET /v1/streams/ID?from=N` can go on with it")


class StreamOptions(Part):
    """How a stream is sent."""

    include_usage: bool = Field(False, description="end with a chunk that counts tokens")
    include_obfuscation: bool = Field(False, description="accepted, without effect: no padding is added")


class JsonSchema(Part):
    """The form of an answer."""

    name: str = Field(min_length=1, max_length=64, description="without effect")
    description: str | None = Field(None, description="without effect")
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema", description="the JSON schema")
    strict: bool | None = Field(None, description="without effect: the answer always has the form")


class ResponseFormat(Part):
    """The form that the answer has."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Sampling(Body):
    """Fields that chat completions and completions share."""

    model: str = Field(min_length=1, max_length=512, description="name of a served model")
    temperature: float = Field(1.0, ge=0, le=2, description="softmax temperature; 0 always takes the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1, description="keep the smallest set of tokens with this probability")
    top_k: int = Field(0, ge=0, le=2**31, description="keep the k likeliest tokens; 0 keeps all (beyond OpenAI's API)")
    min_p: float = Field(0.0, ge=0, le=1, description="drop tokens below this share of the likeliest's probability (beyond OpenAI's API)")
    repetition_penalty: float = Field(1.0, ge=0.01, le=100, description="above 1, tokens seen become less likely (beyond OpenAI's API)")
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="subtracted once from the logits of generated tokens")
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="subtracted per occurrence from the logits of generated tokens")
    logit_bias: dict[str, float] = Field(
        default_factory=dict, description="token ids, each with what is added to its logit: -100 rules it out, 100 all but forces it"
    )
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="the same seed gives the same answer; answer i of n has seed + i")
    stop: str | list[str] | None = Field(None, description="texts that end the answer and are no part of it")
    n: int = Field(1, ge=1, description="answers to give")
    stream: bool = Field(False, description="send the answer in pieces, as server-sent events")
    stream_options: StreamOptions | None = None
    ignore_eos: bool = Field(False, description="go on past the end of the answer until `max_tokens` (beyond OpenAI's API)")
    steelyard: Extension = Field(default_factory=lambda: Extension.model_validate({}))

    inert: ClassVar[Mapping[str, str]] = INERT


def check_streaming(body: Sampling) -> None:
    """Refuses what is about a stream where none is asked for.

    Raises:
        ApiError: there is some.
    """
    if body.stream:
        return
    if body.stream_options is not None:
        raise ApiError("`stream_options` needs `stream`: true.", param="stream_options", code="invalid_value")
    check_resumable(body.steelyard, body.stream)


def check_resumable(extension: Extension, stream: bool) -> None:
    """Refuses to keep what is no stream.

    Raises:
        ApiError: it is to be kept.
    """
    if extension.resumable and not stream:
        raise ApiError("`steelyard.resumable` needs `stream`: true.", param="steelyard.resumable", code="invalid_value")


def stops(given: str | list[str] | None, service: Service) -> tuple[str, ...]:
    """The stop strings of a request.

    Raises:
        ApiError: too many, or an empty one.
    """
    told = (given,) if isinstance(given, str) else tuple(given or ())
    if len(told) > service.settings.stops:
        raise ApiError(f"`stop`: {len(told)} texts; at most {service.settings.stops}.", param="stop", code="invalid_value")
    if not all(told) or any(len(stop) > 1024 for stop in told):
        raise ApiError("`stop`: each text has 1 to 1024 characters.", param="stop", code="invalid_value")
    return told


def biases(given: Mapping[str, float], vocabulary: int) -> tuple[tuple[int, float], ...]:
    """The biases of a request by token id.

    Raises:
        ApiError: too many, an id that is none of the model's, or a bias beyond -100 to 100.
    """
    if len(given) > BIASED:
        raise ApiError(f"`logit_bias`: {len(given)} tokens; at most {BIASED}.", param="logit_bias", code="invalid_value")
    for text, bias in given.items():
        if not (text.isascii() and text.isdigit() and str(int(text[:12])) == text and int(text) < vocabulary):
            raise ApiError(f"`logit_bias`: `{text[:40]}` is no token id below {vocabulary}.", param="logit_bias", code="invalid_value")
        if not -100 <= bias <= 100:
            raise ApiError(f"`logit_bias`: {bias:g} for token {text}; from -100 to 100.", param="logit_bias", code="invalid_value")
    return tuple((int(text), float(bias)) for text, bias in given.items())


def limit(asked: int | None, service: Service, param: str, default: int | None = None) -> int:
    """Most tokens of an answer.

    Raises:
        ApiError: more than the operator allows.
    """
    most = service.settings.tokens
    if asked is None:
        return min(default or service.settings.default_tokens, most)
    if asked > most:
        raise ApiError(f"`{param}`: {asked} tokens; this server gives at most {most}.", param=param, code="invalid_value")
    return asked


def answer_settings(
    body: Sampling,
    service: Service,
    user: str,
    *,
    most: int,
    alternatives: int | None,
    constraint: AnswerForm | None = None,
    prompts: int = 1,
) -> list[AnswerSettings]:
    """How each of the `n` answers is drawn.

    Args:
        most: tokens of each.
        alternatives: how many alternatives each token comes with; None for no tokens at all.
        constraint: the form of each.
        prompts: how many prompts have so many answers each.

    Raises:
        ApiError: beyond the limits of the server.
    """
    if body.n > service.settings.choices:
        raise ApiError(f"`n`: {body.n} answers; at most {service.settings.choices}.", param="n", code="invalid_value")
    room = service.engine.models[body.model].slots + service.settings.queue
    if most and body.n * prompts > room:  # asking again would not help
        param = "n" if body.n > 1 else "prompt"
        what = f"`{param}`: {body.n * prompts} answers; this server writes or lets wait at most {room} at once."
        raise ApiError(what, param=param, code="invalid_value")
    if body.ignore_eos and constraint is not None:
        raise ApiError("`ignore_eos` under a form of the answer: where it is complete nothing can follow.", param="ignore_eos")
    seed = secrets.randbits(62) if body.seed is None else body.seed
    biased = biases(body.logit_bias, service.engine.models[body.model].vocabulary)
    return [
        AnswerSettings(
            max_tokens=most,
            temperature=float(body.temperature),
            top_k=body.top_k,
            top_p=float(body.top_p),
            min_p=float(body.min_p),
            repetition_penalty=float(body.repetition_penalty),
            presence_penalty=float(body.presence_penalty),
            frequency_penalty=float(body.frequency_penalty),
            seed=seed + place,
            stop=stops(body.stop, service),
            alternatives=alternatives or 0,
            token_events=alternatives is not None,
            constraint=constraint,
            ignore_eos=body.ignore_eos,
            seconds=seconds(body.steelyard, service),
            tenant="" if user == LOCAL else user,
            logit_bias=biased,
        )
        for place in range(body.n)
    ]


def seconds(extension: Extension, service: Service) -> float:
    """Longest time to the end of an answer.

    Raises:
        ApiError: more than the operator allows.
    """
    most = service.settings.seconds
    if extension.seconds is not None and extension.seconds > most:
        raise ApiError(f"`steelyard.seconds`: {extension.seconds:g} s; at most {most:g}.", param="steelyard.seconds", code="invalid_value")
    return most if extension.seconds is None else float(extension.seconds)


def form(kind: str, schema: Mapping[str, Any] | None, service: Service, param: str) -> AnswerForm | None:
    """The form that a response format asks for.

    Raises:
        ApiError: a schema is missing, or there is one that would not be used; one larger than the server allows.
        SteelyardError: the schema cannot be written as JSON.
    """
    if kind != "json_schema" and schema is not None:
        raise ApiError(f"`{param}` would have no effect: the type of the format is `{kind}`, not json_schema.", param=param)
    if kind == "text":
        return None
    if kind == "json_object":
        return AnswerForm.read({"json_schema": {"type": "object"}})
    if schema is None:
        raise ApiError(f"`{param}` is missing.", param=param, code="missing_field")
    return bounded(schema, service, param)


def bounded(schema: Mapping[str, Any], service: Service, param: str) -> AnswerForm:
    """A schema as a form, within the server's limits."""
    if (size := len(json.dumps(schema).encode())) > service.settings.schema_bytes:
        most = service.settings.schema_bytes
        raise ApiError(f"`{param}`: {size} bytes of schema; at most {most}.", param=param, code="invalid_value")
    return AnswerForm.read({"json_schema": schema})
