"""`POST /v1/completions`: raw text or token ids in, continuations out. No chat template and no `wrap` lever touches them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from fastapi import APIRouter, Request, Response
from pydantic import Field

from steelyard.core.levers import Lever
from steelyard.core.protocols import AnswerSettings, Done, Event, Text, Token, Usage
from steelyard.serve.api import answers, fields, levers
from steelyard.serve.api.bodies import StrictRoute
from steelyard.serve.api.chat import Head, checked_alternatives, replied
from steelyard.serve.api.models import chat_model
from steelyard.serve.api.replies import STREAMED, TextCompletion
from steelyard.serve.api.resumption import Streams
from steelyard.serve.api.streams import Alike, Frame, closing
from steelyard.serve.api.tool_calls import Piece
from steelyard.serve.http_errors import ApiError
from steelyard.serve.served import ServedInfo
from steelyard.serve.service import Service

DEFAULT_TOKENS = 16
"""OpenAI's own."""


class CompletionRequest(fields.Sampling):
    """A request to go on with a text."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(description="one or several texts, or token ids of one or several")
    max_tokens: int | None = Field(None, ge=0, description=f"most tokens of each continuation; {DEFAULT_TOKENS} unless told; 0 with `echo`")
    logprobs: int | None = Field(None, ge=0, description="give each token with its log-probability and so many alternatives")
    echo: bool = Field(False, description="begin each continuation with its prompt; with `logprobs` its tokens come with theirs")
    suffix: str | None = Field(None, description="what comes after the continuation, for a model with the capability `infill`")
    best_of: int | None = Field(None, ge=1, description="only the value of `n`: all that are drawn are given")

    inert: ClassVar[Mapping[str, str]] = {"user": fields.NOT_KEPT}


@dataclass(frozen=True)
class Asked:
    """A request once it is understood. Continuation i is of prompt i // n."""

    model: str
    prompts: Sequence[str | list[int]]
    settings: Sequence[AnswerSettings]
    levers: tuple[Lever, ...]
    alternatives: int | None
    echo: bool
    suffix: str = ""

    async def ready(self, service: Service) -> Asked:
        """The same with the prompts as the model reads them, where they have a suffix.

        Raises:
            ApiError: one of the texts holds a token that marks the middle.
        """
        if not self.suffix:
            return self
        prompts = [await service.engine.infill(self.model, str(prompt), self.suffix) for prompt in self.prompts]
        return replace(self, prompts=prompts)

    def answers(self, service: Service) -> list[AsyncIterator[Sequence[Event]]]:
        """The continuations, none of them begun."""
        answerer = service.engine.answerer(self.model)
        if not self.settings[0].max_tokens:
            return [_nothing(service, self.model, prompt) for prompt in self.prompts for _ in self.settings]
        return [answerer.complete_batches(prompt, settings, levers=self.levers) for prompt in self.prompts for settings in self.settings]

    async def echoes(self, service: Service) -> list[str]:
        """What each continuation begins with."""
        if not self.echo:
            return [""] * (len(self.prompts) * len(self.settings))
        texts = [prompt if isinstance(prompt, str) else await service.engine.detokenize(self.model, prompt) for prompt in self.prompts]
        return [text for text in texts for _ in self.settings]

    async def repeated(self, service: Service) -> list[Sequence[Token]]:
        """The prompt's tokens that each continuation begins with."""
        if not self.echo or self.alternatives is None:
            return [()] * (len(self.prompts) * len(self.settings))
        told = [await service.engine.prompt_tokens(self.model, prompt, self.alternatives) for prompt in self.prompts]
        return [tokens for tokens in told for _ in self.settings]


async def _nothing(service: Service, model: str, prompt: str | list[int]) -> AsyncIterator[Sequence[Event]]:
    """A continuation of no tokens."""
    ids = await service.engine.tokenize(model, prompt) if isinstance(prompt, str) else prompt
    yield Usage(len(ids), 0), Done("length")


def understood(body: CompletionRequest, service: Service, user: str) -> Asked:
    """A request, checked against the model and the server's limits.

    Raises:
        ApiError, SteelyardError: what is wrong with it.
    """
    info = chat_model(service, body.model, "prompt")
    prompts = _prompts(body.prompt)
    if not prompts or not all(prompts):
        raise ApiError("`prompt` is empty.", param="prompt", code="invalid_value")
    if len(prompts) > service.settings.prompts:
        raise ApiError(f"`prompt`: {len(prompts)} prompts; at most {service.settings.prompts}.", param="prompt", code="invalid_value")
    if len(prompts) * body.n > service.settings.prompts:
        most = service.settings.prompts
        raise ApiError(f"`n`: {len(prompts)} prompts times {body.n}; at most {most} continuations.", param="n", code="invalid_value")
    for ids in prompts:
        if isinstance(ids, list) and (bad := [id for id in ids if not 0 <= id < info.vocabulary]):
            raise ApiError(f"`prompt`: {bad[0]:.5g} is no token id of {info.name}.", param="prompt", code="invalid_value")
    if body.best_of is not None and body.best_of != body.n:
        raise ApiError(
            "`best_of` other than `n` is not supported: all that are drawn are given.", param="best_of", code="unsupported_field"
        )
    if body.max_tokens == 0 and not body.echo:
        raise ApiError("`max_tokens`: 0 tokens of nothing; with `echo` it gives the prompt.", param="max_tokens", code="invalid_value")
    if body.suffix:
        _check_suffix(body, prompts, info)
    fields.check_streaming(body)
    alternatives = None if body.logprobs is None else checked_alternatives(body.logprobs, service, "logprobs")
    most = fields.limit(body.max_tokens, service, "max_tokens", DEFAULT_TOKENS)
    settings = fields.answer_settings(body, service, user, most=most, alternatives=alternatives, prompts=len(prompts))
    pulled = levers.requested(service, info.name, body.steelyard.levers, user)
    return Asked(info.name, prompts, settings, pulled, alternatives, body.echo, body.suffix or "")


def _check_suffix(body: CompletionRequest, prompts: Sequence[str | list[int]], info: ServedInfo) -> None:
    if "infill" not in info.capabilities:
        raise ApiError(
            f"`suffix`: {info.name} was not taught to write what belongs between two texts; models with the capability `infill` were.",
            param="suffix",
            code="unsupported_field",
        )
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise ApiError("`suffix` goes with prompts that are texts.", param="suffix", code="invalid_value")
    if body.echo:
        raise ApiError("`echo` with `suffix`: the middle does not stand after the prompt alone.", param="echo", code="unsupported_field")


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [prompt]  # type: ignore[list-item]
    return list(prompt)  # type: ignore[arg-type]


def router(service: Service, streams: Streams) -> APIRouter:
    """`POST /v1/completions`."""
    routes = APIRouter(tags=["OpenAI"], route_class=StrictRoute)

    @routes.post("/v1/completions", response_model=TextCompletion, responses=STREAMED)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continuations of raw text; with `stream` as server-sent events of `text_completion` objects."""
        asked = await levers.understood(lambda: understood(body, service, request.state.user), body.steelyard.levers)
        asked = await asked.ready(service)
        head = Head.new(service, asked.model, "cmpl")
        return await replied(
            request, body, streams, head, lambda: _whole(service, asked, head), lambda counted: _chunks(service, asked, head, counted)
        )

    return routes


async def _whole(service: Service, asked: Asked, head: Head) -> dict[str, Any]:
    repeated = await asked.repeated(service)
    wholes = await answers.collected(asked.answers(service), service)
    choices = []
    for place, (whole, echo) in enumerate(zip(wholes, await asked.echoes(service), strict=True)):
        tokens = [*repeated[place], *whole.tokens]
        logprobs = None if asked.alternatives is None else (await _likelihoods(service, asked, tokens, 0))[0]
        choice = {"index": place, "text": echo + whole.text, "logprobs": logprobs, "finish_reason": answers.finish_reason(whole.reason)}
        choices.append(choice | answers.extras(whole))
    usage = _usage([whole.usage for whole in wholes], len(asked.settings))
    usage |= answers.energy_of([one for whole in wholes for one in whole.energy])
    return head.of("text_completion", choices=choices, usage=usage)


def _usage(usages: Sequence[Usage], each: int) -> dict[str, Any]:
    """Tokens of all prompts, each counted once, and of all continuations."""
    read, wrote = sum(usage.prompt_tokens for usage in usages[::each]), sum(usage.completion_tokens for usage in usages)
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}


async def _likelihoods(service: Service, asked: Asked, tokens: Sequence[Token], offset: int) -> tuple[dict[str, Any], int]:
    """Tokens in the form of completions, and where the next begins. Of a token that nothing is told of, there are nulls.

    Args:
        offset: where in the continuation's text the first of them begins, in characters.
    """
    told = await answers.likelihoods(service, asked.model, tokens, asked.alternatives or 0)
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    known = [not math.isnan(token.logprob) for token in tokens]
    tops = [{other["token"]: other["logprob"] for other in one["top_logprobs"]} for one in told]
    return {
        "tokens": [one["token"] for one in told],
        "token_logprobs": [one["logprob"] if there else None for one, there in zip(told, known, strict=True)],
        "top_logprobs": [top if there else None for top, there in zip(tops, known, strict=True)],
        "text_offset": offsets,
    }, offset


async def _chunks(service: Service, asked: Asked, head: Head, counted: bool) -> AsyncIterator[Sequence[Frame]]:
    """The chunks of a stream, then `[DONE]`. A failure on the way is an error frame, after which nothing comes."""
    counts = answers.Counts()
    count = len(asked.prompts) * len(asked.settings)
    tokens: list[list[Token]] = [list(one) for one in await asked.repeated(service)]
    offsets, echoes = [0] * count, await asked.echoes(service)
    shared: dict[str, Any] = {"usage": None} if counted else {}

    async def chunk(place: int, text: str, reason: str | None = None, **rest: Any) -> Frame:
        logprobs = None
        if asked.alternatives is not None and tokens[place]:
            logprobs, offsets[place] = await _likelihoods(service, asked, tokens[place], offsets[place])
            tokens[place] = []
        echo, echoes[place] = echoes[place], ""
        return whole(place, echo + text, logprobs, reason, **rest)

    def whole(place: int, text: str, logprobs: dict[str, Any] | None = None, reason: str | None = None, **rest: Any) -> dict[str, Any]:
        choice = {"index": place, "text": text, "logprobs": logprobs, "finish_reason": reason, **rest}
        return head.of("text_completion", choices=[choice], **shared)

    plain = [Alike(partial(whole, place)) for place in range(count)]

    async def frame(place: int, piece: Piece) -> Frame | None:
        match piece:
            case Text(text):
                return await chunk(place, text) if echoes[place] or tokens[place] else plain[place].of(text)
            case Token():
                tokens[place].append(piece)
            case Done(reason):
                return await chunk(place, "", answers.finish_reason(reason), **answers.late(reason))

    async with closing(batches := answers.framed(asked.answers(service), service, counts, frame)):
        async for frames in batches:
            yield frames
    if counted:
        told = [counts.usages.get(place, Usage(0, 0)) for place in range(count)]
        usage = _usage(told, len(asked.settings)) | answers.energy_of(counts.energies)
        yield head.of("text_completion", choices=[], usage=usage), "[DONE]"
    else:
        yield ("[DONE]",)
