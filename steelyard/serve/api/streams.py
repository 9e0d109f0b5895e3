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


@dataclass(frozen=True, slots=True)
class Named:
    """A frame of a named event."""

    event: str
    data: Mapping[str, Any]


Frame = str | Mapping[str, Any] | Named


def written(frame: Frame, number: int | None = None) -> bytes:
    """A frame as it goes over the wire; a text stands for itself (`[DONE]`)."""
    data = frame.data if isinstance(frame, Named) else frame
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
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
        async for frame in with_silences(events, silence):
            yield b": waiting\n\n" if frame is None else written(frame)


async def with_silences(events: AsyncIterator[T], silence: float) -> AsyncIterator[T | None]:
    """The same items, and None after each `silence` seconds without one."""
    waiting: asyncio.Task[T] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(events))  # type: ignore[arg-type]
            done, _ = await asyncio.wait({waiting}, timeout=silence)
            if not done:
                yield None
                continue
            try:
                item = waiting.result()
            except StopAsyncIteration:
                return
            finally:
                waiting = None
            yield item
    finally:
        if waiting is not None:
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await waiting


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
