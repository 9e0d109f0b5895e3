"""`/api/export` and `/api/import`: conversations out and in again, and what people taught, as rows that training reads."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from steelyard.serve.api.attachments import body_within
from steelyard.serve.api.conversations import stored
from steelyard.serve.api.reading import read_all
from steelyard.serve.service import Service


def router(service: Service) -> APIRouter:
    """The routes of export and import."""
    store = stored(service)
    routes = APIRouter(prefix="/api", tags=["export"])

    @routes.get("/export", response_class=StreamingResponse)
    async def export(
        request: Request,
        kind: Literal["conversations", "sft", "preferences"],
        consent: bool = False,
        only_consented: bool = False,
    ) -> StreamingResponse:
        """Everything of the person who asks, as JSONL.

        `consent` states that all of it may be trained on, and rows of `sft` and `preferences` then say so; `only_consented` takes
        only conversations that carry the consent themselves. `X-Left-Out` counts rows that would teach nothing (nothing was said, or both
        answers are the same) and those that could not become text.
        """
        user, left_out = request.state.user, 0
        if kind == "conversations":
            lines = store.export_conversations(user, only_consented)
        else:
            await read_all(service, user, await run_in_threadpool(store.attachments.unread, user))
            make = store.sft_rows if kind == "sft" else store.preference_rows
            made = await run_in_threadpool(make, user, only_consented, consent)
            lines, left_out = iter(made.lines), len(made.left_out)
        headers = {"Content-Disposition": f'attachment; filename="{kind}.jsonl"', "X-Left-Out": str(left_out), "Cache-Control": "no-store"}
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)

    @routes.post("/import")
    async def import_(request: Request, bad_rows: Literal["stop", "skip"] = "stop") -> dict[str, Any]:
        """Takes over exported conversations, sent as the body. Lines that cannot be used refuse the file, or are left out and named."""
        content = await body_within(request, store.limits.import_bytes, "import")
        return await run_in_threadpool(store.import_conversations, request.state.user, content, bad_rows == "skip")

    return routes
