"""An answerer that keeps what it was asked: the far end of a chain of wrappers, for tests of wrappers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from steelyard.core.errors import ContextLengthError
from steelyard.core.protocols import AnswerSettings, Conversation, Done, Message, Score, Text, Usage


class Recording:
    """Answers "yes" and counts a word as a token. `context`: words it can read; `tells`: whether it says how much room is left."""

    fingerprint = "recording"

    def __init__(self, context: int = 10_000, scores: bool = True, tells: bool = False, says: Callable[[str], str] = lambda asked: "yes"):
        self.context, self.says = context, says
        self.asked: list[list[Message]] = []
        self.closed = 0
        self.capabilities = frozenset({"score"} if scores else ())
        if tells:
            self.room = lambda conversation: self.context - self._words(conversation)

    @staticmethod
    def _words(conversation: Conversation) -> int:
        return sum(len(message.content.split()) for message in conversation)

    def _heard(self, conversation: Conversation) -> None:
        if self._words(conversation) > self.context:
            raise ContextLengthError("too long")
        self.asked.append(list(conversation))

    async def answer(self, conversation: Conversation, settings: AnswerSettings):
        self._heard(conversation)
        try:
            yield Text(self.says(conversation[-1].content if conversation else ""))
            yield Usage(self._words(conversation), 1)
            yield Done("stop")
        finally:
            self.closed += 1

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        self._heard(conversation)
        return [Score(-float(len(text)), False, 1, len(text.encode())) for text in continuations]
