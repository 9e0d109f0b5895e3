"""`/api/attachments`: files that go with messages.

A file comes as the raw body, its name percent-encoded in `X-Name`. What it is, its bytes say. Its text is read at once, in a process
that may be killed; that nothing could be read is told with the file, which is kept all the same. It goes out again under the sniffed
type with `nosniff`; only pictures may be shown in place, everything else is a download, and nothing in it may run.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any
from urllib.parse import quote, unquote

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from steelyard.core.errors import DataError
from steelyard.serve.api.bodies import Body, StrictRoute
from steelyard.serve.api.conversations import stored
from steelyard.serve.api.reading import read_attachment, told
from steelyard.serve.service import Service
from steelyard.serve.store.attachments import Piece
from steelyard.serve.store.errors import TooLargeError
from steelyard.serve.store.sniffing import PICTURES


class Rectangle(Body):
    """A piece of a picture, in pixels of the picture as it is seen upright."""

    left: int = Field(ge=0, le=100_000, description="pixels from the left edge")
    top: int = Field(ge=0, le=100_000, description="pixels from the top edge")
    width: int = Field(ge=1, le=100_000, description="pixels")
    height: int = Field(ge=1, le=100_000, description="pixels")


def router(service: Service) -> APIRouter:
    """The routes of attachments."""
    store = stored(service)
    routes = APIRouter(prefix="/api", tags=["attachments"], route_class=StrictRoute)

    @routes.post("/attachments")
    async def attach(request: Request) -> dict[str, Any]:
        """Keeps a file; returns its id, name, sniffed type and size, and under `text` what was read of it: `characters`, `tokens` (an
        estimate that errs high), `parts` (pages, sheets, slides, headings), `reader`, or the `reason` why there is no text."""
        name = unquote(request.headers.get("X-Name", "file"), errors="replace")
        content = await body_within(request, store.limits.attachment_bytes, "attachment")
        kept = await run_in_threadpool(store.attachments.add, request.state.user, name, content)
        attached, reading = await read_attachment(service, request.state.user, kept["id"])
        return kept | {"text": await run_in_threadpool(told, attached, reading)}

    @routes.get("/attachments/{attachment}", response_class=Response)
    def read_content(request: Request, attachment: str) -> Response:
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

    @routes.post("/attachments/{attachment}/pieces")
    async def cut(request: Request, attachment: str, body: Rectangle) -> dict[str, Any]:
        """Cuts a piece out of a picture: an attachment of its own, with the text that was recognised in it under `text`, the picture's
        id under `origin` and the piece's `rectangle`."""
        user = request.state.user
        whole = await run_in_threadpool(store.attachments.read, user, attachment)
        if whole.type not in PICTURES:
            raise DataError(f"it is {whole.type}, no picture", where=whole.name, do="Choose a picture.")
        rectangle = (body.left, body.top, body.width, body.height)
        content = await service.readers.crop(whole.content, whole.name, rectangle)
        name = f"{PurePath(whole.name).stem[:180]} {body.width}x{body.height}+{body.left}+{body.top}.png"
        kept = await run_in_threadpool(store.attachments.add, user, name, content, Piece(attachment, whole.name, rectangle))
        attached, reading = await read_attachment(service, user, kept["id"])
        text = await run_in_threadpool(told, attached, reading)
        return kept | {"text": text, "origin": attachment, "rectangle": body.model_dump()}

    @routes.get("/attachments/{attachment}/text")
    async def read_text(request: Request, attachment: str) -> dict[str, Any]:
        """The text of a file as a model is given it: `sections` of title and text, and who read it, or the reason why there is none."""
        attached, reading = await read_attachment(service, request.state.user, attachment)
        if reading is None:
            sections = [{"title": "", "text": attached.content.decode("utf-8-sig")}]
            return {"name": attached.name, "sections": sections, "reader": None, "reason": None}
        sections = [{"title": section.title, "text": section.text} for section in reading.sections]
        return {"name": attached.name, "sections": sections, "reader": reading.reader, "reason": reading.reason}

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
