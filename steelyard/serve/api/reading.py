"""Reading what people attached, before a model is to read it: when it comes, or when it is first wanted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi.concurrency import run_in_threadpool

from steelyard.augment.retrieve.passages import estimated_tokens
from steelyard.data.documents.sections import whole
from steelyard.serve.reading import Reading
from steelyard.serve.service import Service
from steelyard.serve.store.attachments import Attached

LONG = 500_000
"""Characters up to which tokens are estimated. Of a longer text, which takes seconds, its bytes are told: no more tokens are in it."""


async def read_attachment(service: Service, user: str, attachment: str) -> tuple[Attached, Reading | None]:
    """A person's file and what was read of it, now if it was not before; no reading where it is plain text."""
    assert service.store is not None
    store = service.store
    attached = await run_in_threadpool(store.attachments.read, user, attachment)
    if (what := attached.needs) is None:
        return attached, attached.reading
    reading = await service.readers.read(what, attached.content, attached.name)
    await run_in_threadpool(store.readings.keep, attached.sha256, reading)
    return attached, reading


async def read_all(service: Service, user: str, attachments: Iterable[str]) -> dict[str, Reading | None]:
    """What was read of a person's files, by their ids: those of which nothing was read yet are read now."""
    return {attachment: (await read_attachment(service, user, attachment))[1] for attachment in dict.fromkeys(attachments)}


def told(attached: Attached, reading: Reading | None) -> dict[str, Any]:
    """What a page says of a file's text: whether there is any, how long it is, who read it, or why there is none."""
    if reading is not None and reading.reason is not None:
        return {"characters": 0, "tokens": 0, "parts": 0, "reader": reading.reader, "reason": reading.reason}
    text = attached.content.decode("utf-8-sig") if reading is None else whole(reading.sections)
    tokens = estimated_tokens(text) if len(text) <= LONG else len(text.encode("utf-8", "replace"))
    counts = {"characters": len(text), "tokens": tokens, "parts": 0 if reading is None else len(reading.sections)}
    return counts | {"reader": None if reading is None else reading.reader, "reason": None}
