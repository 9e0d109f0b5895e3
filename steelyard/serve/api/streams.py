"""Server-sent events: frames in, a response out, with failures as frames and signs of life in long silences."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse

from steelyard.serve.api.errors import ApiError, as_api_error, body_of

T = TypeVar("T")
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
SILENCE = 15.0
"""Seconds of silence after which a comment is sent, so that proxies and clients know the stream lives."""
JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
WAITING = b": waiting\n\n"
"""The comment."""
AHEAD = 256
"""Frames that may wait for a client who reads slowly; then the answer waits too."""


@dataclass(frozen=True, slots=True)
class Named:
    """A frame of a named event."""

    event: str
    data: Mapping[str, Any]


Frame = str | Mapping[str, Any] | Named


def written(frame: Frame, number: int | None = None) -> bytes:
    """A frame as it goes over the wire; a text stands for itself (`[DONE]`)."""
    data = frame.data if isinstance(frame, Named) else frame
    text = data if isinstance(data, str) else JSON.encode(data)
    lines = [f"id: {number}\n"] if number is not None else []
    if isinstance(frame, Named):
        lines.append(f"event: {frame.event}\n")
    # A line end inside the text would end the frame; JSON escapes its own.
    lines += [f"data: {line}\n" for line in text.split("\n")]
    return "".join([*lines, "\n"]).encode("utf-8")


def sse(events: AsyncIterator[Frame], headers: Mapping[str, str] | None = None, silence: float = SILENCE) -> StreamingResponse:
    """A response that streams frames. The iterator is closed as soon as the client is gone.

    A failure in it becomes the last frame, `{"error": {...}}`: the status has been sent by then.
    """
    return StreamingResponse(_bytes(failsafe(events), silence), media_type="text/event-stream", headers={**HEADERS, **(headers or {})})


async def failsafe(events: AsyncIterator[Frame]) -> AsyncIterator[Frame]:
    """The same frames; a failure becomes the last one."""
    async with closing(events):
        try:
            async for frame in events:
                yield frame
        except Exception as error:
            yield body_of(as_api_error(error))


async def _bytes(events: AsyncIterator[Frame], silence: float) -> AsyncIterator[bytes]:
    async with closing(events):
        async for frames in gathered(events, silence):
            yield b"".join(map(written, frames)) or WAITING


async def gathered(events: AsyncIterator[T], silence: float) -> AsyncIterator[list[T]]:
    """The same items, those together that came while nobody looked; none after each `silence` seconds without one.

    A failure is raised once all that came before it was given. A single task reads ahead: one for every item would cost more than
    all else that is done for it.
    """
    items: list[T] = []
    news, room = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        async for item in events:
            items.append(item)
            news.set()
            if len(items) >= AHEAD:
                room.clear()
                await room.wait()

    reading = asyncio.ensure_future(read())
    reading.add_done_callback(lambda _: news.set())
    try:
        while True:
            alarm = asyncio.get_running_loop().call_later(silence, news.set)
            await news.wait()
            alarm.cancel()
            news.clear()
            ended = reading.done()
            if items or not ended:
                now, items = items, []
                room.set()
                yield now
            if ended:
                reading.result()  # or what went wrong
                return
    finally:
        reading.cancel()
        while not reading.done():  # whoever cancels this may do so again meanwhile, and what is being read cannot be closed
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({reading})


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
        ApiError: the client has gone (nobody reads this).
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError("The client closed the connection.", status=499, code="client_gone")
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
