"""Server-sent events: frames in, a response out, with failures as frames and signs of life in long silences."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from steelyard.serve import short_way
from steelyard.serve.http_errors import ApiError, as_api_error, body_of
from steelyard.serve.short_way import SendPiece

T = TypeVar("T")
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
SILENCE = 15.0
"""Seconds of silence after which a comment is sent, so that proxies and clients know the stream lives."""
JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
PLACE = "\0"
"""A text that no name is."""
WAITING = b": waiting\n\n"
"""The comment."""


@dataclass(frozen=True, slots=True)
class Named:
    """A frame of a named event."""

    event: str
    data: Mapping[str, Any]


Frame = str | Mapping[str, Any] | Named


class ClientGone(ApiError):
    """Nobody waits for the answer any more."""


def written(frame: Frame, number: int | None = None) -> bytes:
    """A frame as it goes over the wire; a text stands for itself (`[DONE]`)."""
    data = frame.data if isinstance(frame, Named) else frame
    # A line end inside the text would end the frame; JSON escapes its own.
    text = data.replace("\n", "\ndata: ") if isinstance(data, str) else JSON.encode(data)
    id = f"id: {number}\n" if number is not None else ""
    event = f"event: {frame.event}\n" if isinstance(frame, Named) else ""
    return f"{id}{event}data: {text}\n\n".encode()


class Alike:
    """Frames that differ in a text alone: what stands around it is encoded once, and 8 streams are some hundred frames a second.

    Args:
        frame: makes one of them of its text, which no other of its values equals.
    """

    def __init__(self, frame: Callable[[str], Mapping[str, Any]]):
        self.before, self.after = JSON.encode(frame(PLACE)).split(JSON.encode(PLACE))

    def of(self, text: str) -> Frame:
        """The frame that holds a text."""
        return f"{self.before}{JSON.encode(text)}{self.after}"


def sse(batches: AsyncIterator[Sequence[Frame]], headers: Mapping[str, str] | None = None, silence: float = SILENCE) -> EventStream:
    """A response that streams frames, those of a batch in one piece. The iterator is closed as soon as the client is gone.

    A failure in it becomes the last frame, `{"error": {...}}`: the status has been sent by then.
    """
    return EventStream(_lines(batches), headers or {}, silence)


async def _lines(batches: AsyncIterator[Sequence[Frame]]) -> AsyncIterator[bytes]:
    async with closing(batches):
        try:
            async for frames in batches:
                yield written(frames[0]) if len(frames) == 1 else b"".join(map(written, frames))
        except Exception as error:
            yield written(failure(error))


def failure(error: Exception) -> Frame:
    """The last frame of a stream that failed."""
    return body_of(as_api_error(error))


class EventStream(StreamingResponse):
    """Pieces of bytes as they come, and a comment after each `silence` seconds without one. With its client gone it ends at once.

    What makes a piece and what sends it are one task, for a stream of tokens is mostly the waking of tasks. A reader who is slow holds it up:
    what comes meanwhile is one piece later.
    """

    def __init__(self, pieces: AsyncIterator[bytes], headers: Mapping[str, str], silence: float):
        super().__init__(pieces, media_type="text/event-stream", headers={**HEADERS, **headers})
        self.pieces, self.silence, self._sent = pieces, silence, 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientGone):
            await while_connected(Request(scope, receive), self.stream_response(send, short_way.of(scope)))

    async def stream_response(self, send: Send, send_piece: SendPiece | None = None) -> None:
        """Sends all of it; `send_piece` takes what is neither first nor last, where there is such a way."""

        async def usual_way(piece: bytes) -> None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._sent = time.monotonic()
        living = asyncio.ensure_future(self._show_life(send))
        try:
            async with closing(self.pieces):
                way = usual_way
                async for piece in self.pieces:
                    await way(piece)
                    way, self._sent = send_piece or usual_way, time.monotonic()
        finally:
            living.cancel()
            await asyncio.wait({living})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _show_life(self, send: Send) -> None:
        """One timer for all of a stream: where pieces come, it sleeps on."""
        while True:
            await asyncio.sleep(max(self._sent + self.silence - time.monotonic(), 0.0))
            if time.monotonic() - self._sent >= self.silence:
                await send({"type": "http.response.body", "body": WAITING, "more_body": True})
                self._sent = time.monotonic()


async def begun(events: AsyncIterator[T], patience: float = SILENCE) -> AsyncIterator[T]:
    """The same items, once the first of them is there, so that what is wrong with a request can still be a status.

    A request that waits for its turn longer than `patience` seconds has been accepted: its stream begins with silence.
    """
    first = asyncio.ensure_future(anext(events))  # type: ignore[arg-type]
    try:
        done, _ = await asyncio.wait({first}, timeout=patience)
    except BaseException:
        first.cancel()
        raise
    if done:
        error = first.exception()
        if error is not None and not isinstance(error, StopAsyncIteration):
            await _close(events)
            raise error
    return _rest(first, events)


async def _rest(first: asyncio.Task[T], events: AsyncIterator[T]) -> AsyncIterator[T]:
    async with closing(events):
        try:
            try:
                yield await first
            except StopAsyncIteration:
                return
            async for item in events:
                yield item
        finally:
            if not first.done():
                first.cancel()
                with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                    await first


@contextlib.asynccontextmanager
async def closing(events: AsyncIterator[Any]) -> AsyncIterator[None]:
    """Closes an iterator at the end, where it can be closed: what it works on stops at once, not when memory is swept."""
    try:
        yield
    finally:
        await _close(events)


async def _close(events: AsyncIterator[Any]) -> None:
    if (close := getattr(events, "aclose", None)) is not None:
        await close()


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """What some work gives, for as long as the client waits for it; when it is gone the work is cancelled at once.

    Raises:
        ClientGone: the client has gone (nobody reads this).
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone("The client closed the connection.", status=499, code="client_gone")
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
