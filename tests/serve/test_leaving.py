"""Clients that leave before their answer has begun: nobody's turn is kept for them."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.serve.live_server import LiveServer

HI = [{"role": "user", "content": "hi"}]
LONG = {"model": "tooled", "messages": HI, "max_tokens": 15_000, "ignore_eos": True, "stream": True, "steelyard": {"resumable": True}}


def patiently(condition: Callable[[], bool], seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.01)
    return False


def waiting(server: LiveServer) -> int:
    """Requests that wait for the one slot of `tooled`."""
    return server.run(server.engine.status())["models"]["tooled"]["waiting"]


@contextlib.contextmanager
def occupied(server: LiveServer) -> Iterator[Callable[[], bool]]:
    """The slot is taken by an answer that nobody reads; gives whether that still goes on."""
    with server.client.stream("POST", "/v1/chat/completions", json=LONG) as stream:
        id = stream.headers["X-Steelyard-Stream"]

    def going() -> bool:
        return server.run(server.engine.status())["models"]["tooled"]["active"] == 1

    try:
        yield going
    finally:
        server.client.delete(f"/v1/streams/{id}")


def asked(server: LiveServer, path: str, body: dict[str, Any]) -> socket.socket:
    """A request that was sent whole."""
    content = json.dumps(body).encode()
    address = server.client.base_url
    client = socket.create_connection((address.host, address.port or 80))
    head = f"POST {path} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return client


def leaves_at_once(server: LiveServer, path: str, body: dict[str, Any]) -> None:
    with occupied(server) as going:
        client = asked(server, path, body)
        assert patiently(lambda: waiting(server) == 1)
        client.close()
        assert patiently(lambda: waiting(server) == 0)
        assert going(), "its turn was only given up when it came"


def test_an_answer_of_the_page_that_nobody_waits_for_is_not_waited_for(server: LiveServer) -> None:
    conversation = server.post("/api/conversations", {}).json()["id"]
    parts = [{"type": "text", "text": "hi"}]
    message = server.post(f"/api/conversations/{conversation}/messages", {"role": "user", "parts": parts}).json()["id"]
    leaves_at_once(server, f"/api/conversations/{conversation}/answer", {"parent": message, "model": "tooled"})
    assert len(server.client.get(f"/api/conversations/{conversation}").json()["messages"]) == 1


def test_tokens_of_a_prompt_that_nobody_waits_for_are_not_read(server: LiveServer) -> None:
    leaves_at_once(server, "/v1/completions", {"model": "tooled", "prompt": "a b c", "echo": True, "logprobs": 1, "max_tokens": 0})


def test_an_answer_in_one_piece_that_nobody_waits_for_is_not_waited_for(server: LiveServer) -> None:
    leaves_at_once(server, "/v1/responses", {"model": "tooled", "input": "hi"})


def test_an_answer_of_the_page_refuses_more_time_than_the_operator_gives(server: LiveServer) -> None:
    conversation = server.post("/api/conversations", {}).json()["id"]
    message = server.post(f"/api/conversations/{conversation}/messages", {"role": "user", "parts": [{"type": "text", "text": "hi"}]}).json()
    body = {"parent": message["id"], "model": "tiny", "settings": {"seconds": 1e9}}
    refused = server.post(f"/api/conversations/{conversation}/answer", body)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "settings.seconds"
