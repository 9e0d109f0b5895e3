"""A small HTTP server that answers as it is told to: a fake at the network's edge, for tests of endpoints."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class FakeEndpoint:
    """What the server will reply, in order (the last reply is repeated), and what it was asked.

    Attributes:
        replies: one per request.
        bodies: the JSON of each request.
        headers: the headers of each request.
    """

    replies: list[Reply]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    hung_up: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def serving(*replies: Reply) -> Iterator[FakeEndpoint]:
    """A server on a free port of this machine, gone at the end."""
    fake = FakeEndpoint(list(replies))
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.body = body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(fake.bodies)
                fake.bodies.append({**body, "path": self.path})
                fake.headers.append(dict(self.headers))
            self.close_connection = True
            try:
                fake.replies[min(number, len(fake.replies) - 1)](self)
            except (BrokenPipeError, ConnectionResetError):
                fake.hung_up.set()

        def do_GET(self) -> None:
            status(404, {"error": {"message": "nothing is there"}})(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # a connection more than are waited for would be lost for a second

    server = Server(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_url() -> str:
    """A URL that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


def status(code: int, body: Any = None, **headers: str) -> Reply:
    """An answer with this status and body (JSON unless it is bytes)."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(code)
        usual = {"Content-Type": "application/json", "Content-Length": str(len(data)), "Connection": "close"}  # as it is: see do_POST
        for name, value in {**usual, **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return reply


def stream(*frames: Any, done: bool = True, pause: float = 0.0) -> Reply:
    """A stream of server-sent events; frames that are bytes are sent as they are."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for frame in frames:
            handler.wfile.write(frame if isinstance(frame, bytes) else b"data: " + json.dumps(frame).encode() + b"\n\n")
            handler.wfile.flush()
            time.sleep(pause)
        if done:
            handler.wfile.write(b"data: [DONE]\n\n")

    return reply


def broken_chunk(handler: BaseHTTPRequestHandler) -> None:
    """A chunked body that ends inside a chunk: the network broke, not the server's answer."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    frame = b"data: " + json.dumps(says("Hel")).encode() + b"\n\n"
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(frame), frame) + b"ffff\r\nhalf")
    handler.wfile.flush()


def says(text: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
    """One frame of a streamed answer."""
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason, **more}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
