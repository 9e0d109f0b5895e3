"""The two things that answer by themselves: a model in an engine on this machine, and a remote OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from steelyard.augment.endpoint import EndpointAnswerer
from steelyard.core.protocols import Answerer, AnswerSettings, Conversation, Done, Event, Message, Score, Text
from steelyard.model.template import ChatTemplate
from steelyard.model.tools.offering import forms_of, has_place, shown
from steelyard.model.tools.reading import calls_in

if TYPE_CHECKING:
    from steelyard.generate.engine import Engine

__all__ = ["EndpointAnswerer", "LocalAnswerer", "count", "room"]


class Crossing:
    """The way of events from an engine's thread to the event loop that made this, in order."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()

    def on_event(self, event: Event) -> None:
        """Takes an event; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def events(self, cancel: Callable[[], object]) -> AsyncGenerator[Event]:
        """What comes, up to `Done`; `cancel` is called where nobody waits so long."""
        ended = False
        try:
            while not ended:
                event = await self._queue.get()
                ended = isinstance(event, Done)
                yield event
        finally:
            if not ended:
                cancel()


class Calling:
    """Tools offered to a model for one answer: the prompt with them, and the calls in what it wrote, told before `Done`.

    The text stays as it was written, with the marks around the calls.
    """

    def __init__(self, engine: Engine, tools: Sequence[str]):
        self.engine, self.tools = engine, [json.loads(tool) for tool in tools]
        self.written: list[str] = []

    def prompt(self, conversation: Conversation) -> list[Message] | list[int]:
        """What the engine is to go on with."""
        if not self.tools:
            return list(conversation)
        if has_place(self._template):
            text = self.engine.render(list(conversation), add_generation_prompt=True, tools=self.tools)
        else:
            text = self.engine.render(shown(conversation, self.tools), add_generation_prompt=True)
        tokenizer = self.engine.model.tokenizer
        assert tokenizer is not None  # no engine starts without one
        return tokenizer.encode(text)

    def told(self, event: Event) -> Iterator[Event]:
        """An event of the engine, and what is known after it."""
        if not self.tools:
            yield event
            return
        if isinstance(event, Text):
            self.written.append(event.text)
        if not isinstance(event, Done):
            yield event
            return
        names = {tool["function"]["name"]: tool["function"].get("parameters") for tool in self.tools}
        calls = calls_in("".join(self.written), names, forms_of(self._template), cut=event.reason != "stop")
        yield from calls
        yield Done("tool_calls") if calls and event.reason == "stop" else event

    @property
    def _template(self) -> ChatTemplate | None:
        return self.engine.spec.template or self.engine.model.template


class LocalAnswerer:
    """A model in an engine on this machine. Satisfies `core.protocols.ScoringAnswerer`.

    The engine calls back on its own thread; events cross to the event loop that asked, in order. Leaving the generator early
    (`aclose`, a cancelled task, a `break` followed by `aclose`) cancels the request, so that its slot is free for others at once.
    """

    def __init__(self, engine: Engine):
        self.engine = engine

    @property
    def fingerprint(self) -> str:
        return self.engine.fingerprint

    @property
    def capabilities(self) -> frozenset[str]:
        return self.engine.capabilities

    async def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        """Yields the engine's events; the last is `Done`.

        Raises:
            SteelyardError: what is wrong with the conversation or the settings, before the first event. A failure after that
                comes as `Failure` and `Done("error")`.
        """
        plain, calling = replace(settings, tools=()), Calling(self.engine, settings.tools)
        if settings.constraint is not None:  # compiling it may take seconds, in which others are to be served
            await asyncio.to_thread(self.engine.check, plain)
        crossing = Crossing()
        request = self.engine.submit(calling.prompt(conversation), plain, crossing.on_event)
        async with contextlib.aclosing(crossing.events(request.cancel)) as events:
            async for event in events:
                for each in calling.told(event):
                    yield each

    def room(self, conversation: Conversation) -> int:
        """Tokens the context has left for the answer; negative where the conversation alone is too long."""
        return self.engine.context - self.count(self.engine.render(list(conversation), add_generation_prompt=True))

    def count(self, text: str) -> int:
        """Tokens that the model reads a text as."""
        tokenizer = self.engine.model.tokenizer
        assert tokenizer is not None  # no engine starts without one
        return len(tokenizer.encode(text))

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        """Log-probability of each continuation as the assistant's next words.

        Raises:
            SteelyardError: an empty continuation, or more tokens than the context holds.
        """
        prompt = self.engine.render(list(conversation), add_generation_prompt=True)
        return await asyncio.to_thread(self.engine.score, [(prompt, continuation) for continuation in continuations])


def room(answerer: Answerer, conversation: Conversation) -> int | None:
    """Tokens that an answerer's context has left after a conversation; None where it cannot tell (an endpoint).

    Wrappers that lengthen conversations have a `room` of their own, which asks what they wrap.
    """
    measure = getattr(answerer, "room", None)
    return None if measure is None else measure(conversation)


def count(answerer: Answerer, text: str) -> int | None:
    """Tokens that the model behind an answerer, under any wrappers, reads a text as; None where it cannot be told."""
    here: Any = answerer
    while not hasattr(here, "count") and hasattr(here, "inner"):
        here = here.inner
    return here.count(text) if hasattr(here, "count") else None
