"""How long streams are kept, and how many: told with a clock that the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from steelyard.serve.api import resumption
from steelyard.serve.api.resumption import Kept, Streams
from steelyard.serve.api.streams import Frame
from steelyard.serve.http_errors import ApiError
from steelyard.serve.settings import ServeSettings


class Clock:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(resumption, "time", clock)
    return clock


async def frames(*texts: str, until: asyncio.Event | None = None) -> AsyncIterator[Sequence[Frame]]:
    yield texts
    if until is not None:
        await until.wait()
        yield ("late",)


async def read(kept: Kept, number: int) -> str:
    return b"".join([line async for line in kept.since(number)]).decode()


def gone(streams: Streams, id: str, user: str = "ann") -> bool:
    try:
        streams.find(id, user)
    except ApiError as error:
        assert error.status == 404
        return True
    return False


def test_a_stream_is_kept_for_five_minutes_after_its_end_and_no_longer(clock: Clock) -> None:
    async def run() -> None:
        streams = Streams(ServeSettings())
        kept = streams._keep("one", "ann", frames("a", "b", "c"))
        assert kept.work is not None
        await kept.work
        assert await read(streams.find("one", "ann"), 1) == "id: 1\ndata: b\n\nid: 2\ndata: c\n\n"
        clock.now += 299.9
        assert await read(streams.find("one", "ann"), 3) == "" and gone(streams, "one", "bob")
        clock.now += 0.2
        assert gone(streams, "one")

    asyncio.run(run())


def test_a_stream_that_still_goes_on_is_kept_however_long_it_takes(clock: Clock) -> None:
    async def run() -> None:
        streams, end = Streams(ServeSettings()), asyncio.Event()
        kept = streams._keep("one", "ann", frames("a", until=end))
        clock.now += 3600
        assert streams.find("one", "ann") is kept
        end.set()
        assert (await read(kept, 0)).endswith("id: 1\ndata: late\n\n")
        clock.now += 299
        assert not gone(streams, "one")
        clock.now += 2
        assert gone(streams, "one")

    asyncio.run(run())


def test_the_oldest_that_ended_go_where_there_is_too_much(clock: Clock) -> None:
    async def run() -> None:
        streams, end = Streams(ServeSettings(resume_bytes=30)), asyncio.Event()
        going = streams._keep("going", "ann", frames("a" * 20, until=end))
        for id in ("first", "second"):
            kept = streams._keep(id, "ann", frames("a"))
            assert kept.work is not None
            await kept.work
        assert gone(streams, "first") and not gone(streams, "going")
        await streams.close()
        assert going.ended is not None

    asyncio.run(run())
