"""`/api/attachments`: files that go with messages.

A file comes as the raw body, its name percent-encoded in `X-Name`. What it is, its bytes say. It goes out again under the sniffed
type with `nosniff`; only pictures may be shown in place, everything else is a download, and nothing in it may run.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from steelyard.serve.api.conversations import stored
from steelyard.serve.service import Service
from steelyard.serve.store.errors import TooLargeError
from steelyard.serve.store.sniffing import PICTURES


def router(service: Service) -> APIRouter:
    """The routes of attachments."""
    store = stored(service)
    routes = APIRouter(prefix="/api", tags=["attachments"])

    @routes.post("/attachments")
    async def attach(request: Request) -> dict[str, Any]:
        """Keeps a file; returns its id, name, sniffed type and size."""
        name = unquote(request.headers.get("X-Name", "file"), errors="replace")
        content = await body_within(request, store.limits.attachment_bytes, "attachment")
        return await run_in_threadpool(store.attachments.add, request.state.user, name, content)

    @routes.get("/attachments/{attachment}", response_class=Response)
    def read_attachment(request: Request, attachment: str) -> Response:
        """The file itself."""
        file = store.attachments.read(request.state.user, attachment)
        shown = "inline" if file.type in PICTURES else "attachment"
        headers = {
            "Content-Disposition": f"{shown}; filename*=UTF-8''{quote(file.name, safe='')}",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "Cache-Control": "private, no-store",  # an erased file is gone from the browser too
        }
        media_type = f"{file.type}; charset=utf-8" if file.type.startswith("text/") else file.type
        return Response(file.content, media_type=media_type, headers=headers)

    return routes


async def body_within(request: Request, most: int, what: str) -> bytes:
    """A request's body, read no further than it may be long.

    Raises:
        TooLargeError: it is longer.
    """
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > most:
            raise TooLargeError(f"more than {most:,} bytes", where=what, do="Send less at once.")
    return bytes(content)
