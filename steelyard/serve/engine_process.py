"""The engine as a process of its own, seen from the server.

Generation needs the interpreter's lock for every token, and native code may crash. So the models live in a child process with one
engine each (`engine_worker.py`), and this one only passes requests in and events out: a frame of JSON carries whatever all
answers under way have said since the last one. If the child dies, those who wait are told, and another is started by itself.

Everything here belongs to the event loop that called `start`.
"""

from __future__ import annotations

import base64
import contextlib
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.levers import Lever
from steelyard.core.protocols import AnswerSettings, Conversation, Event, Score, Token
from steelyard.serve import engine_messages as messages
from steelyard.serve.arrivals import each
from steelyard.serve.engine_keeper import Keeper
from steelyard.serve.served import EngineFault, EngineGone, ServedInfo, ServedLever, ServedModel

__all__ = ["EngineFault", "EngineGone", "EngineProcess", "ServedAnswerer", "ServedInfo", "ServedLever", "ServedModel"]

Tools = Sequence[Mapping[str, Any]] | None


class EngineProcess:
    """A child process with one engine for each model.

    Args:
        models: what is served, under names that differ.
        queue: most answers that wait for a slot of one model before more are refused.
        wait: seconds within which an answer must have begun; after that it is given up as one that came when too many did.
        say: receives lines for a person: what is downloaded, opened, or has died.
        documents: names of what clients' own `retrieve` levers may search; others are refused.
        spare: whether a second process (some 160 MB) waits with its libraries read, so that answers are given again sooner if the
            first one dies.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        *,
        queue: int,
        wait: float = 120.0,
        say: Callable[[str], None] = lambda line: None,
        documents: Sequence[str] = (),
        spare: bool = False,
    ):
        if not models:
            raise SteelyardError("nothing to serve", where="models", do="Name a model.")
        if twice := [name for name, count in Counter(model.name for model in models).items() if count > 1]:
            raise SteelyardError(f"two models are called `{twice[0]}`", where="models", do="Give each a name of its own.")
        for name, value, least in [("queue", queue, 0), *((f"slots of `{model.name}`", model.slots, 1) for model in models)]:
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise SteelyardError(f"{name} is {value!r:.40}", where="engine process", do=f"Use a whole number of at least {least}.")
        written = [_model_written(model) for model in models]
        opening = {"models": written, "queue": queue, "documents": list(documents)}
        messages.framed([opening])  # what cannot be told to a child is refused here
        self.keeper = Keeper(opening, queue, wait, say, spare)
        self._pieces: dict[str, dict[int, str]] = {}

    # Its life

    async def start(self) -> None:
        """Starts the child and returns when all models are open.

        Raises:
            SteelyardError: a model cannot be had, a lever cannot be pulled; or the child died on the way (`EngineGone`).
        """
        await self.keeper.start()

    async def close(self, drain: float) -> None:
        """Takes no more requests, waits at most `drain` seconds for those under way, tells the rest, and ends the child.

        Closing twice, or what never started, is fine.
        """
        await self.keeper.close(drain)

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.keeper.ready

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none that is ready."""
        return self.keeper.child.pid if self.keeper.child else None

    @property
    def models(self) -> Mapping[str, ServedInfo]:
        """What is served, by name, in the order given. Empty before `start`."""
        return self.keeper.infos

    def register(self, indexes: Mapping[str, str]) -> None:
        """Lets levers of requests search these indexes, files by name, from the next request on: all that may be, besides `documents`."""
        self.keeper.register(indexes)

    async def status(self) -> Mapping[str, Any]:
        """How it goes: `ready`, `restarts`, `pid`, `memory` (resident bytes of the child), and for each model under `models` its
        `slots`, `active`, `waiting`, `requests`, `tokens` (made), `prompt_tokens` (read or known), `prefix_tokens` (of these known
        from before). Counts begin anew with every child. While none is ready only the first three are there."""
        own = {"ready": self.ready, "restarts": self.keeper.restarts, "pid": self.pid}
        if not self.ready:
            return own
        try:
            return own | await self.keeper.ask("status", next(iter(self.models)))
        except EngineGone:
            return own | {"ready": False, "pid": None}

    # What it does

    def answerer(self, name: str) -> ServedAnswerer:
        """What answers under a name.

        Raises:
            SteelyardError: no such model; the nearest name is given.
            UnsupportedError: an encoder.
        """
        if self.keeper.info(name).kind != "chat":
            raise UnsupportedError(f"`{name}` turns texts into vectors and answers nothing", where="model", do="Use it for embeddings.")
        return ServedAnswerer(self, name)

    async def tokenize(self, name: str, text: str, special: bool = True) -> list[int]:
        """Token ids of a text; nothing is added. `special`: the strings of special tokens become their ids."""
        return await self.keeper.ask("tokenize", name, text, special)

    async def prompt_tokens(self, name: str, prompt: str | Sequence[int], alternatives: int) -> list[Token]:
        """The tokens of a prompt, each with its log-probability after those before it (NaN where nothing is before it).

        Raises:
            ContextLengthError: it is longer than the context.
            SteelyardError: an encoder; `EngineGone`, `BusyError`.
        """
        text = prompt if isinstance(prompt, str) else list(prompt)
        told = await self.keeper.ask("prompt_tokens", name, text, alternatives, slow=True)
        return [token for token in (messages.event_read("token", one) for one in told) if isinstance(token, Token)]

    async def infill(self, name: str, prefix: str, suffix: str) -> str:
        """What to let a model go on with so that it writes what belongs between two texts.

        Raises:
            UnsupportedError: it was not taught to (no capability `infill`).
        """
        return await self.keeper.ask("infill", name, prefix, suffix)

    async def detokenize(self, name: str, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return await self.keeper.ask("detokenize", name, list(ids))

    async def pieces(self, name: str, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself (a token within a character reads as U+FFFD). What was asked before is known here."""
        info = self.keeper.info(name)
        known = self._pieces.setdefault(info.fingerprint, {})
        new = sorted({id for id in ids if id not in known})
        found = dict(zip(new, await self.keeper.ask("pieces", name, new), strict=True)) if new else {}
        known.update((id, piece) for id, piece in found.items() if 0 <= id < info.vocabulary)
        return [known[id] if id in known else found[id] for id in ids]

    async def render(self, name: str, conversation: Conversation, tools: Tools = None) -> str:
        """A conversation as the text the model reads, up to where its answer begins; the levers that are on have no part in it."""
        return await self.keeper.ask("render", name, messages.conversation_written(conversation), messages.tools_written(tools))

    async def room(self, name: str, conversation: Conversation) -> int:
        """Tokens left for the answer once the model's own levers have read a conversation; negative where it is too long."""
        return await self.keeper.ask("room", name, messages.conversation_written(conversation))

    async def embed(self, name: str, texts: Sequence[str]) -> list[list[float]]:
        """A vector for each text, of unit length unless the model says otherwise.

        Raises:
            UnsupportedError: the model is no encoder.
            ContextLengthError: a text is too long; none is cut.
        """
        coded = await self.keeper.ask("embed", name, list(texts), slow=True)
        return [array("f", base64.b64decode(vector)).tolist() for vector in coded]


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

    def answer_batches(
        self, conversation: Conversation, settings: AnswerSettings, *, levers: Sequence[Lever] = (), tools: Tools = None
    ) -> AsyncIterator[Sequence[Event]]:
        """Events in order, those together that came since the last look; the last is `Done`. Closing the iterator before that ends the
        work on it at once.

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
        asked = messages.settings_written(settings), messages.levers_written(levers), messages.tools_written(tools)
        return self.engine.keeper.stream("answer", self.name, written, *asked)

    def complete_batches(
        self, prompt: str | Sequence[int], settings: AnswerSettings, *, levers: Sequence[Lever] = ()
    ) -> AsyncIterator[Sequence[Event]]:
        """The same for raw text or token ids, which no chat template and no `wrap` lever touches; only `decode` levers may come with it."""
        text = prompt if isinstance(prompt, str) else list(prompt)
        asked = messages.settings_written(settings), messages.levers_written(levers)
        return self.engine.keeper.stream("complete", self.name, text, *asked)

    async def answer(
        self, conversation: Conversation, settings: AnswerSettings, *, levers: Sequence[Lever] = (), tools: Tools = None
    ) -> AsyncIterator[Event]:
        """What `answer_batches` gives, one event after the other."""
        batches = self.answer_batches(conversation, settings, levers=levers, tools=tools)
        async with contextlib.aclosing(batches):  # type: ignore[type-var]
            async for event in each(batches):
                yield event

    async def complete(
        self, prompt: str | Sequence[int], settings: AnswerSettings, *, levers: Sequence[Lever] = ()
    ) -> AsyncIterator[Event]:
        """What `complete_batches` gives, one event after the other."""
        batches = self.complete_batches(prompt, settings, levers=levers)
        async with contextlib.aclosing(batches):  # type: ignore[type-var]
            async for event in each(batches):
                yield event

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        """Log-probability of each continuation as the assistant's next words, after the levers that are on.

        Raises:
            SteelyardError: an empty continuation, or more tokens than the context holds; `EngineGone`, `BusyError`.
        """
        written = messages.conversation_written(conversation)
        scores = await self.engine.keeper.ask("score", self.name, written, list(continuations), slow=True)
        return [Score(*score) for score in scores]


def _model_written(model: ServedModel) -> dict[str, Any]:
    fields = {key: getattr(model, key) for key in ("name", "source", "threads", "dtype", "slots", "context", "device")}
    return fields | {"calibrations": list(model.calibrations), "levers": messages.levers_written(model.levers)}
