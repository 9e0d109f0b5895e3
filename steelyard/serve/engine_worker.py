"""The engine's process: `python -m steelyard.serve.engine_worker`, started by `engine_child.py` and by nobody else.

Standard input brings frames of requests; its end is the end of the parent, and this process follows. Standard output carries frames
of what comes of them, and nothing else: whatever libraries print goes to standard error. A loop takes requests in and starts a task
for each; the engines' threads drop events into the outbox, and a thread of its own writes out whatever has gathered.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import faulthandler
import json
import logging
import os
import re
import signal
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import numpy as np

from steelyard.core.errors import ContextLengthError, DataError, SteelyardError, UnsupportedError
from steelyard.core.meters import memory
from steelyard.core.meters.shared_energy import SharedEnergy
from steelyard.core.protocols import Done, Event, Failure
from steelyard.core.threads import apart
from steelyard.generate.engine import Engine
from steelyard.generate.prompt_tokens import PromptTokens
from steelyard.generate.sequences import said
from steelyard.serve import engine_messages as messages
from steelyard.serve.engine_calibration import named_once
from steelyard.serve.engine_documents import Registered
from steelyard.serve.engine_hosted import Asked, Hosted, ServedLocal, Submission, wrapped
from steelyard.serve.engine_metering import Metered
from steelyard.serve.engine_opening import find_model, open_model, read_documents
from steelyard.serve.infilling import infilling
from steelyard.serve.resting import Resting

logger = logging.getLogger(__name__)

READERS = 4
"""Threads that render, read and compile for requests."""
WAITERS = 64
"""Threads for work that mostly waits: searches in documents, scores."""
TEXTS = 32
"""Texts that an encoder reads before it looks whether anybody still waits."""
GRACE = 4.0
"""Seconds after the parent's end in which everything is closed in order."""
SURROGATE = re.compile("[\ud800-\udfff]")
"""What no UTF-8 text can hold."""
BROKEN = 70
"""Exit status of a process that cannot go on; its parent starts another."""


class Outbox:
    """What is to be told, written by a thread of its own: one frame for all that has gathered while the last one was written."""

    def __init__(self, out: IO[bytes]):
        self._out = out
        self._items: collections.deque[tuple[int, Event] | list[Any]] = collections.deque()
        self._some = threading.Event()
        self._last = False
        self._writer = threading.Thread(target=self._write, name="steelyard-outbox", daemon=True)
        self._writer.start()

    def put(self, item: tuple[int, Event] | list[Any]) -> None:
        """Adds a message, or a request's event. From any thread, in a microsecond."""
        self._items.append(item)
        if not self._some.is_set():
            self._some.set()

    def close(self) -> None:
        """Returns when everything is written, or nobody takes it any more."""
        self._last = True
        self._some.set()
        self._writer.join()

    def _write(self) -> None:
        try:
            while not self._last or self._items:
                self._some.wait()
                self._some.clear()
                gathered: list[list[Any]] = []
                while self._items:
                    item = self._items.popleft()
                    gathered.append(item if isinstance(item, list) else [item[0], *messages.event_written(item[1])])
                if gathered:
                    self._out.write(messages.framed(gathered))
                    self._out.flush()
        except BrokenPipeError:  # nobody listens any more; the end of standard input says so too
            return
        except BaseException:
            traceback.print_exc()
            os._exit(BROKEN)  # a process that cannot tell anything must not be waited for


class Worker:
    """Hosts models and serves requests until `over` is set."""

    def __init__(self, outbox: Outbox):
        self.outbox = outbox
        self.hosted: dict[str, Hosted] = {}
        self.registered = Registered()
        self.over = asyncio.Event()
        self._energy = SharedEnergy()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._readers = ThreadPoolExecutor(READERS, "steelyard-reader")
        self._resting = Resting(lambda: not self._tasks, self._readers)
        self._encoder = ThreadPoolExecutor(1, "steelyard-encoder")
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WAITERS, "steelyard-waiter"))
        self._verbs: Mapping[str, Callable[..., Awaitable[Any]]] = {
            "answer": self._answer,
            "complete": self._complete,
            "score": self._score,
            "prompt_tokens": self._prompt_tokens,
            "infill": self._infill,
            "tokenize": self._tokenize,
            "detokenize": self._detokenize,
            "pieces": self._pieces,
            "render": self._render,
            "room": self._room,
            "embed": self._embed,
            "status": self._status,
        }

    def hear(self, heard: Sequence[list[Any]]) -> None:
        """Begins what is asked for, ends what is cancelled. On the loop's thread."""
        for number, verb, *arguments in heard:
            if verb == "cancel":
                if (task := self._tasks.get(number)) is not None:
                    task.cancel()
                continue
            if verb == "register":
                self.registered.set(*arguments)
                continue
            work = self._open(*arguments) if verb == "open" else self._serve(number, verb, arguments)
            task = self._tasks[number] = asyncio.get_running_loop().create_task(work)
            task.add_done_callback(lambda _, number=number: self._ended(number))

    def _ended(self, number: int) -> None:
        self._tasks.pop(number, None)
        self._resting.after_work()

    async def _open(self, opening: Mapping[str, Any]) -> None:
        """Opens all models, and says that they are ready or what is wrong."""

        def say(line: str) -> None:
            self.outbox.put([0, "say", line])

        def all_of_them() -> None:
            for asked in opening["models"]:
                find_model(asked, say)
            read_documents(opening["documents"], say)
            self.registered.set(opening.get("registered") or {})
            known, several = opening.get("offers") or {}, len(opening["models"]) > 1
            for asked in opening["models"]:
                hosted = open_model(asked, opening["queue"], opening["documents"], known.get(asked["name"]), several, say)
                hosted.registered, hosted.peers = self.registered, self.hosted
                self.hosted[asked["name"]] = hosted
            for name in {name for asked in opening["models"] for name in asked.get("calibrations", ())}:
                named_once(name, [hosted.calibrated for hosted in self.hosted.values()])
            offers = {name: [lever.name for lever in hosted.info.levers if lever.per_request] for name, hosted in self.hosted.items()}
            self.outbox.put([0, "offers", offers])

        try:
            await asyncio.to_thread(all_of_them)
        except Exception as error:  # whatever it was, the parent must not wait for ever
            if not isinstance(error, SteelyardError):
                logger.exception("a model could not be opened")
            self.outbox.put([0, "refused", *messages.error_written(error)])
            self.over.set()
            return
        self._energy = SharedEnergy()  # what opening took was no idling
        self.outbox.put([0, "ready", [messages.info_written(hosted.info) for hosted in self.hosted.values()]])

    async def _serve(self, number: int, verb: str, arguments: list[Any]) -> None:
        """One request. Whatever goes wrong with it is told to whoever asked, and to nobody else."""
        name, *rest = arguments
        try:
            hosted = self.hosted[name]
            if verb in ("answer", "complete"):
                await self._verbs[verb](number, hosted, *rest)
            else:
                self.outbox.put([number, "result", await self._verbs[verb](hosted, *rest)])
        except Exception as error:
            if not isinstance(error, SteelyardError):
                logger.exception("a request failed")
            self.outbox.put([number, "error", *messages.error_written(error)])
        if any(hosted.engine is not None and hosted.engine.closed for hosted in self.hosted.values()) and not self.over.is_set():
            logger.error("an engine's thread has ended; a new process is needed")
            self.outbox.put([0, "broken"])

    async def close(self) -> None:
        """Ends all requests and engines."""
        for task in list(self._tasks.values()):
            task.cancel()
        for hosted in self.hosted.values():
            await asyncio.to_thread(hosted.close)

    # Answers

    async def _reading(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._readers, function)

    async def _enter(self, submission: Submission) -> None:
        await self._reading(submission.enter)

    async def _answer(self, number: int, hosted: Hosted, written: Any, settings: Any, entries: Any, tools: Any) -> None:
        conversation = messages.conversation_read(written)
        asked: Asked = await self._reading(lambda: hosted.asked(entries, messages.settings_read(settings)))
        # What a request's own levers make of the model has not been calibrated.
        levers = hosted.calibrated.among(hosted.wraps) if hosted.calibrated and asked.plain else [*hosted.wraps, *asked.wraps]
        async with self._engine_for(hosted, asked) as engine:
            if levers:
                await self._answer_within(levers, number, hosted, conversation, asked, engine, tools)
            else:
                await self._submit(number, hosted, lambda: hosted.render(conversation, tools), asked, engine)

    @contextlib.asynccontextmanager
    async def _engine_for(self, hosted: Hosted, asked: Asked) -> AsyncIterator[Engine]:
        """The engine that a request wants: the model's own, or one beside, which stays as long as the request does."""
        if asked.spec is None:
            yield hosted.generating
            return
        one = hosted.beside.take(asked.levers, asked.spec)
        try:
            yield await self._reading(one.engine)
        finally:
            hosted.beside.give_back(one)

    async def _answer_within(
        self, levers: Sequence[Any], number: int, hosted: Hosted, conversation: Any, asked: Asked, engine: Engine, tools: Any
    ) -> None:
        """An answer by an engine within wrap levers, the first innermost."""
        metered = Metered(self._energy, lambda event: self.outbox.put((number, event)))
        local = ServedLocal(hosted, tools, lambda submission: self._enter(metered.watch(submission)), asked.processors, engine)
        events = wrapped(local, levers).answer(conversation, asked.settings)
        begun = False
        try:
            async for event in events:
                metered.put(event)
                begun = True
        except Exception as error:
            if not begun:
                raise
            if not isinstance(error, SteelyardError):
                logger.exception("an answer failed")
            metered.put(Failure(said(error)))
            metered.put(Done("error"))
        finally:
            metered.close()
            if (close := getattr(events, "aclose", None)) is not None:
                await close()

    async def _complete(self, number: int, hosted: Hosted, prompt: Any, settings: Any, entries: Any) -> None:
        _check_prompt(prompt)
        asked: Asked = await self._reading(lambda: hosted.asked(entries, messages.settings_read(settings)))
        if asked.wraps:
            raise UnsupportedError(
                f"`{asked.wraps[0].name}` acts on conversations, and this is raw text", where="levers", do="Leave it out."
            )
        async with self._engine_for(hosted, asked) as engine:
            await self._submit(number, hosted, lambda: prompt, asked, engine)

    async def _submit(self, number: int, hosted: Hosted, prompt: Callable[[], Any], asked: Asked, engine: Engine) -> None:
        """An answer straight from an engine: its events go out from the engine's own thread."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        metered = Metered(self._energy, lambda event: self.outbox.put((number, event)))

        def on_event(event: Event) -> None:
            metered.put(event)
            if isinstance(event, Done):
                loop.call_soon_threadsafe(ended.set)

        submission = metered.watch(Submission(hosted, engine, prompt, asked.settings, on_event, asked.processors))
        try:
            await self._enter(submission)
            await ended.wait()
        finally:
            metered.close()
            if not ended.is_set():
                submission.cancel()

    async def _score(self, hosted: Hosted, written: Any, continuations: list[str]) -> list[Any]:
        _check_texts(continuations, "continuations")
        conversation = messages.conversation_read(written)
        answerer: Any = wrapped(ServedLocal(hosted, None, self._enter), hosted.wraps)
        if not hasattr(answerer, "score"):
            raise UnsupportedError(f"`{hosted.info.name}` with its levers gives no probabilities of answers", where="model")
        scores = []
        for start in range(0, len(continuations), hosted.info.slots):  # no more at once than there are slots: others wait too
            scores += await answerer.score(conversation, continuations[start : start + hosted.info.slots])
        return [[score.logprob, score.greedy, score.tokens, score.bytes] for score in scores]

    async def _prompt_tokens(self, hosted: Hosted, prompt: Any, alternatives: int) -> list[Any]:
        """The tokens of a prompt as events, without one that the engine put before the text."""
        _check_prompt(prompt)
        reading: list[PromptTokens] = []
        over = False

        def begun(one: PromptTokens) -> None:
            reading.append(one)
            if over:  # cancelled while it was on its way
                one.cancel()

        try:
            tokens = await asyncio.to_thread(hosted.generating.prompt_tokens, prompt, alternatives, begun)
        except asyncio.CancelledError:
            over = True
            for one in reading:
                one.cancel()
            raise
        own = isinstance(prompt, str) and len(tokens) == len(_tokenizer(hosted).encode(prompt)) + 1
        return [messages.event_written(token)[1:] for token in tokens[1 if own else 0 :]]

    async def _infill(self, hosted: Hosted, prefix: str, suffix: str) -> str:
        _check_texts([prefix, suffix], "suffix")
        if (form := infilling(hosted.model)) is None:
            raise UnsupportedError(f"`{hosted.info.name}` was not taught to write what belongs between two texts", where="suffix")
        return form.ask(prefix, suffix)

    # Texts, tokens, vectors

    async def _tokenize(self, hosted: Hosted, text: str, special: bool) -> list[int]:
        _check_texts([text], "text")
        return await self._reading(lambda: _tokenizer(hosted).encode(text, bool(special)))

    async def _detokenize(self, hosted: Hosted, ids: list[int]) -> str:
        return await self._reading(lambda: _tokenizer(hosted).decode(_checked(ids)))

    async def _pieces(self, hosted: Hosted, ids: list[int]) -> list[str]:
        tokenizer = _tokenizer(hosted)
        return await self._reading(lambda: [tokenizer.decode([id]) for id in _checked(ids)])

    async def _render(self, hosted: Hosted, written: Any, tools: Any) -> str:
        conversation = messages.conversation_read(written)
        return await self._reading(lambda: hosted.render(conversation, tools))

    async def _room(self, hosted: Hosted, written: Any) -> int:
        conversation = messages.conversation_read(written)
        answerer: Any = wrapped(ServedLocal(hosted, None, self._enter), hosted.wraps)
        return await self._reading(lambda: answerer.room(conversation))

    async def _embed(self, hosted: Hosted, texts: list[str]) -> list[str]:
        """Vectors as base64 of float32, little-endian. Between a few texts and the next it can be cancelled."""
        _check_texts(texts, "texts")
        if hosted.info.kind != "embedding":
            raise UnsupportedError(f"`{hosted.info.name}` is no encoder", where="model", do="Use one such as all-minilm-l6-v2.")
        loop, vectors = asyncio.get_running_loop(), []
        for start in range(0, len(texts), TEXTS):
            some = texts[start : start + TEXTS]
            try:
                vectors.extend(await loop.run_in_executor(self._encoder, lambda some=some: apart(lambda: hosted.model.embed(some)).numpy()))
            except ContextLengthError as error:
                raise error.at(f"texts {start + 1} to {start + len(some)}") from None
        hosted.counts.requests += 1
        return [base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii") for vector in vectors]

    async def _status(self, _: Hosted) -> dict[str, Any]:
        models = {}
        for name, hosted in self.hosted.items():
            schedulers = [engine.scheduler for engine in hosted.engines]
            models[name] = {
                "slots": hosted.info.slots,
                "active": sum(len(scheduler.running) for scheduler in schedulers),
                "waiting": sum(len(scheduler.waiting) for scheduler in schedulers),
                **vars(hosted.counts),
            }
        return {"models": models, "memory": memory.resident(), "under_way": len(self._tasks) - 1}


def _tokenizer(hosted: Hosted) -> Any:
    assert hosted.model.tokenizer is not None  # nothing is served without one
    return hosted.model.tokenizer


def _check_texts(texts: Any, where: str) -> None:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise SteelyardError(f"{texts!r:.80} holds something that is no text", where=where, do="Give strings.")
    if broken := [number for number, text in enumerate(texts, 1) if SURROGATE.search(text)]:
        raise DataError(f"text {broken[0]} holds half of a surrogate pair", where=where, do="Read it with its right encoding.")


def _check_prompt(prompt: Any) -> None:
    if not isinstance(prompt, str) and not all(isinstance(id, int) for id in prompt):
        raise SteelyardError("it is neither a text nor token ids", where="prompt", do="Give one of the two.")


def _checked(ids: Any) -> list[int]:
    if not all(isinstance(id, int) and not isinstance(id, bool) and 0 <= id < 2**32 for id in ids):
        raise SteelyardError(f"{ids!r:.80} are no token ids", where="ids", do="Token ids are whole numbers from 0 on.")
    return ids


def _listen(source: IO[bytes], heard: Callable[[list[list[Any]]], None], over: Callable[[], None]) -> None:
    """Takes in frames until the parent has ended or let go."""
    try:
        while len(header := source.read(messages.HEADER)) == messages.HEADER:
            length = int.from_bytes(header, "big")
            if len(body := source.read(length)) < length:
                break
            heard(json.loads(body))
    except BaseException:
        traceback.print_exc()
        os._exit(BROKEN)  # a deaf process must not be waited for
    end_soon()
    over()


def end_soon() -> None:
    """What is not closed in time is left as it is: nothing may keep this process from ending."""
    timer = threading.Timer(GRACE, os._exit, (0,))
    timer.daemon = True
    timer.start()


async def serve(source: IO[bytes], out: IO[bytes]) -> None:
    """Hosts models until the parent lets go."""
    loop = asyncio.get_running_loop()
    outbox = Outbox(out)
    worker = Worker(outbox)
    listening = (
        source,
        lambda heard: loop.call_soon_threadsafe(worker.hear, heard),
        lambda: loop.call_soon_threadsafe(worker.over.set),
    )
    threading.Thread(target=_listen, args=listening, name="steelyard-inbox", daemon=True).start()
    await worker.over.wait()
    end_soon()
    await worker.close()
    await asyncio.to_thread(outbox.close)


def main() -> None:
    """Signals meant for the parent (Ctrl-C, a service that stops) are left to it: it says when this process is to end."""
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    source, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asyncio.run(serve(source, out))


if __name__ == "__main__":
    main()
