"""Streams that outlive their connection: kept on request, so that a client whose line broke goes on where it was.

A stream that asks for it (`steelyard: {"resumable": true}`) goes on when its client is gone, its frames numbered and kept for some
minutes after the last one; all others end with their connection, so that the slot is free at once. `GET /v1/streams/ID?from=N` gives
the frames from number N on, and follows the stream to its end; `DELETE /v1/streams/ID` ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from steelyard.serve.api import streams as wire
from steelyard.serve.api.replies import ERRORS
from steelyard.serve.api.streams import EventStream, Frame
from steelyard.serve.http_errors import ApiError
from steelyard.serve.settings import ServeSettings

ID = "X-Steelyard-Stream"
"""The header that tells the id of a kept stream."""


@dataclass(eq=False)
class Kept:
    """A stream that is kept.

    Attributes:
        user: whose it is.
        frames: all of them so far, as they go over the wire.
        ended: when the last one came, on the monotonic clock; None while it goes on.
        news: set whenever something changes, and replaced.
    """

    user: str
    frames: list[bytes] = field(default_factory=list)
    bytes: int = 0
    ended: float | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)
    work: asyncio.Task[None] | None = None

    def tell(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    def add(self, frames: Sequence[Frame]) -> None:
        """The next frames."""
        for frame in frames:
            line = wire.written(frame, len(self.frames))
            self.frames.append(line)
            self.bytes += len(line)
        self.tell()

    async def since(self, number: int) -> AsyncIterator[bytes]:
        """The frames from a number on, in as many pieces as they come in."""
        while True:
            news = self.news
            if number < len(self.frames):
                some = self.frames[number:]
                number += len(some)
                yield b"".join(some)
            elif self.ended is not None:
                return
            else:
                await news.wait()


class Streams:
    """All streams that are kept, of one server."""

    def __init__(self, settings: ServeSettings):
        self.settings = settings
        self._kept: dict[str, Kept] = {}

    async def respond(self, request: Request, batches: AsyncIterator[Sequence[Frame]], id: str, resumable: bool) -> EventStream:
        """The response that streams these frames, once the first is there.

        Raises:
            ApiError, SteelyardError: what is wrong with the request.
        """
        started = await wire.while_connected(request, wire.begun(batches, self.settings.heartbeat_seconds))
        if not resumable:
            return wire.sse(started, silence=self.settings.heartbeat_seconds)
        kept = self._keep(id, request.state.user, started)
        return self._following(kept, 0, {ID: id})

    def _keep(self, id: str, user: str, batches: AsyncIterator[Sequence[Frame]]) -> Kept:
        self._forget()
        kept = self._kept[id] = Kept(user)

        async def work() -> None:
            try:
                async with wire.closing(batches):
                    async for frames in batches:
                        kept.add(frames)
            except Exception as error:
                kept.add([wire.failure(error)])
            finally:
                kept.ended = time.monotonic()
                kept.tell()

        kept.work = asyncio.ensure_future(work())
        return kept

    def _forget(self) -> None:
        """Lets go of what is too old, then of the oldest that have ended while there is too much."""
        limit = time.monotonic() - self.settings.resume_seconds
        for id in [id for id, kept in self._kept.items() if kept.ended is not None and kept.ended < limit]:
            del self._kept[id]
        for id in [id for id, kept in self._kept.items() if kept.ended is not None]:
            if sum(kept.bytes for kept in self._kept.values()) <= self.settings.resume_bytes:
                break
            del self._kept[id]

    def find(self, id: str, user: str) -> Kept:
        """A stream of this user's.

        Raises:
            ApiError: there is none, or no longer.
        """
        self._forget()
        kept = self._kept.get(id)
        if kept is None or kept.user != user:
            raise ApiError(
                f"No stream of this id is kept. Streams are kept for {self.settings.resume_seconds:g} s, and only where asked for.",
                status=404,
            )
        return kept

    def _following(self, kept: Kept, number: int, headers: Mapping[str, str] = MappingProxyType({})) -> EventStream:
        return EventStream(kept.since(number), headers, self.settings.heartbeat_seconds)

    async def close(self) -> None:
        """Ends all that still go on."""
        going = [kept.work for kept in self._kept.values() if kept.work is not None]
        for work in going:
            work.cancel()
        await asyncio.gather(*going, return_exceptions=True)

    def router(self) -> APIRouter:
        """`GET` and `DELETE /v1/streams/{stream}`."""
        routes = APIRouter(tags=["streams"])

        @routes.get("/v1/streams/{stream}", response_class=StreamingResponse, responses=ERRORS)
        async def resume(stream: str, request: Request, number: int = Query(0, alias="from", ge=0, le=2**31)) -> Response:
            """The frames of a kept stream from a number on, followed to its end."""
            kept = self.find(stream, request.state.user)
            if number > len(kept.frames):
                raise ApiError(f"`from`: the stream has {len(kept.frames)} frames so far.", param="from", code="invalid_value")
            return self._following(kept, number)

        @routes.delete("/v1/streams/{stream}", status_code=204, responses=ERRORS)
        async def stop(stream: str, request: Request) -> None:
            """Ends a kept stream and the work on it."""
            kept = self.find(stream, request.state.user)
            del self._kept[stream]
            if kept.work is not None:
                kept.work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await kept.work

        return routes
