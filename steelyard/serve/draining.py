"""The end of a server, in order: what is under way may finish, what is new is told to go elsewhere, and the door stays open meanwhile.

An orchestrator that asks `/ready` of a closed door learns nothing, and a balancer that has not heard yet still sends requests: so the
server listens until the last answer has ended, answers `/health`, `/ready` and `/metrics`, and refuses the rest with 503.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from steelyard.serve.http_errors import ApiError, response_of

ASKED_ALWAYS = frozenset({"/health", "/ready", "/metrics"})
"""Answered to the end, and never waited for."""
UNDER_WAY = "/v1/streams/"
"""What goes on with a stream that is kept, or ends it: that is no new work."""


@dataclass(eq=False)
class Drain:
    """Whether the server is ending, and what it still waits for.

    Attributes:
        since: when it was told to end, on the monotonic clock; None while it was not.
        going: requests that are being answered.
    """

    since: float | None = None
    going: int = 0

    def begin(self) -> None:
        """From now on new requests are refused. May be called in a signal's handler, and again."""
        if self.since is None:
            self.since = time.monotonic()

    @property
    def begun(self) -> bool:
        return self.since is not None

    def over(self, seconds: float) -> bool:
        """Whether nothing is under way any more, or what is has had its seconds."""
        return self.since is not None and (not self.going or self.late(seconds))

    def late(self, seconds: float) -> bool:
        """Whether the seconds have passed."""
        return self.since is not None and time.monotonic() - self.since >= seconds


class Draining:
    """Counts what is under way, and refuses what is new once the server ends: ASGI middleware."""

    def __init__(self, app: ASGIApp, drain: Drain, retry_seconds: int):
        self.app, self.drain, self.retry_seconds = app, drain, retry_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ASKED_ALWAYS:
            return await self.app(scope, receive, send)
        if self.drain.begun and not scope["path"].startswith(UNDER_WAY):
            error = ApiError("The server is ending: ask again in a moment, or another one.", status=503, code="server_ending")
            response = response_of(error, self.retry_seconds)
            response.headers["Connection"] = "close"  # the next request of this client may reach another server
            return await response(scope, receive, send)
        self.drain.going += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.drain.going -= 1
