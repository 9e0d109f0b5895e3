"""The engine as a process of its own, seen from the server.

Generation needs the interpreter's lock for every token, and native code may crash. So the models live in a child process with one
engine each (`engine_worker.py`), and this one only passes requests in and events out: a frame of JSON carries whatever all
answers under way have said since the last one. If the child dies, those who wait are told, and another is started by itself.

Everything here belongs to the event loop that called `start`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from steelyard.core.errors import BusyError, SteelyardError, UnsupportedError, nearest
from steelyard.core.levers import Lever
from steelyard.core.protocols import AnswerSettings, Conversation, Done, Event, Failure, Score
from steelyard.serve import engine_messages as messages
from steelyard.serve.engine_child import Child
from steelyard.serve.served import EngineFault, EngineGone, ServedInfo, ServedLever, ServedModel

__all__ = ["EngineFault", "EngineGone", "EngineProcess", "ServedAnswerer", "ServedInfo", "ServedLever", "ServedModel"]

CALLS = 256
"""Short questions (tokens of a text, a rendering) that may wait at once, for each model."""
PATIENCE = 5.0
"""Seconds a child has to end by itself."""
LIVED = 60.0
"""Seconds a child must have lived for the next one to be started without any delay."""
LONGEST_DELAY = 30.0
"""Seconds between two starts, at most."""


class EngineProcess:
    """A child process with one engine for each model.

    Args:
        models: what is served, under names that differ.
        queue: most answers that wait for a slot of one model before more are refused.
        say: receives lines for a person: what is downloaded, opened, or has died.
        documents: names of what clients' own `retrieve` levers may search; others are refused.
    """

    def __init__(
        self, models: Sequence[ServedModel], *, queue: int, say: Callable[[str], None] = lambda line: None, documents: Sequence[str] = ()
    ):
        if not models:
            raise SteelyardError("nothing to serve", where="models", do="Name a model.")
        twice = [name for name, count in Counter(model.name for model in models).items() if count > 1]
        if twice:
            raise SteelyardError(f"two models are called `{twice[0]}`", where="models", do="Give each a name of its own.")
        self._asked = [_model_written(model) for model in models]
        self._queue, self._say, self._documents = queue, say, list(documents)
        self._infos: dict[str, ServedInfo] = {}
        self._pieces: dict[str, dict[int, str]] = {}
        self._child: Child | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._closing = False
        self._waiting: dict[int, _Stream | _Call] = {}
        self._load: Counter[tuple[str, type]] = Counter()
        self._idle = asyncio.Event()
        self._number = 0
        self._restarts = 0

    # Its life

    async def start(self) -> None:
        """Starts the child and returns when all models are open.

        Raises:
            SteelyardError: a model cannot be had, a lever cannot be pulled; or the child died on the way (`EngineGone`).
        """
        if self._keeping is not None:
            raise SteelyardError("the engine was started before", where="engine process", do="Make a new EngineProcess.")
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeping = asyncio.create_task(self._keep(ready), name="steelyard-engine-process")
        try:
            await asyncio.shield(ready)
        except BaseException:  # an interrupt while a large model loads must not leave the child behind
            await self.close(0)
            raise

    async def close(self, drain: float) -> None:
        """Takes no more requests, waits at most `drain` seconds for those under way, tells the rest, and ends the child.

        Closing twice, or what never started, is fine.
        """
        self._closing = True
        if self._waiting and drain > 0:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), drain)
        self._lose("the server is closing")
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        self._child = None

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._child is not None and not self._closing

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none that is ready."""
        return self._child.pid if self._child else None

    @property
    def models(self) -> Mapping[str, ServedInfo]:
        """What is served, by name, in the order given. Empty before `start`."""
        return self._infos

    async def _keep(self, ready: asyncio.Future[None]) -> None:
        """Runs one child after the other. The first one's failure to open is told by `ready`; of later ones `say` tells."""
        short_lives = 0
        while True:
            begun = time.monotonic()
            child = await Child.start()
            refusal: SteelyardError | None = None
            try:
                child.send([0, "open", {"models": self._asked, "queue": self._queue, "documents": self._documents}])
                async for message in child.messages():
                    match message:
                        case [0, "say", line]:
                            self._say(line)
                        case [0, "ready", infos]:
                            self._infos = {info["name"]: messages.info_read(info) for info in infos}
                            self._pieces = {name: {} for name in self._infos}
                            self._child = child
                            if not ready.done():
                                ready.set_result(None)
                        case [0, "refused", *error]:
                            refusal = messages.error_read(*error)
                        case [number, word, *fields]:
                            self._hear(number, word, fields)
                reason = await child.reason()
            except asyncio.CancelledError:
                await child.end(PATIENCE)
                raise
            self._child = None
            what = f"the engine's process ended ({reason})"
            self._lose(what)
            if not ready.done():
                ready.set_exception(
                    refusal or EngineGone(f"{what} while it opened", where="engine process", do="Its last words are its log.")
                )
                return
            short_lives = 0 if time.monotonic() - begun > LIVED else short_lives + 1
            delay = 0.0 if short_lives < 2 else min(LONGEST_DELAY, 2.0 ** (short_lives - 2))
            self._restarts += 1
            self._say(f"{refusal or what}; starting it again" + (f" in {delay:.0f} s" if delay else ""))
            await asyncio.sleep(delay)

    # Requests and what comes back

    def _hear(self, number: int, word: str, fields: list[Any]) -> None:
        waiting = self._waiting.get(number)
        if waiting is not None and waiting.hear(word, fields):
            self._forget(number)

    def _post(self, waiting: _Stream | _Call, verb: str, name: str, *arguments: Any) -> int:
        """Sends a request and returns its number.

        Raises:
            EngineGone: there is no engine to send it to.
            BusyError: too many wait already.
            SteelyardError: no such model, or what JSON has no words for.
        """
        if not self.ready:
            what = "the server is closing" if self._closing else "the engine is being started"
            raise EngineGone(what, where="engine process", do="Ask again in a few seconds.")
        assert self._child is not None
        info = self._info(name)
        most = info.slots + self._queue if waiting.slow else CALLS
        if self._load[name, type(waiting)] >= most:
            raise BusyError(f"{most} requests wait already", where=f"model `{name}`", do="Ask again later.")
        self._number += 1
        self._child.send([self._number, verb, name, *arguments])
        waiting.name = name
        self._waiting[self._number] = waiting
        self._load[name, type(waiting)] += 1
        return self._number

    def _forget(self, number: int, cancel: bool = False) -> None:
        """A request is over. If nobody waits for the rest of it, the child is told at once."""
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return
        self._load[waiting.name, type(waiting)] -= 1
        if cancel and self._child is not None:
            self._child.send([number, "cancel"])
        if not self._waiting:
            self._idle.set()

    def _lose(self, what: str) -> None:
        for number, waiting in list(self._waiting.items()):
            waiting.lose(what)
            self._forget(number)

    def _info(self, name: str) -> ServedInfo:
        if name not in self._infos:
            raise SteelyardError(f"no model is called `{name}`", where="model", do=nearest(name, self._infos))
        return self._infos[name]

    async def _ask(self, waiting: _Call, verb: str, name: str, *arguments: Any) -> Any:
        child = self._child
        number = self._post(waiting, verb, name, *arguments)
        assert child is not None
        try:
            await child.sent()
            return await waiting.future
        finally:
            self._forget(number, cancel=True)

    async def _stream(self, verb: str, name: str, *arguments: Any) -> AsyncIterator[Event]:
        waiting, child = _Stream(), self._child
        number = self._post(waiting, verb, name, *arguments)
        assert child is not None
        try:
            await child.sent()
            while True:
                event = await waiting.events.get()
                if isinstance(event, SteelyardError):
                    raise event
                yield event
                if isinstance(event, Done):
                    return
        finally:
            self._forget(number, cancel=True)

    # What it does

    def answerer(self, name: str) -> ServedAnswerer:
        """What answers under a name.

        Raises:
            SteelyardError: no such model; the nearest name is given.
            UnsupportedError: an encoder.
        """
        if self._info(name).kind != "chat":
            raise UnsupportedError(f"`{name}` turns texts into vectors and answers nothing", where="model", do="Use it for embeddings.")
        return ServedAnswerer(self, name)

    async def tokenize(self, name: str, text: str, special: bool = True) -> list[int]:
        """Token ids of a text; nothing is added. `special`: the strings of special tokens become their ids."""
        return await self._ask(_Call(), "tokenize", name, text, special)

    async def detokenize(self, name: str, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return await self._ask(_Call(), "detokenize", name, list(ids))

    async def pieces(self, name: str, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself (a token within a character reads as U+FFFD). What was asked before is known here."""
        self._info(name)
        known = self._pieces[name]
        if new := sorted({id for id in ids if id not in known}):
            known.update(zip(new, await self._ask(_Call(), "pieces", name, new), strict=True))
        return [known[id] for id in ids]

    async def render(self, name: str, conversation: Conversation, tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """A conversation as the text the model reads, up to where its answer begins; the levers that are on have no part in it."""
        return await self._ask(_Call(), "render", name, messages.conversation_written(conversation), _tools_written(tools))

    async def room(self, name: str, conversation: Conversation) -> int:
        """Tokens left for the answer once the model's own levers have read a conversation; negative where it is too long."""
        return await self._ask(_Call(), "room", name, messages.conversation_written(conversation))

    async def embed(self, name: str, texts: Sequence[str]) -> list[list[float]]:
        """A vector for each text, of unit length unless the model says otherwise.

        Raises:
            UnsupportedError: the model is no encoder.
            ContextLengthError: a text is too long; none is cut.
        """
        coded = await self._ask(_Call(slow=True), "embed", name, list(texts))
        return [array("f", base64.b64decode(vector)).tolist() for vector in coded]

    async def status(self) -> Mapping[str, Any]:
        """How it goes: `ready`, `restarts`, `pid`, `memory` (resident bytes of the child), and for each model under `models` its
        `slots`, `active`, `waiting`, `requests`, `tokens` (made), `prompt_tokens` (read or known), `prefix_tokens` (of these known
        from before). Counts begin anew with every child. While none is ready only the first three are there."""
        own = {"ready": self.ready, "restarts": self._restarts, "pid": self.pid}
        if not self.ready:
            return own
        try:
            return own | await self._ask(_Call(), "status", next(iter(self._infos)))
        except EngineGone:
            return own | {"ready": False, "pid": None}


class ServedAnswerer:
    """A served model, answering. Satisfies `core.protocols.ScoringAnswerer`."""

    def __init__(self, engine: EngineProcess, name: str):
        self.engine, self.name = engine, name

    @property
    def info(self) -> ServedInfo:
        return self.engine.models[self.name]

    @property
    def fingerprint(self) -> str:
        return self.info.fingerprint

    @property
    def capabilities(self) -> frozenset[str]:
        return self.info.capabilities

    async def answer(
        self,
        conversation: Conversation,
        settings: AnswerSettings,
        *,
        levers: Sequence[Lever] = (),
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> AsyncIterator[Event]:
        """Yields events in order; the last is `Done`. Closing the generator before that ends the work on it at once.

        Args:
            conversation: what was said so far.
            settings: how the answer is drawn.
            levers: pulled for this answer alone, over those that are on; each must be declared `per_request`.
            tools: descriptions of tools in OpenAI's form, for the chat template to write down.

        Raises:
            SteelyardError: what is wrong with the request, before the first event; `EngineGone` while there is no engine,
                `BusyError` where too many wait. A failure after that, the child's death too, comes as `Failure` and `Done("error")`.
        """
        written = messages.conversation_written(conversation)
        events = self.engine._stream(
            "answer", self.name, written, messages.settings_written(settings), messages.levers_written(levers), _tools_written(tools)
        )
        async with contextlib.aclosing(events):  # type: ignore[type-var]
            async for event in events:
                yield event

    async def complete(
        self, prompt: str | Sequence[int], settings: AnswerSettings, *, levers: Sequence[Lever] = ()
    ) -> AsyncIterator[Event]:
        """The same for raw text or token ids, which no chat template and no `wrap` lever touches; only `decode` levers may come with it."""
        text = prompt if isinstance(prompt, str) else list(prompt)
        events = self.engine._stream("complete", self.name, text, messages.settings_written(settings), messages.levers_written(levers))
        async with contextlib.aclosing(events):  # type: ignore[type-var]
            async for event in events:
                yield event

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        """Log-probability of each continuation as the assistant's next words, after the levers that are on.

        Raises:
            SteelyardError: an empty continuation, or more tokens than the context holds; `EngineGone`, `BusyError`.
        """
        written = messages.conversation_written(conversation)
        scores = await self.engine._ask(_Call(slow=True), "score", self.name, written, list(continuations))
        return [Score(*score) for score in scores]


class _Stream:
    """Someone who waits for events. `slow`: it takes a slot of the engine."""

    slow = True
    name = ""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event | SteelyardError] = asyncio.Queue()

    def hear(self, word: str, fields: list[Any]) -> bool:
        """Takes an event in; whether it was the last."""
        event = messages.error_read(*fields) if word == "error" else messages.event_read(word, fields)
        assert event is not None
        self.events.put_nowait(event)
        return word in ("error", "done")

    def lose(self, what: str) -> None:
        self.events.put_nowait(Failure(f"{what} before the answer was whole; ask again"))
        self.events.put_nowait(Done("error"))


class _Call:
    """Someone who waits for one thing."""

    name = ""

    def __init__(self, slow: bool = False) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.slow = slow

    def hear(self, word: str, fields: list[Any]) -> bool:
        if not self.future.done():
            if word == "error":
                self.future.set_exception(messages.error_read(*fields))
            else:
                self.future.set_result(fields[0])
        return True

    def lose(self, what: str) -> None:
        if not self.future.done():
            self.future.set_exception(EngineGone(what, where="engine process", do="Ask again in a few seconds."))


def _model_written(model: ServedModel) -> dict[str, Any]:
    fields = {key: getattr(model, key) for key in ("name", "source", "threads", "dtype", "slots", "context")}
    return fields | {"levers": messages.levers_written(model.levers)}


def _tools_written(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    return None if tools is None else [dict(tool) for tool in tools]
