"""One running server: the engine's process, the store and the application, from the first bind to the last answer.

The socket is bound before any model is opened, so that a port that is taken is told at once. On SIGTERM or Ctrl-C new requests are
refused, answers under way may finish within `drain_seconds`, and what remains is told that it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import uvicorn

from steelyard.core.errors import SteelyardError
from steelyard.serve.api.app import create_app
from steelyard.serve.draining import Drain
from steelyard.serve.engine_process import EngineProcess
from steelyard.serve.lever_catalogue import Catalogue
from steelyard.serve.served import ServedModel
from steelyard.serve.settings import ServeSettings
from steelyard.serve.short_way import ShortWay
from steelyard.serve.store.store import Store

BACKLOG = 2048
"""Connections that may wait to be taken."""
IDLE = 30
"""Seconds for which an unused connection is kept open."""
LAST_WORDS = 2
"""Seconds for what is sent to clients whose answers were ended."""


def run(settings: ServeSettings, models: Sequence[ServedModel], say: Callable[[str], None]) -> None:
    """Serves until it is told to end.

    Args:
        say: receives lines for a person; the last one before the wait holds the URL.

    Raises:
        SteelyardError: the address cannot be had, a model cannot be opened, the store cannot be used.
    """
    settings.check()
    listener = bound(settings)
    try:
        asyncio.run(_serving(settings, models, listener, say))
    finally:
        listener.close()


def bound(settings: ServeSettings) -> socket.socket:
    """A socket that listens where the settings say.

    Raises:
        SteelyardError: the address is not this machine's, or the port is taken or reserved.
    """
    where = f"{settings.host}:{settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SteelyardError(f"{settings.host} is no address here ({error.strerror})", where="--host", do="Use 127.0.0.1.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        what = "another program listens there" if taken else (error.strerror or "it cannot be listened on").lower()
        raise SteelyardError(what, where=where, do="Choose another --port; 0 takes a free one." if taken else "Choose another.") from None
    return listener


def url_of(listener: socket.socket, settings: ServeSettings) -> str:
    """Where a browser finds the server."""
    port = listener.getsockname()[1]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn's server, but for its end: it would close the door first, and then the process by the signal it was told to end by."""

    def __init__(self, config: uvicorn.Config, drain: Drain, seconds: float, engine: EngineProcess):
        super().__init__(config)
        self.drain, self.seconds, self.engine = drain, seconds, engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins the end; a second Ctrl-C does not wait for answers under way."""
        self.drain.begin()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Whether to close the door: ten times a second."""
        if not await super().on_tick(counter):
            return False
        self.drain.begin()
        if not self.force_exit and not self.drain.over(self.seconds):
            return False
        if self.drain.going:
            await self.engine.close(0.0)  # each answer that was not done ends with a frame that says so
        return True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _signals(server: uvicorn.Server) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the server."""
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _serving(settings: ServeSettings, models: Sequence[ServedModel], listener: socket.socket, say: Callable[[str], None]) -> None:
    engine = EngineProcess(
        models, queue=settings.queue, wait=settings.wait_seconds, say=say, documents=settings.documents, spare=settings.spare
    )
    store = await asyncio.to_thread(_opened, settings)
    catalogue = Catalogue()
    try:
        drain = Drain()
        app = create_app(settings, engine, store, drain, catalogue)
        server = _Server(
            uvicorn.Config(
                ShortWay(app),
                http="h11",  # the other one sets no end to the size of headers
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=IDLE,
                timeout_graceful_shutdown=LAST_WORDS,
                h11_max_incomplete_event_size=64 * 1024,
                ws="none",
            ),
            drain,
            settings.drain_seconds,
            engine,
        )
        with _signals(server):
            await _until_ready(engine, server)
            if not server.should_exit:
                listener.listen(BACKLOG)  # whoever reads the address may connect at once
                say(f"{', '.join(engine.models)} at {url_of(listener, settings)} (API: {url_of(listener, settings)}/v1). Ctrl-C ends.")
                catalogue.begin()  # only now: it takes seconds of a processor, which the start needs itself
                await server.serve(sockets=[listener])
    finally:
        await catalogue.close()
        await engine.close(0.0)  # answers have had their time: the server waited for them
        await asyncio.to_thread(store.close)


async def _until_ready(engine: EngineProcess, server: uvicorn.Server) -> None:
    """Opens the models; a signal meanwhile ends that too."""
    start = asyncio.ensure_future(engine.start())
    while not start.done():
        await asyncio.wait({start}, timeout=0.1)
        if server.should_exit:
            start.cancel()
            await asyncio.gather(start, return_exceptions=True)
            return
    start.result()


def _opened(settings: ServeSettings) -> Store:
    if settings.database is not None:
        return Store(settings.database)
    settings.data.mkdir(parents=True, exist_ok=True)
    return Store(str(settings.data / "steelyard.sqlite"))
