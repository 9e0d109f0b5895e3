"""Answers on their way: several drawn at once as one stream, or each collected to its end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from steelyard.core.protocols import Citation, Confidence, Done, Energy, Failure, Text, Token, Usage
from steelyard.serve.api.streams import Frame, closing
from steelyard.serve.api.tool_calls import CallPart, Piece
from steelyard.serve.arrivals import Arrivals, each
from steelyard.serve.http_errors import failed
from steelyard.serve.service import Service


async def together(answers: Sequence[AsyncIterator[Sequence[Piece]]]) -> AsyncIterator[Sequence[tuple[int, Piece]]]:
    """The events of several answers as they come, each with its answer's number. Leaving it closes all of them."""
    if len(answers) == 1:
        async with closing(answers[0]):
            async for pieces in answers[0]:
                yield [(0, piece) for piece in pieces]
        return
    arrivals: Arrivals[tuple[int, Sequence[Piece] | Exception | None]] = Arrivals()

    async def pump(place: int, answer: AsyncIterator[Sequence[Piece]]) -> None:
        try:
            async with closing(answer):
                async for pieces in answer:
                    arrivals.put((place, pieces))
        except Exception as error:  # it is raised again where the events are read
            arrivals.put((place, error))
        else:
            arrivals.put((place, None))

    pumps = [asyncio.ensure_future(pump(place, answer)) for place, answer in enumerate(answers)]
    try:
        going = len(pumps)
        while going:
            numbered: list[tuple[int, Piece]] = []
            for place, pieces in await arrivals.take():
                if isinstance(pieces, Exception):
                    if numbered:
                        yield numbered
                    raise pieces
                if pieces is None:
                    going -= 1
                else:
                    numbered += [(place, piece) for piece in pieces]
            if numbered:
                yield numbered
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


@dataclass
class Counts:
    """What answers took, by their numbers, as far as they have told."""

    usages: dict[int, Usage] = field(default_factory=dict)
    energies: list[Energy] = field(default_factory=list)


async def framed(
    answers: Sequence[AsyncIterator[Sequence[Piece]]],
    service: Service,
    counts: Counts,
    frame: Callable[[int, Piece], Awaitable[Frame | None]],
) -> AsyncIterator[Sequence[Frame]]:
    """What `frame` makes of the events of several answers; what they took goes into `counts`.

    Raises:
        ApiError: one of them failed on the way. All that came before was given.
    """
    frames: list[Frame] = []
    async with closing(batches := together(answers)):
        try:
            async for pieces in batches:
                for place, piece in pieces:
                    match piece:
                        case Usage():
                            counts.usages[place] = piece
                        case Energy():
                            counts.energies.append(piece)
                        case Failure(message):
                            raise failed(message, service.engine.ready)
                        case _:
                            if (made := await frame(place, piece)) is not None:
                                frames.append(made)
                if frames:
                    yield frames
                    frames = []
        except Exception:
            if frames:
                yield frames
            raise


@dataclass
class Whole:
    """An answer that has come to its end."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    calls: list[dict[str, str]] = field(default_factory=list)
    citations: list[Citation] = field(default_factory=list)
    confidence: dict[str, Any] = field(default_factory=dict)
    usage: Usage = field(default_factory=lambda: Usage(0, 0))
    energy: list[Energy] = field(default_factory=list)
    reason: str = "stop"


async def collected(answers: Sequence[AsyncIterator[Sequence[Piece]]], service: Service) -> list[Whole]:
    """Each of several answers, whole.

    Raises:
        ApiError: one of them failed on the way.
        SteelyardError: what is wrong with the request.
    """
    wholes = [Whole() for _ in answers]
    texts: list[list[str]] = [[] for _ in answers]
    async with closing(batches := together(answers)):
        async for place, piece in each(batches):
            whole = wholes[place]
            match piece:
                case Text(text):
                    texts[place].append(text)
                case Token():
                    whole.tokens.append(piece)
                case CallPart():
                    if piece.id:
                        whole.calls.append({"id": piece.id, "name": piece.name, "arguments": ""})
                    whole.calls[-1]["arguments"] += piece.arguments
                case Citation():
                    whole.citations.append(piece)
                case Confidence():
                    add_confidence(whole.confidence, piece)
                case Usage():
                    whole.usage = piece
                case Energy():
                    whole.energy.append(piece)
                case Failure(message):
                    raise failed(message, service.engine.ready)
                case Done(reason):
                    whole.reason = reason
                case _:
                    pass
    for whole, text in zip(wholes, texts, strict=True):
        whole.text = "".join(text)
    return wholes


def confidence_of(event: Confidence) -> dict[str, Any]:
    """A statement of confidence as JSON, with its place in the answer where it is about a part."""
    told = {"value": event.value if math.isfinite(event.value) else None, "kind": event.kind}
    return told if event.start is None else told | {"start": event.start, "end": event.end}


def add_confidence(told: dict[str, Any], event: Confidence) -> None:
    """Adds a statement to what is told of a whole answer: `value` and `kind`, and `sentences` with their places."""
    if event.start is None:
        told.update(confidence_of(event))
    else:
        told.setdefault("sentences", []).append({"start": event.start, "end": event.end, "value": confidence_of(event)["value"]})


def usage_of(usages: Sequence[Usage], energies: Sequence[Energy]) -> dict[str, Any]:
    """Tokens read once and written in all answers, as OpenAI counts them, and what all of them took."""
    read, wrote = max((usage.prompt_tokens for usage in usages), default=0), sum(usage.completion_tokens for usage in usages)
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote, **energy_of(energies)}


def energy_of(energies: Sequence[Energy]) -> dict[str, Any]:
    """What answers took, added up, for the block that counts tokens; nothing where nobody told."""
    if not energies:
        return {}
    low, high = (sum(getattr(energy, end) for energy in energies) for end in ("low", "high"))
    sources = dict.fromkeys(part for energy in energies for part in energy.source.split("+"))
    told = {"low": low, "high": high, "source": "+".join(sources), "shared": any(energy.shared for energy in energies)}
    return {"steelyard": {"energy_joules": told}}


def finish_reason(reason: str) -> str:
    """OpenAI's word for why an answer ended; `extras` tells of a time that was up."""
    return {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}.get(reason, "length")


def late(reason: str) -> dict[str, Any]:
    """What stands beside the end of a stream whose time was up."""
    return {"steelyard": {"reason": "timeout"}} if reason == "timeout" else {}


def extras(whole: Whole) -> dict[str, Any]:
    """What OpenAI's answers have no place for: sources, confidence, and that the time was up."""
    told: dict[str, Any] = {}
    if whole.citations:
        told["citations"] = [citation_of(citation) for citation in whole.citations]
    if whole.confidence:
        told["confidence"] = whole.confidence
    if whole.reason == "timeout":
        told["reason"] = "timeout"
    return {"steelyard": told} if told else {}


def citation_of(citation: Citation) -> dict[str, Any]:
    return {"source": citation.source, "title": citation.title, "text": citation.text, "score": citation.score}


async def likelihoods(service: Service, model: str, tokens: Sequence[Token], most: int) -> list[dict[str, Any]]:
    """Tokens with their log-probabilities and alternatives, in the form of chat completions."""
    ids = [id for token in tokens for id in (token.id, *(other for other, _ in token.alternatives[:most]))]
    known = dict(zip(ids, await service.engine.pieces(model, ids), strict=True)) if ids else {}
    return [
        {
            **likelihood(known[token.id], token.logprob),
            "top_logprobs": [likelihood(known[id], logprob) for id, logprob in token.alternatives[:most]],
        }
        for token in tokens
    ]


def likelihood(text: str, logprob: float) -> dict[str, Any]:
    """One token; `bytes` is null for a token within a character."""
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": None if "\ufffd" in text else list(text.encode("utf-8"))}
