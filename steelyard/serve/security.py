"""Who may ask: one layer before every route, which denies what it does not know to be allowed.

A web page that the user visits can send requests to servers on the user's own machine. What stops it: a host name that is not the
server's own is refused (a name of the attacker's that was made to resolve to this address), an origin that is not the server's own
is refused, and no header ever allows another origin. Where there are keys, every request carries one and is its user's, except for
the files of the page itself, which hold nothing, for the two questions that orchestrators ask, and for a report that a browser opens
with a session (`report_sessions.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import urllib.parse
from collections.abc import MutableMapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steelyard.core.errors import SteelyardError
from steelyard.serve.http_errors import ApiError, as_api_error, response_of
from steelyard.serve.report_sessions import ReportSessions, opens
from steelyard.serve.settings import ServeSettings
from steelyard.serve.users import LOCAL

OPEN = frozenset({"/", "/favicon.svg", "/favicon.ico", "/health", "/ready"})
OPEN_BELOW = "/assets/"
UPLOADS = ("/api/attachments", "/api/import")
PROTECTED = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""Headers of every answer that has none of its own of that name."""
LINGER_SECONDS, LINGER_BYTES = 2.0, 64 * 1024 * 1024
"""How long, and how much of, a body that nobody reads is still taken after its answer."""


class Security:
    """The layer, as ASGI middleware. What passes it has `request.state.user`."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, sessions: ReportSessions | None = None):
        self.app, self.settings, self.sessions = app, settings, sessions
        own = [host for host in (settings.host, *settings.hosts) if host]
        self.names = frozenset(name.lower().strip("[]") for name in ["localhost", *own])
        self.keys = settings.keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # there are no web sockets here
            return await send({"type": "websocket.close", "code": 1008})
        body = _Body(receive, self._largest(scope["path"]), self.settings.body_seconds)
        answer = _Answer(send, body, Headers(scope=scope))
        try:
            await self._admit(scope)
            body.check(Headers(scope=scope))
            await self.app(scope, body, answer)
        except (ApiError, SteelyardError) as error:
            if answer.begun:
                raise
            await response_of(as_api_error(error), self.settings.retry_seconds)(scope, receive, answer)

    async def _admit(self, scope: Scope) -> None:
        """Lets a request in, or raises."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            raise ApiError(
                "This server is not known by the name in the Host header. Start it with --name NAME to allow another.",
                status=403,
                code="host",
            )
        self._check_origin(scope, headers, hosts[0])
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["user"] = await self._user(scope, headers)

    def _is_own(self, host: str) -> bool:
        """Whether a Host header names this server. A number cannot be made to resolve elsewhere, but needs a key beyond loopback."""
        try:
            name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or self.keys.needed

    def _check_origin(self, scope: Scope, headers: Headers, host: str) -> None:
        origins = headers.getlist("origin")
        own = {f"{scheme}://{host}" for scheme in ("http", "https")} | set(self.settings.origins)
        if any(origin not in own for origin in origins):
            raise ApiError(
                "Pages of other origins may not ask this server. Start it with --origin to allow one.", status=403, code="origin"
            )
        apart = headers.get("sec-fetch-site") in ("cross-site", "same-site") and not origins
        if apart and not (scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate" and _is_open(scope)):
            raise ApiError("Pages of other origins may not load this.", status=403, code="origin")

    async def _user(self, scope: Scope, headers: Headers) -> str:
        """Who asks."""
        if not self.keys.needed or _is_open(scope):
            return LOCAL
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # latin-1 is how headers were decoded, so no key can fail to encode
        user = self.keys.user(given.strip().encode("latin-1")) if scheme.lower() == "bearer" else None
        if user is None and self.sessions is not None and opens(scope["method"], scope["path"]):
            user = await run_in_threadpool(self.sessions.user, headers.get("cookie", ""))
        if user is None:
            raise ApiError("The key is missing or wrong: send `Authorization: Bearer KEY`.", status=401, code="invalid_api_key")
        return user

    def _largest(self, path: str) -> int:
        return self.settings.upload_bytes if path in UPLOADS else self.settings.body_bytes


def _is_open(scope: Scope) -> bool:
    """Whether a request needs no key: it gets a file of the page, or asks whether the server lives."""
    path = scope["path"]
    return scope["method"] in ("GET", "HEAD") and (path in OPEN or (path.startswith(OPEN_BELOW) and ".." not in path))


class _Body:
    """A request's body, with an end to its size and to the time it takes to come."""

    def __init__(self, receive: Receive, largest: int, seconds: float):
        self.receive, self.largest, self.seconds = receive, largest, seconds
        self.read, self.until, self.complete = 0, None, False

    def check(self, headers: Headers) -> None:
        """Refuses a body that says itself that it is too large, before any of it is read, or that says its length in two ways.

        A proxy may believe the other one, and take what follows for another client's request (RFC 9112, 6.1).
        """
        length = headers.get("content-length", "")
        if length and "transfer-encoding" in headers:
            raise ApiError("The body has both a Content-Length and a Transfer-Encoding: send one of them.", code="invalid_body")
        if length and (not length.isascii() or not length.isdigit() or len(length) > 18 or int(length) > self.largest):
            raise self._too_large()

    async def __call__(self) -> Message:
        if self.complete:  # what is still to come is the client's leaving
            return await self.receive()
        loop = asyncio.get_running_loop()
        self.until = self.until or loop.time() + self.seconds
        try:
            async with asyncio.timeout_at(self.until):
                message = await self.receive()
        except TimeoutError:
            raise ApiError(f"The body did not come within {self.seconds:g} s.", status=408, code="body_too_slow") from None
        if message["type"] == "http.request":
            self.read += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
            if self.read > self.largest:
                raise self._too_large()
        return message

    def _too_large(self) -> ApiError:
        return ApiError(f"The body is larger than {self.largest} bytes.", status=413, code="body_too_large")


class _Answer:
    """Where an answer goes, with the headers that protect whoever reads it.

    An answer that comes before the request's body was read to its end is the last one of its connection: what still comes is thrown away
    for a while, because a client that writes does not read yet, and then the connection is closed.
    """

    def __init__(self, send: Send, body: _Body, asked: Headers):
        self.send, self.body, self.begun = send, body, False
        self.bodied = asked.get("content-length", "0") != "0" or "transfer-encoding" in asked
        self.last = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun, self.last = True, self.bodied and not self.body.complete
            headers = MutableHeaders(scope=message)
            for name, value in PROTECTED.items():
                headers.setdefault(name, value)
            if self.last:
                headers["connection"] = "close"
        elif self.last and message["type"] == "http.response.body" and not message.get("more_body", False):
            await self.send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self.send(message)

    async def _linger(self) -> None:
        thrown = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while thrown < LINGER_BYTES:
                    message = await self.body.receive()
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
                    thrown += len(message.get("body", b""))
