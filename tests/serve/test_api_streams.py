"""Streams: whole or with an error frame, cancelled with their client, kept where asked for, alive in silence."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.augment.server_sent_events import EventParser
from steelyard.serve import short_way
from steelyard.serve.api.streams import WAITING, EventStream, Named, begun, sse, written
from steelyard.serve.arrivals import Arrivals
from tests.serve.live_server import LiveServer

HI = [{"role": "user", "content": "hi"}]
LONG = {"model": "tiny", "messages": HI, "max_tokens": 2000, "ignore_eos": True, "stream": True}


def _patiently(condition: Any, seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return False


def _active(server: LiveServer) -> int:
    figures = server.run(server.engine.status()).get("models", {}).get("tiny", {})
    return figures.get("active", 0) + figures.get("waiting", 0)


def _frames(text: str) -> list[Any]:
    found = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(data) for data in found if data != "[DONE]"]


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 9) | st.none())
def test_any_text_survives_its_frame(text: str, number: int | None) -> None:
    parser = EventParser()
    (event,) = parser.feed(written(Named("some.event", {"text": text}), number))
    assert event.type == "some.event" and json.loads(event.data) == {"text": text}


def test_a_failure_before_the_first_frame_is_raised_and_a_later_one_is_the_last_frame() -> None:
    async def failing(count: int) -> AsyncIterator[Any]:
        for place in range(count):
            yield [{"place": place}]
        raise ValueError("secret detail")

    async def read(count: int) -> str:
        client = Client()
        await client.read(sse(await begun(failing(count))))
        return b"".join(client.pieces).decode()

    with pytest.raises(ValueError):
        asyncio.run(read(0))
    frames = _frames(asyncio.run(read(2)))
    assert frames[:2] == [{"place": 0}, {"place": 1}] and frames[2]["error"]["code"] == "internal_error"
    assert "secret" not in json.dumps(frames)


def test_a_client_that_leaves_frees_its_slot_at_once(server: LiveServer) -> None:
    with server.client.stream("POST", "/v1/chat/completions", json={**LONG, "n": 2}) as response:
        assert _active(server) > 0
        next(response.iter_lines())
    assert _patiently(lambda: _active(server) == 0)


def test_a_client_that_leaves_before_the_whole_answer_frees_its_slot_too(server: LiveServer) -> None:
    body = json.dumps({**LONG, "stream": False, "n": 2}).encode()
    with socket.create_connection((server.client.base_url.host, server.client.base_url.port)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert _patiently(lambda: _active(server) > 0)
    assert _patiently(lambda: _active(server) == 0)


def test_a_stream_can_be_taken_up_where_its_line_broke(server: LiveServer) -> None:
    body = {**LONG, "max_tokens": 300, "seed": 1, "steelyard": {"resumable": True}}
    with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
        id = response.headers["X-Steelyard-Stream"]
        early = [line for _, line in zip(range(30), response.iter_lines(), strict=False)]
    rest = server.client.get(f"/v1/streams/{id}", params={"from": 10}).text
    whole = server.client.get(f"/v1/streams/{id}").text
    assert whole.endswith("data: [DONE]\n\n") and whole.endswith(rest) and rest.startswith("id: 10\n")
    assert whole.startswith("\n".join(early))
    numbers = [int(line.removeprefix("id: ")) for line in whole.splitlines() if line.startswith("id: ")]
    assert numbers == list(range(len(numbers)))
    plain = server.post("/v1/chat/completions", {**body, "stream": False, "steelyard": {}}).json()
    pieces = [frame["choices"][0]["delta"].get("content", "") for frame in _frames(whole)]
    assert "".join(pieces) == plain["choices"][0]["message"]["content"]
    assert server.client.get(f"/v1/streams/{id}", params={"from": 10**6}).status_code == 400


def test_a_kept_stream_ends_when_it_is_deleted_and_others_are_not_kept(server: LiveServer) -> None:
    with server.client.stream("POST", "/v1/chat/completions", json={**LONG, "steelyard": {"resumable": True}}) as response:
        id = response.headers["X-Steelyard-Stream"]
    assert _active(server) == 1  # it goes on without a client
    assert server.client.delete(f"/v1/streams/{id}").status_code == 204
    assert _patiently(lambda: _active(server) == 0)
    assert server.client.get(f"/v1/streams/{id}").status_code == 404
    response = server.post("/v1/chat/completions", {**LONG, "max_tokens": 3})
    assert "X-Steelyard-Stream" not in response.headers


def test_a_stream_that_waits_for_its_turn_shows_that_it_lives(server: LiveServer) -> None:
    first, second = ({**LONG, "steelyard": {"resumable": True}} for _ in range(2))  # both slots are taken for a while
    ids = []
    for body in (first, second):
        with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
            ids.append(response.headers["X-Steelyard-Stream"])
    with server.client.stream("POST", "/v1/chat/completions", json={**LONG, "max_tokens": 2}) as response:
        assert response.status_code == 200
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    for id in ids:
        server.client.delete(f"/v1/streams/{id}")


def test_an_answer_whose_time_is_up_ends_as_it_is_and_says_why(server: LiveServer) -> None:
    answer = server.post("/v1/chat/completions", {**LONG, "stream": False, "steelyard": {"seconds": 0.1}}).json()
    assert answer["choices"][0]["steelyard"] == {"reason": "timeout"} and answer["usage"]["completion_tokens"] < 1500
    last = _frames(server.post("/v1/chat/completions", {**LONG, "steelyard": {"seconds": 0.1}}).text)[-1]
    assert last["choices"][0]["finish_reason"] == "length" and last["choices"][0]["steelyard"] == {"reason": "timeout"}


def test_one_bad_request_disturbs_no_other(server: LiveServer) -> None:
    good = {**LONG, "max_tokens": 200, "seed": 4}
    alone = _frames(server.post("/v1/chat/completions", good).text)

    async def together() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=240) as client:
            bad = [{**LONG, "temperature": 9}, {**LONG, "messages": [{"role": "user", "content": "x" * 9000}]}, {"nothing": 1}]
            return await asyncio.gather(*[client.post("/v1/chat/completions", json=body) for body in (good, *bad)])

    first, *others = asyncio.run(together())
    assert [response.status_code for response in others] == [400, 400, 400]
    text = ["".join(frame["choices"][0]["delta"].get("content", "") for frame in frames) for frames in (alone, _frames(first.text))]
    assert text[0] == text[1]


def test_a_crash_of_the_engine_is_an_error_frame_then_503_then_over(server: LiveServer) -> None:
    with server.client.stream("POST", "/v1/chat/completions", json=LONG) as response:
        lines = response.iter_lines()
        next(lines)
        assert server.engine.pid is not None
        os.kill(server.engine.pid, signal.SIGSEGV)
        last = [line for line in lines if line.startswith("data: ")][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_restarting"
    refused = server.post("/v1/chat/completions", {**LONG, "stream": False})
    ready = server.client.get("/ready")
    assert (refused.status_code, ready.status_code) == (503, 503) and refused.headers["retry-after"] and ready.headers["retry-after"]
    assert server.client.get("/health").status_code == 200
    assert b"steelyard_engine_ready 0.0" in server.client.get("/metrics").content
    assert _patiently(lambda: server.client.get("/ready").status_code == 200, 60)
    assert server.post("/v1/chat/completions", {**LONG, "stream": False, "max_tokens": 3}).status_code == 200


def test_what_came_while_nobody_looked_comes_together_and_in_order() -> None:
    async def all_of() -> list[list[int]]:
        arrivals: Arrivals[int] = Arrivals()

        async def put() -> None:
            for number in range(1000):
                arrivals.put(number)
                if number % 7 == 0:
                    await asyncio.sleep(0)

        putting, taken = asyncio.ensure_future(put()), []
        while sum(map(len, taken)) < 1000:
            taken.append(await arrivals.take())
        await putting
        return taken

    pieces = asyncio.run(all_of())
    assert [number for some in pieces for number in some] == list(range(1000))
    assert all(pieces) and max(map(len, pieces)) > 1


def test_who_stopped_waiting_misses_nothing() -> None:
    async def taken() -> list[int]:
        arrivals: Arrivals[int] = Arrivals()
        waiting = asyncio.ensure_future(arrivals.take())
        await asyncio.sleep(0)
        waiting.cancel()
        arrivals.put(1)
        await asyncio.wait({waiting})
        arrivals.put(2)
        return await arrivals.take()

    assert asyncio.run(taken()) == [1, 2]


class Client:
    """A client of one response, at the edge of the application. Until `reads` is set it takes nothing more."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ended = False
        self.reads, self.gone = asyncio.Event(), asyncio.Event()
        self.reads.set()

    async def receive(self) -> MutableMapping[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.body":
            self.ended = not message["more_body"]
            if message["body"]:
                self.pieces.append(message["body"])

    async def read(self, response: EventStream) -> None:
        await response({"type": "http"}, self.receive, self.send)


def test_a_slow_reader_holds_the_writer_up() -> None:
    async def waits() -> tuple[int, int]:
        made, client = 0, Client()

        async def endless() -> AsyncIterator[bytes]:
            nonlocal made
            while True:
                made += 1
                yield b"a"
                if made == 3:
                    client.reads.clear()
                await asyncio.sleep(0)

        reading = asyncio.ensure_future(client.read(EventStream(endless(), {}, 60)))
        while client.reads.is_set():
            await asyncio.sleep(0)
        for _ in range(100):  # turns of the loop in which it could go on
            await asyncio.sleep(0)
        client.gone.set()
        await reading
        return made, len(client.pieces)

    assert asyncio.run(waits()) == (4, 3)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_stream_is_whole_for_clients_of_either_version_of_http(server: LiveServer, version: str) -> None:
    body = json.dumps({**LONG, "max_tokens": 40, "seed": 3}).encode()
    with socket.create_connection((server.client.base_url.host, server.client.base_url.port), timeout=240) as connection:
        lines = [f"POST /v1/chat/completions HTTP/{version}", "Host: 127.0.0.1", "Connection: close", f"Content-Length: {len(body)}"]
        connection.sendall("\r\n".join([*lines, "Content-Type: application/json", "", ""]).encode() + body)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        text = answer.read().decode()
    frames = _frames(text)
    assert answer.status == 200 and text.endswith("data: [DONE]\n\n") and answer.chunked == (version == "1.1")
    assert frames[-1]["choices"][0]["finish_reason"] == "length" and len({frame["id"] for frame in frames}) == 1


def test_pieces_after_the_first_go_the_short_way_where_there_is_one() -> None:
    short: list[bytes] = []

    async def send_piece(piece: bytes) -> None:
        short.append(piece)

    async def three() -> AsyncIterator[bytes]:
        for piece in (b"a", b"b", b"c"):
            yield piece

    async def heard() -> Client:
        client = Client()
        scope = {"type": "http", "extensions": {short_way.NAME: send_piece}}
        await EventStream(three(), {}, 60)(scope, client.receive, client.send)
        return client

    client = asyncio.run(heard())
    assert (client.pieces, short, client.ended) == ([b"a"], [b"b", b"c"], True)


def test_silence_is_told_between_the_pieces_and_no_more_after_the_end() -> None:
    async def heard() -> Client:
        client = Client()

        async def seldom() -> AsyncIterator[bytes]:
            yield b"a"
            while client.pieces[-2:] != [WAITING, WAITING]:
                await asyncio.sleep(0)
            yield b"b"

        await client.read(EventStream(seldom(), {}, 0.02))
        return client

    client = asyncio.run(heard())
    assert client.ended and client.pieces[0] == b"a" and client.pieces[-1] == b"b" and set(client.pieces[1:-1]) == {WAITING}


def test_a_client_that_is_gone_ends_what_it_read_once_and_waits_for_that_end() -> None:
    closed = False

    async def waiting() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            yield b"a"
            await asyncio.sleep(60)
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            closed = True

    async def leave() -> None:
        client = Client()
        reading = asyncio.ensure_future(client.read(EventStream(waiting(), {}, 60)))
        while not client.pieces:
            await asyncio.sleep(0)
        client.gone.set()
        await reading

    asyncio.run(leave())
    assert closed
