"""The two things that answer by themselves: a model in an engine on this machine, and a remote OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from steelyard.augment.endpoint import EndpointAnswerer
from steelyard.core.protocols import AnswerSettings, Conversation, Done, Event, Score

if TYPE_CHECKING:
    from steelyard.generate.engine import Engine

__all__ = ["EndpointAnswerer", "LocalAnswerer"]


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
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def on_event(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody listens any more
                loop.call_soon_threadsafe(events.put_nowait, event)

        request = self.engine.submit(list(conversation), settings, on_event)
        ended = False
        try:
            while not ended:
                event = await events.get()
                ended = isinstance(event, Done)
                yield event
        finally:
            if not ended:
                request.cancel()

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        """Log-probability of each continuation as the assistant's next words.

        Raises:
            SteelyardError: an empty continuation, or more tokens than the context holds.
        """
        prompt = self.engine.render(list(conversation), add_generation_prompt=True)
        return await asyncio.to_thread(self.engine.score, [(prompt, continuation) for continuation in continuations])
