"""Many clients, and clients that go away: what they leave behind, and what the others notice of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.live_server import LiveServer

HI = [{"role": "user", "content": "hi"}]
SHORT = {"model": "tiny", "messages": HI, "max_tokens": 3, "ignore_eos": True}
LONG = {**SHORT, "model": "tooled", "max_tokens": 15_000, "stream": True, "steelyard": {"resumable": True}}
IDLE = 200


def patiently(condition: Callable[[], bool], seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return False


def held(server: LiveServer) -> tuple[int, int]:
    """Tasks of the server's loop, and requests whose end is waited for."""

    async def count() -> int:
        return len(asyncio.all_tasks())

    return server.run(count()), len(server.engine.keeper.waiting)


def settled(server: LiveServer) -> tuple[int, int]:
    """The same once nothing changes any more: connections that were closed are gone a moment later."""
    last, since = held(server), time.monotonic()
    while time.monotonic() - since < 0.5:
        time.sleep(0.05)
        if (now := held(server)) != last:
            last, since = now, time.monotonic()
    return last


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts what /proc lists")


@needs_proc
def test_two_hundred_silent_streams_are_held_while_another_request_is_answered(server: LiveServer) -> None:
    assert server.post("/v1/chat/completions", SHORT).status_code == 200
    before, files = settled(server), descriptors()

    async def crowd() -> None:
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=240, limits=httpx.Limits()) as client,
            contextlib.AsyncExitStack() as open,
        ):

            async def kept() -> str:
                """A stream that goes on without its client."""
                async with client.stream("POST", "/v1/chat/completions", json=LONG) as response:
                    assert response.status_code == 200
                    return response.headers["X-Steelyard-Stream"]

            ids = await asyncio.gather(*(kept() for _ in range(6)))  # one is written, five wait: silence for long
            last = await asyncio.gather(*(length(client, id) for id in ids))
            silent = [id for id, sent in zip(ids, last, strict=True) if not sent]
            assert len(silent) >= 3
            waiting = [open.enter_async_context(client.stream("GET", f"/v1/streams/{silent[-1 - at % 2]}")) for at in range(IDLE)]
            followed = await asyncio.gather(*waiting)
            assert [response.status_code for response in followed] == [200] * IDLE
            answered = await client.post("/v1/chat/completions", json=SHORT)
            assert answered.status_code == 200 and answered.json()["usage"]["completion_tokens"] == 3
            assert not any(response.is_closed for response in followed)
            for id in ids:
                assert (await client.delete(f"/v1/streams/{id}")).status_code == 204
            ends = await asyncio.gather(*(response.aread() for response in followed))
            assert all(b"[DONE]" not in end for end in ends)

    asyncio.run(crowd())
    assert patiently(lambda: settled(server)[1] == before[1])
    assert settled(server)[0] <= before[0] + 2 and patiently(lambda: descriptors() <= files + 4)


async def length(client: httpx.AsyncClient, id: str) -> int:
    """How many frames a kept stream has so far: it is asked for one that is not there yet."""
    refused = await client.get(f"/v1/streams/{id}", params={"from": 10**6})
    assert refused.status_code == 400
    return int(refused.json()["error"]["message"].split("has ")[1].split()[0])


def request_of(server: LiveServer, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def test_a_client_may_go_away_at_every_point_of_a_request_and_of_its_stream(server: LiveServer) -> None:
    assert server.post("/v1/chat/completions", SHORT).status_code == 200
    before = settled(server)
    address = (server.client.base_url.host, server.client.base_url.port)
    request = request_of(server, {**SHORT, "max_tokens": 400, "stream": True})
    body = request.index(b"\r\n\r\n") + 4
    sent = [0, 1, 20, body - 1, body, body + 5, len(request) - 1, len(request)]
    for size in sent:
        with socket.create_connection(address) as connection:
            connection.sendall(request[:size])
    for received in [1, 40, 200, 400, 1000, 3000, 8000]:  # within the head, between frames, within one
        with socket.create_connection(address) as connection:
            connection.settimeout(30)
            connection.sendall(request)
            got = 0
            while got < received:
                got += len(connection.recv(min(64, received - got)))
    for rude in (True, False):  # with a reset, and half closed
        with socket.create_connection(address) as connection:
            connection.settimeout(30)
            connection.sendall(request)
            connection.recv(100)
            if rude:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            else:
                connection.shutdown(socket.SHUT_WR)
    assert patiently(lambda: not server.engine.keeper.waiting)
    status = server.run(server.engine.status())
    assert patiently(lambda: server.run(server.engine.status())["under_way"] == 0), status
    assert settled(server)[0] <= before[0] + 1
    assert server.post("/v1/chat/completions", SHORT).status_code == 200


def test_more_than_the_queue_promises_is_refused_at_once_and_told_when_to_come_again(server: LiveServer) -> None:
    async def crowd() -> list[tuple[int, str, bytes]]:
        async with httpx.AsyncClient(base_url=server.url, timeout=240) as client:

            async def ask() -> tuple[int, str, bytes]:
                async with client.stream("POST", "/v1/chat/completions", json={**LONG, "steelyard": {}}) as response:
                    first = await anext(response.aiter_bytes(), b"")  # of those that wait: a sign of life
                    await asyncio.sleep(2 if response.status_code == 200 else 0)
                    return response.status_code, response.headers.get("retry-after", ""), first

            return await asyncio.gather(*(ask() for _ in range(12)))

    answers = asyncio.run(crowd())
    assert sorted(status for status, _, _ in answers) == [200] * 7 + [429] * 5  # one slot and six that wait
    assert all(first for _, _, first in answers)
    for status, again, first in answers:
        assert (status == 429) == bool(again) == (b"rate_limit_exceeded" in first)
    assert patiently(lambda: not server.engine.keeper.waiting)
