"""A whole server on loopback, in a thread of its own: real engine, real sockets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from steelyard.serve.api.app import create_app
from steelyard.serve.engine_process import EngineProcess, ServedModel
from steelyard.serve.server import bound, url_of
from steelyard.serve.settings import ServeSettings
from steelyard.serve.short_way import ShortWay


class LiveServer:
    """A server that has started.

    Args:
        models: what it serves.
        settings: of the server; it takes a free port.
        store: a path for conversations, or None to keep none.
    """

    def __init__(self, models: Sequence[ServedModel], store: Path | None = None, **settings: Any):
        self.settings = ServeSettings.model_validate({"port": 0, **settings})
        self._listener = bound(self.settings)
        self.url = url_of(self._listener, self.settings)
        self._models, self._store, self._started = models, store, threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._started.wait(300), "the server did not start"
        if self._error is not None:
            raise self._error
        key = self.settings.key
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        self.client = httpx.Client(base_url=self.url, timeout=240, headers=headers)

    async def _serve(self) -> None:
        store = None
        try:
            if self._store is not None:
                from steelyard.serve.store.store import Store

                store = Store(self._store)
            self.engine = EngineProcess(
                self._models, queue=self.settings.queue, wait=self.settings.wait_seconds, documents=self.settings.documents
            )
            await self.engine.start()
            app = create_app(self.settings, self.engine, store)
            config = uvicorn.Config(ShortWay(app), http="h11", access_log=False, log_config=None, timeout_graceful_shutdown=1)
            self._server = uvicorn.Server(config)
            self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._started.set)
            await self._server.serve(sockets=[self._listener])
        except BaseException as error:
            self._error = error
            self._started.set()
            raise
        finally:
            await self.engine.close(0)
            if store is not None:
                store.close()

    def post(self, path: str, body: Any = None, **rest: Any) -> httpx.Response:
        """What a POST of JSON is answered."""
        return self.client.post(path, json=body, **rest)

    def run(self, awaited: Any, seconds: float = 60) -> Any:
        """What is awaited, on the server's own loop."""
        return asyncio.run_coroutine_threadsafe(awaited, self._loop).result(seconds)

    def settle(self, seconds: float = 60) -> None:
        """Waits until no answer is under way: who left is gone a moment later."""

        async def busy() -> bool:
            status = await self.engine.status()
            models = status.get("models", {}).values()
            return bool(status.get("under_way") or any(model["active"] + model["waiting"] for model in models))

        until = time.monotonic() + seconds
        while self.engine.keeper.waiting or self.run(busy()):
            assert time.monotonic() < until, "answers are under way that nobody waits for"
            time.sleep(0.01)

    def close(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(5)  # a daemon: a request that hangs is not waited for
        self._listener.close()
