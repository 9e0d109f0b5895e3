"""`/api/indexes`: named indexes of a person's own documents, which the `retrieve` lever may search by their names.

Documents are attachments (`POST /api/attachments`) that are put into an index by their ids. Every change has the index built anew, in a
process of its own; the one that was there is searched until the new one is whole.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from steelyard.serve.api.bodies import Body, StrictRoute
from steelyard.serve.api.conversations import stored
from steelyard.serve.api.reading import read_attachment
from steelyard.serve.http_errors import ApiError
from steelyard.serve.indexing import Indexing
from steelyard.serve.service import Service
from steelyard.serve.shared_documents import SharedDocuments
from steelyard.serve.store.errors import NotFoundError

AROUND = 20_000
"""Characters of a document shown before and after a passage."""


class NewIndex(Body):
    """An index to begin."""

    name: str = Field(max_length=400, description="what it is called; no other of one's own may be called so")


class NewDocument(Body):
    """A file to put into an index."""

    attachment: str = Field(max_length=64, description="id of an attachment of one's own")


class Place(Body):
    """A passage to be found in its document."""

    source: str = Field(max_length=4096, description="as a citation names it: the document, and the place in it after #")
    text: str = Field(max_length=20_000, description="the passage")


class SharedPlace(Place):
    """A passage to be found in documents that all may search."""

    index: str = Field(max_length=4096, description="the name that the server was started with")


def router(service: Service) -> APIRouter:
    """The routes of indexes."""
    store, everybodys = stored(service), SharedDocuments(service.settings.documents)
    indexing = building(service)
    routes = APIRouter(prefix="/api", tags=["indexes"], route_class=StrictRoute)

    def shown(index: dict[str, Any]) -> dict[str, Any]:
        progress = indexing.progress(index["id"])
        return index | {"progress": None if progress is None else dataclasses.asdict(progress)}

    @routes.get("/indexes")
    def list_indexes(request: Request) -> dict[str, Any]:
        """A person's indexes with their documents, errors and progress, and the names of those that all may search."""
        return {"indexes": [shown(index) for index in store.indexes.list(request.state.user)], "shared": list(service.settings.documents)}

    @routes.post("/indexes")
    def create_index(request: Request, body: NewIndex) -> dict[str, Any]:
        """Begins an index without documents."""
        return shown(store.indexes.create(request.state.user, body.name, frozenset(service.settings.documents)))

    @routes.get("/indexes/{index}")
    def read_index(request: Request, index: str) -> dict[str, Any]:
        """An index with its documents."""
        return shown(store.indexes.read(request.state.user, index))

    @routes.delete("/indexes/{index}")
    async def delete_index(request: Request, index: str) -> dict[str, Any]:
        """Deletes an index, and its documents where no message holds them; the building of it ends."""
        await run_in_threadpool(store.indexes.delete, request.state.user, index)
        await indexing.drop(index)
        return {"deleted": index}

    @routes.post("/indexes/{index}/documents")
    async def add_document(request: Request, index: str, body: NewDocument) -> dict[str, Any]:
        """Puts a file into an index; `already` says that the same content of the same name was there."""
        document = await run_in_threadpool(store.indexes.add, request.state.user, index, body.attachment)
        if not document["already"]:
            indexing.build(request.state.user, index)
        return document

    @routes.delete("/indexes/{index}/documents/{document}")
    async def remove_document(request: Request, index: str, document: str) -> dict[str, Any]:
        """Takes a document out of an index."""
        await run_in_threadpool(store.indexes.remove, request.state.user, index, document)
        indexing.build(request.state.user, index)
        return {"removed": document}

    @routes.post("/indexes/{index}/build")
    async def build_index(request: Request, index: str) -> dict[str, Any]:
        """Builds an index anew."""
        await run_in_threadpool(store.indexes.read, request.state.user, index)
        indexing.build(request.state.user, index)
        return shown(await run_in_threadpool(store.indexes.read, request.state.user, index))

    @routes.post("/indexes/place")
    def find_shared_place(body: SharedPlace) -> dict[str, Any]:
        """The same of a passage from documents that the operator registered for all, as they were indexed."""
        found = everybodys.around(body.index, body.source, body.text, AROUND)
        name, _, title = body.source.partition("#")
        start = len(found.before)
        text = found.before + body.text + found.after
        return {"name": name, "title": title, "text": text, "start": start, "end": start + len(body.text), "cut": found.cut}

    @routes.post("/indexes/{index}/place")
    async def find_place(request: Request, index: str, body: Place) -> dict[str, Any]:
        """Where a passage stands in its document: the text around it, and the passage's `start` and `end` in that text."""
        user = request.state.user
        name, _, title = body.source.partition("#")
        sources = await run_in_threadpool(store.indexes.sources, user, index)
        source = next((one for one in sources if one.name == name), None)
        if source is None:
            raise NotFoundError("the document is no longer in the index", where=name[:200])
        attached, reading = await read_attachment(service, user, source.attachment)
        texts = [("", attached.content.decode("utf-8-sig"))] if reading is None else [(part.title, part.text) for part in reading.sections]
        texts.sort(key=lambda part: part[0] != title)  # the place it names first
        for heading, text in texts:
            if (found := await run_in_threadpool(place_of, body.text, text)) is not None:
                first = max(0, found[0] - AROUND)
                around = text[first : found[1] + AROUND]
                return {
                    "name": name,
                    "title": heading,
                    "text": around,
                    "start": found[0] - first,
                    "end": found[1] - first,
                    "cut": around != text,
                }
        raise ApiError("The passage does not stand in the document as it is now.", status=404)

    return routes


def building(service: Service) -> Indexing:
    """What builds the server's indexes."""
    assert service.indexing is not None
    return service.indexing


def place_of(passage: str, text: str) -> tuple[int, int] | None:
    """Where a passage's words stand in a text one after the other, whatever white space is between them."""
    words = passage.split()
    if not words:
        return None
    found = re.search(r"\s+".join(map(re.escape, words)), text)
    return None if found is None else found.span()
