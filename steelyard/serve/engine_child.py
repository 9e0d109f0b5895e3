"""One child process of the engine, as its parent holds it: started, written to, listened to, ended."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

from steelyard.serve.engine_messages import HEADER, MOST_BYTES, framed
from steelyard.serve.served import EngineGone

logger = logging.getLogger(__name__)

READ = 2**20
"""Bytes that may lie unread before the child has to wait."""


class Child:
    """A running child. Its standard input and output carry frames; what it says on standard error goes to the log, and its last lines
    are kept for the note if it dies."""

    def __init__(self, process: asyncio.subprocess.Process):
        self.process = process
        self._said: collections.deque[str] = collections.deque(maxlen=50)
        self._overhearing = asyncio.create_task(self._overhear())

    @classmethod
    async def start(cls) -> Child:
        """Starts a child that waits to be told what to open. `-P`: files of the folder one happens to be in are no modules of it."""
        command = (sys.executable, "-P", "-m", "steelyard.serve.engine_worker")
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, limit=READ))

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ended(self) -> bool:
        return self.process.returncode is not None

    def send(self, *messages: Sequence[Any]) -> None:
        """Writes messages, at once and whole. A child that is dead already is left to whoever listens.

        Raises:
            SteelyardError: what cannot be written as JSON; nothing was sent.
        """
        frame = framed(messages)
        assert self.process.stdin is not None
        if not self.process.stdin.is_closing():
            self.process.stdin.write(frame)

    async def sent(self) -> None:
        """Waits until the child has taken most of what was written."""
        assert self.process.stdin is not None
        with contextlib.suppress(ConnectionError):
            await self.process.stdin.drain()

    async def frames(self) -> AsyncIterator[list[list[Any]]]:
        """Everything the child says, until it ends: the messages of a frame together."""
        assert self.process.stdout is not None
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                length = int.from_bytes(await self.process.stdout.readexactly(HEADER), "big")
                if length > MOST_BYTES:
                    raise EngineGone(f"the engine's process sent a frame of {length} bytes, which nothing here is")
                yield json.loads(await self.process.stdout.readexactly(length))

    async def _overhear(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(ConnectionError):
            while line := await _line(self.process.stderr):
                if said := line.decode("utf-8", "replace").rstrip():
                    self._said.append(said)
                    logger.warning("%s", said)

    async def reason(self) -> str:
        """How it ended, once it has."""
        status = await self.process.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._overhearing), 1)
        if status < 0:
            with contextlib.suppress(ValueError):  # a signal without a name
                return f"killed by {signal.Signals(-status).name}"
            return f"killed by signal {-status}"
        return f"status {status}: {self._said[-1] if self._said else 'it said nothing'}"

    async def end(self, patience: float) -> None:
        """Lets it end by itself for some seconds, then by force."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), patience)
        except TimeoutError:
            self.kill()
            await self.process.wait()
        await asyncio.wait([self._overhearing], timeout=1)
        self._overhearing.cancel()

    def kill(self) -> None:
        """Ends it by force."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line, or the next piece of one that is very long; empty at the end."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.readexactly(error.consumed)
