"""What a measure of confidence is, and how one asks the answerer more.

A measure looks at an answer, asks further questions where it must, and gives a number in [0, 1], higher where the answer is surer. The
number orders answers; a chance of being right it becomes only by calibration (`calibrators.py`).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import Answer, Answerer, AnswerSettings, Conversation, Message, Usage, collect
from steelyard.core.seeds import derive


@dataclass
class Asked:
    """An answer with what it answers, and the answerer to ask further. `further` gathers what that costs."""

    answerer: Answerer
    conversation: Conversation
    settings: AnswerSettings
    answer: Answer
    further: list[Usage] = field(default_factory=list)

    async def again(self, turns: Sequence[Message], settings: AnswerSettings) -> str:
        """What the answerer says to another conversation.

        Raises:
            SteelyardError: it failed.
        """
        answer = await collect(self.answerer.answer(turns, settings))
        if answer.usage is not None:
            self.further.append(answer.usage)
        if answer.failure is not None or answer.reason in ("error", "cancelled"):
            raise SteelyardError(answer.failure or "a further answer broke off", where="confidence")
        return answer.text

    async def samples(self, count: int, temperature: float) -> list[str]:
        """The same question answered `count` times more, drawn at a temperature under seeds of their own."""
        plain = dataclasses.replace(self.settings, temperature=temperature, token_events=False, alternatives=0)
        each = [dataclasses.replace(plain, seed=derive(self.settings.seed, "confidence", number)) for number in range(count)]
        return list(await asyncio.gather(*(self.again(self.conversation, settings) for settings in each)))

    def with_answer(self, question: str) -> list[Message]:
        """The conversation, the answer, and a question about it."""
        return [*self.conversation, Message("assistant", self.answer.text), Message("user", question)]

    def brief(self, max_tokens: int) -> AnswerSettings:
        """Settings for a question about the answer: greedy and short, for the same tenant and within the same time."""
        return AnswerSettings(max_tokens=max_tokens, seconds=self.settings.seconds, tenant=self.settings.tenant)


class Measure(Protocol):
    """A way to measure confidence.

    Attributes:
        needs: capabilities that the answerer must have.
        tokens: whether it reads the answer's tokens, and nothing but them.
        alternatives: likeliest alternatives of each token that it reads.
    """

    needs: ClassVar[frozenset[str]]
    tokens: ClassVar[bool]
    alternatives: ClassVar[int]

    async def value(self, asked: Asked) -> float | None:
        """Confidence in [0, 1], or None where this answer gives none."""
        ...


def told_by(answerer: Answerer) -> frozenset[str]:
    """What a measure may count on. An engine tells each token's entropy with its log-probability. An endpoint may tell log-probabilities,
    which is known only once it answers: an answer without them then has no number."""
    told = answerer.capabilities
    told |= frozenset({"entropies"} if "logprobs" in told else ())
    return told | frozenset({"logprobs"} if "remote" in told else ())


def bounded(value: float) -> float:
    """A number kept within [0, 1] against rounding."""
    return min(1.0, max(0.0, value))
