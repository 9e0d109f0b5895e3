"""Keeps a child process alive and carries requests to it and what comes back: the part of `engine_process.py` that knows no verbs.

Every request has a number. Whoever waits for it is told all that comes back under that number, or that the child died; then it is
forgotten, so that nothing is left behind by requests that are over. Everything here belongs to the event loop that called `start`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from steelyard.core.errors import BusyError, SteelyardError, nearest
from steelyard.core.protocols import Done, Event, Failure
from steelyard.serve import engine_messages as messages
from steelyard.serve.arrivals import Arrivals
from steelyard.serve.engine_child import Child
from steelyard.serve.resting import Resting
from steelyard.serve.served import EngineGone, ServedInfo

logger = logging.getLogger(__name__)

CALLS = 256
"""Short questions (tokens of a text, a rendering) that may wait at once, for each model."""
PATIENCE = 5.0
"""Seconds a child has to end by itself."""
LIVED = 60.0
"""Seconds a child must have lived for the next one to be started without any delay."""
LONGEST_DELAY = 30.0
"""Seconds between two starts, at most."""
SPARE_AFTER = 5.0
"""Seconds that a child has been ready before the next one is started: it reads its libraries while nobody waits for that."""
WHERE, LATER = "engine process", "Ask again in a few seconds."


class Keeper:
    """A child process, the next one if it dies, and those who wait for it.

    Args:
        opening: what each child is told to open.
        queue: answers that may wait for a slot of one model.
        wait: seconds within which an answer must have begun.
        say: receives lines for a person.
        spare: whether a second child, which has read its libraries and opened no model, waits to take the first one's place.
    """

    def __init__(self, opening: Mapping[str, Any], queue: int, wait: float, say: Callable[[str], None], spare: bool = False):
        self.opening, self.queue, self.wait, self.say, self.spare = opening, queue, wait, say, spare
        self.infos: dict[str, ServedInfo] = {}
        self.child: Child | None = None
        self.starting: Child | None = None  # that child, from its first moment on
        self.restarts = 0
        self.waiting: dict[int, Stream | Call] = {}
        self._load: Counter[tuple[str, bool]] = Counter()
        self._keeping: asyncio.Task[None] | None = None
        self._spare: Child | None = None
        self._sparing: asyncio.Task[None] | None = None
        self._closing = False
        self._idle = asyncio.Event()
        self._resting = Resting(lambda: not self.waiting)
        self._number = 0

    # Its life

    async def start(self) -> None:
        """See `EngineProcess.start`."""
        if self._keeping is not None or self._closing:
            raise SteelyardError("the engine was started before", where=WHERE, do="Make a new EngineProcess.")
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeping = asyncio.create_task(self._keep(ready), name="steelyard-engine-process")
        try:
            await asyncio.shield(ready)
        except BaseException:  # an interrupt while a large model loads must not leave the child behind
            await self.close(0)
            raise

    async def close(self, drain: float) -> None:
        """See `EngineProcess.close`."""
        self._closing = True
        if self.waiting and drain > 0:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), drain)
        self._lose("the server closed")
        self._resting.end()
        for task in (self._sparing, self._keeping):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._spare is not None:
            await self._spare.end(0)
        self.child = self._spare = None

    def register(self, indexes: Mapping[str, str]) -> None:
        """See `EngineProcess.register`. The next child is told when it opens."""
        self.opening = {**self.opening, "registered": dict(indexes)}
        if self.starting is not None:
            self.starting.send([0, "register", dict(indexes)])

    @property
    def ready(self) -> bool:
        return self.child is not None and not self._closing

    async def _keep(self, ready: asyncio.Future[None]) -> None:
        """Runs one child after the other. The first one's failure to open is told by `ready`; of later ones `say` tells."""
        short_lives = 0
        while True:
            begun = time.monotonic()
            reason, refusal = await self._one_life(ready)
            self.child = None
            what = f"the engine's process ended ({reason})"
            self._lose(what)
            if not ready.done():
                ready.set_exception(
                    refusal or EngineGone(f"{what} while it opened the models", where=WHERE, do="See its last words above.")
                )
                return
            short_lives = 0 if time.monotonic() - begun > LIVED else short_lives + 1
            delay = 0.0 if short_lives < 2 else min(LONGEST_DELAY, 2.0 ** (short_lives - 2))
            self.restarts += 1
            self.say(f"{refusal or what}; starting it again" + (f" in {delay:.0f} s" if delay else ""))
            await asyncio.sleep(delay)

    async def _one_life(self, ready: asyncio.Future[None]) -> tuple[str, SteelyardError | None]:
        """Starts a child and hears it to its end: how that came, and what it refused to open."""
        refusal: SteelyardError | None = None
        try:
            child = self._take_spare() or await Child.start()
        except OSError as error:  # no memory or no process left: there may be some later
            return f"it could not be started: {error.strerror}", None
        try:
            self.starting = child
            child.send([0, "open", self.opening])
            async for frame in child.frames():
                for number, word, *fields in frame:
                    if number:
                        self._hear(number, word, fields)
                    elif word == "refused":
                        refusal = messages.error_read(*fields)
                    else:
                        self._hear_of(child, word, fields, ready)
            return await child.reason(), refusal
        except asyncio.CancelledError:
            await child.end(PATIENCE)
            raise
        except Exception:  # what it says cannot be understood: another one must take its place, or all would wait for ever
            logger.exception("the engine's process said something that cannot be understood")
            child.kill()
            return await child.reason(), refusal

    def _hear_of(self, child: Child, word: str, fields: list[Any], ready: asyncio.Future[None]) -> None:
        """Takes in what a child says of itself."""
        match [word, *fields]:
            case ["say", line]:
                self.say(line)
            case ["ready", infos]:
                self.infos = {info["name"]: messages.info_read(info) for info in infos}
                self.child = child
                if not ready.done():
                    ready.set_result(None)
                if self.spare and (self._sparing is None or self._sparing.done()):
                    self._sparing = asyncio.create_task(self._prepare_spare(), name="steelyard-spare-process")
            case ["offers", offers]:  # looking for them takes a while: the next child is told
                self.opening = {**self.opening, "offers": offers}
            case ["broken"]:
                child.kill()

    async def _prepare_spare(self) -> None:
        """Starts the child that waits. Its libraries take as long as opening a model of 100 MB, and are there when it is needed."""
        await asyncio.sleep(SPARE_AFTER)
        if self._spare is None or self._spare.ended:
            with contextlib.suppress(OSError):  # no memory or no process left for it: then the next child starts from nothing
                self._spare = await Child.start()

    def _take_spare(self) -> Child | None:
        """The child that waits, unless there is none, or something ended it meanwhile."""
        spare, self._spare = self._spare, None
        return None if spare is None or spare.ended else spare

    # Requests, and what comes back

    def info(self, name: str) -> ServedInfo:
        """What is known of a model.

        Raises:
            SteelyardError: there is none of that name; the nearest is given.
        """
        if name not in self.infos:
            raise SteelyardError(f"no model is called `{name}`", where="model", do=nearest(name, self.infos))
        return self.infos[name]

    async def ask(self, verb: str, name: str, *arguments: Any, slow: bool = False) -> Any:
        """The answer to a question; `slow`: it computes, and counts among those that wait for slots.

        Raises:
            EngineGone: there is no engine, or it died meanwhile.
            BusyError: too many wait already.
            SteelyardError: no such model, or what the child says is wrong with the question.
        """
        call = Call(name, slow)
        number, child = self._post(call, verb, arguments)
        try:
            await child.sent()
            return await call.future
        finally:
            self._forget(number, cancel=True)

    async def stream(self, verb: str, name: str, *arguments: Any) -> AsyncIterator[Sequence[Event]]:
        """The events of an answer, to the last; together those that came while nobody looked.

        Raises what `ask` raises, before the first event; `BusyError` too where that does not come within `wait`.
        """
        stream = Stream(name)
        number, child = self._post(stream, verb, arguments)
        try:
            await child.sent()
            try:
                async with asyncio.timeout(self.wait):
                    events = await stream.events.take()
            except TimeoutError:
                where, do = f"model `{name}`", "Ask again later."
                raise BusyError(f"the answer has not begun within {self.wait:g} s", where=where, do=do) from None
            while True:
                last = events[-1]
                if isinstance(last, SteelyardError):
                    if told := [event for event in events[:-1] if not isinstance(event, SteelyardError)]:
                        yield told
                    raise last
                yield events  # type: ignore[misc]  (an error is always the last)
                if isinstance(last, Done):
                    return
                events = await stream.events.take()
        finally:
            self._forget(number, cancel=True)

    def _post(self, waiting: Stream | Call, verb: str, arguments: tuple[Any, ...]) -> tuple[int, Child]:
        """Sends a request; its number, and who was sent it."""
        if self.child is None or self._closing:
            raise EngineGone("the server is closing" if self._closing else "the engine is being started", where=WHERE, do=LATER)
        info = self.info(waiting.name)
        most = info.slots + self.queue if waiting.slow else CALLS
        if self._load[waiting.load] >= most:
            raise BusyError(f"{most} requests wait already", where=f"model `{waiting.name}`", do="Ask again later.")
        self._number += 1
        self.child.send([self._number, verb, waiting.name, *arguments])
        self.waiting[self._number] = waiting
        self._load[waiting.load] += 1
        return self._number, self.child

    def _hear(self, number: int, word: str, fields: list[Any]) -> None:
        waiting = self.waiting.get(number)  # None: nobody waits for it any more
        if waiting is not None and waiting.hear(word, fields):
            self._forget(number)

    def _forget(self, number: int, cancel: bool = False) -> None:
        """A request is over. If somebody left before its end, the child is told at once."""
        waiting = self.waiting.pop(number, None)
        if waiting is None:
            return
        self._load[waiting.load] -= 1
        if cancel and self.child is not None:
            self.child.send([number, "cancel"])
        if not self.waiting:
            self._idle.set()
        self._resting.after_work()

    def _lose(self, what: str) -> None:
        for number, waiting in list(self.waiting.items()):
            waiting.lose(what)
            self._forget(number)


class Stream:
    """Someone who waits for events."""

    slow = True

    def __init__(self, name: str) -> None:
        self.name, self.load = name, (name, True)
        self.events: Arrivals[Event | SteelyardError] = Arrivals()

    def hear(self, word: str, fields: list[Any]) -> bool:
        """Takes an event in; whether it was the last."""
        self.events.put(messages.error_read(*fields) if word == "error" else messages.event_read(word, fields))
        return word in ("error", "done")

    def lose(self, what: str) -> None:
        """The child is gone."""
        self.events.put(Failure(f"{what} before the answer was whole; ask again"))
        self.events.put(Done("error"))


class Call:
    """Someone who waits for one thing."""

    def __init__(self, name: str, slow: bool) -> None:
        self.name, self.slow, self.load = name, slow, (name, slow)
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def hear(self, word: str, fields: list[Any]) -> bool:
        """Takes the answer in; it is always the last."""
        if not self.future.done():
            if word == "error":
                self.future.set_exception(messages.error_read(*fields))
            else:
                self.future.set_result(fields[0])
        return True

    def lose(self, what: str) -> None:
        """The child is gone."""
        if not self.future.done():
            self.future.set_exception(EngineGone(what, where=WHERE, do=LATER))
