"""A short way to the socket for the pieces of a stream.

Whatever an application sends passes every layer around it, and each awaits the next; but what they look at is how an answer begins and
ends. A stream of tokens has hundreds of pieces between, and at 8 streams that way was a sixth of what a token costs this process. So
pieces after the first may go straight to uvicorn's connection, which frames them as it does all others. Under another server, or where
uvicorn has no such connection, there is no short way, and pieces go as the rest does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import RequestResponseCycle

NAME = "steelyard.short_way"
"""Its key among a scope's extensions."""

SendPiece = Callable[[bytes], Awaitable[None]]


class ShortWay:
    """Offers it: around the whole application, for only the server's own `send` knows its connection."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle = getattr(send, "__self__", None)
        if scope["type"] == "http" and isinstance(cycle, RequestResponseCycle):
            scope.setdefault("extensions", {})[NAME] = _way(cycle)
        await self.app(scope, receive, send)


def _way(cycle: RequestResponseCycle) -> SendPiece:
    async def send_piece(piece: bytes) -> None:
        """Sends a piece that is neither the first nor the last; a reader who is slow is waited for."""
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if not cycle.disconnected:
            cycle.transport.write(cycle.conn.send(h11.Data(data=piece)))

    return send_piece


def of(scope: Scope) -> SendPiece | None:
    """The short way of a request, if it has one."""
    return scope.get("extensions", {}).get(NAME)
