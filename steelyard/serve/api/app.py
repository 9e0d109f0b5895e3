"""The application: routes, their failures, and the layers around them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi import FastAPI

import steelyard
from steelyard.serve import http_errors, page
from steelyard.serve.api import chat, completions, embeddings, health, levers, models, reports, responses, tokens
from steelyard.serve.api.resumption import Streams
from steelyard.serve.draining import Drain, Draining
from steelyard.serve.indexing import Indexing, index_folder
from steelyard.serve.lever_catalogue import Catalogue
from steelyard.serve.reading import Readers
from steelyard.serve.report_sessions import ReportSessions
from steelyard.serve.security import Security
from steelyard.serve.service import Service
from steelyard.serve.settings import ServeSettings

if TYPE_CHECKING:
    from steelyard.serve.engine_process import EngineProcess
    from steelyard.serve.store.store import Store

ABOUT = "An OpenAI-compatible server over Steelyard's engine, and the store of what people say to it."


def create_app(
    settings: ServeSettings, engine: EngineProcess, store: Store | None, drain: Drain | None = None, catalogue: Catalogue | None = None
) -> FastAPI:
    """The server's application. Engine, store and catalogue are the caller's to start and to close.

    Without a store it only answers: there are no conversations, no feedback and no attachments. `drain` tells it that it is to end.
    """
    sessions = None
    if settings.keys.needed and store is not None:
        sessions = ReportSessions(store.sessions, settings.keys.by_name, settings.report_seconds)
    readers = Readers()
    indexing = None if store is None else Indexing(store, engine, readers, index_folder(settings, store))
    service = Service(settings, engine, store, drain or Drain(), sessions, readers, indexing, catalogue or Catalogue())
    metrics, streams = health.Metrics(), Streams(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if service.indexing is not None:
            await service.indexing.start()
        yield
        if service.indexing is not None:
            await service.indexing.close()
        await streams.close()

    app = FastAPI(
        title="Steelyard",
        description=ABOUT,
        version=steelyard.__version__,
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    http_errors.install(app, settings)
    for one in (models, embeddings, tokens, levers, reports):
        app.include_router(one.router(service))
    for one in (chat, completions, responses):
        app.include_router(one.router(service, streams))
    app.include_router(streams.router())
    app.include_router(health.router(service, metrics))
    if store is not None:
        from steelyard.serve.api import attachments, conversations, exports, feedback, indexes, places

        for one in (conversations, places, feedback, exports, attachments, indexes):
            app.include_router(one.router(service))
    app.include_router(page.router())
    app.add_middleware(Draining, drain=service.drain, retry_seconds=settings.retry_seconds)
    app.add_middleware(health.Measured, metrics=metrics)
    app.add_middleware(Security, settings=settings, sessions=sessions)  # the last one added is the outermost
    return app
