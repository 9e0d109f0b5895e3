"""Repair: where an answer has a fault that can be named, name it and ask again, a few times at most.

    answer_0 = model(q);   answer_i = model(q, faults(answer_{i-1})) while faults and i <= times

Faults are those of form and of support (`faults.py`); none of them knows the right answer. What can be put right without asking is put right
first (`fix`). Of several faulty answers the one with the fewest faults is given, the earlier one first: asking again may well make an answer
worse. Where the faulty answer stands in the conversation (`show`, as in the paper), a small model copies it: the complaint then moved one of
100 forms of SmolLM2-135M. So it stands with the question, unless set otherwise.
Source: A. Madaan et al., Self-Refine, arXiv:2303.17651; that models find few of their own mistakes unless somebody names them:
J. Huang et al., arXiv:2310.01798.
Cost: each further try reads question and complaint, and writes a whole answer; `Usage` counts all of it. Nothing is shown before the
last try is whole.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import pydantic
from pydantic import Field

from steelyard.augment.answerers import room
from steelyard.augment.repair.faults import Fault, fixed_json, json_faults, regex_faults, support_faults
from steelyard.augment.wrapped import Wrapped
from steelyard.core.errors import ContextLengthError, UnsupportedError
from steelyard.core.levers import Lever
from steelyard.core.protocols import (
    Answerer,
    AnswerSettings,
    Conversation,
    Done,
    Event,
    Failure,
    Message,
    Score,
    ScoringAnswerer,
    Text,
    Token,
    Usage,
)
from steelyard.core.seeds import derive
from steelyard.data.checks.json_schema import unsupported
from steelyard.data.checks.patterns import pattern_problem

NAMED = 5  # faults told at once
LEAST_ROOM = 16  # tokens an answer needs at least


class Repair(Lever):
    """Asks again where an answer is faulty, with the fault named."""

    name: ClassVar[str] = "repair"
    idea: ClassVar[str] = (
        "Check each answer for faults that can be seen without knowing the right one (not the JSON that was wanted, names and numbers that "
        "stand nowhere in the passages), and ask again with the fault named. What can be put right without asking is put right."
    )
    equation: ClassVar[str] = "answer_i = model(q, faults(answer_{i-1})) while faults and i <= times"
    paper: ClassVar[str] = "arXiv:2303.17651"
    cost: ClassVar[str] = "Up to `times` further requests for a faulty answer, none for a sound one. Nothing is shown early."
    main: ClassVar[str] = "times"
    identity: ClassVar[dict] = {"times": 0, "fix": False}
    maturity: ClassVar = "experimental"
    evidence: ClassVar = "real model"
    per_request: ClassVar[bool] = True

    json_schema: dict[str, Any] | None = Field(
        None, description="the answer is to be JSON of this schema and nothing else; unset: as the request's own constraint says, if any"
    )
    regex: str | None = Field(None, min_length=1, description="pattern (Python's) that is to be found in the answer")
    supported: bool = Field(
        False, description="names and numbers of the answer are to stand in what the model reads; put `repair` before `retrieve`"
    )
    times: int = Field(2, ge=0, le=8, description="most further tries for one answer, count")
    fix: bool = Field(True, description="take JSON out of what stands around it, and '4' for 4, without asking, where that is all it takes")

    show: bool = Field(
        False, description="show the faulty answer with the complaint after it; else the complaint stands with the question alone"
    )

    @pydantic.model_validator(mode="after")
    def _can_be_checked(self) -> Self:
        if self.json_schema is not None and (problems := unsupported(self.json_schema)):
            raise ValueError("; ".join(problems[:NAMED]))
        if self.regex is not None and (problem := pattern_problem(self.regex)):
            raise ValueError(f"`regex`: {problem}")
        return self

    def wrap(self, answerer: Answerer) -> Answerer:
        """The answerer whose faulty answers are repaired.

        Raises:
            UnsupportedError: it searches documents for the last message, which would be the complaint.
        """
        if not self.times and not self.fix:
            return answerer
        here: Any = answerer
        while here is not None:
            if getattr(getattr(here, "lever", None), "name", "") == "retrieve":
                raise UnsupportedError(
                    "after `retrieve`, what is searched for would be the complaint about an answer",
                    where=self.name,
                    do="Put `repair` before `retrieve`: it then reads the passages, too.",
                )
            here = getattr(here, "inner", None)
        return (RepairedScores if "score" in answerer.capabilities else Repaired)(self, answerer)

    def schema(self, settings: AnswerSettings) -> Any:
        """The schema that an answer is held to, or None."""
        asked = settings.constraint
        if self.json_schema is None and asked is not None and asked.kind == "json_schema":
            schema = json.loads(asked.source)
            return None if unsupported(schema) else schema  # what the checker does not know, the decoder alone sees to
        return self.json_schema

    def faults(self, text: str, conversation: Conversation, settings: AnswerSettings) -> list[Fault]:
        """All that is wrong with an answer, as far as can be told.

        Raises:
            PatternTimeout: a pattern could not be decided in time.
        """
        schema, found = self.schema(settings), []
        if not text.strip():
            return [Fault("it is empty", grave=True)] if schema is not None or self.regex or self.supported else []
        if schema is not None:
            found += json_faults(text, schema)
        if self.regex is not None:
            found += regex_faults(text, self.regex)
        if self.supported:
            found += support_faults(text, conversation)
        return found

    def complaint(self, faults: Sequence[Fault], settings: AnswerSettings) -> str:
        """What the model is told about its answer."""
        named = "; ".join(fault.what for fault in faults[:NAMED])
        only = " Write only the JSON." if self.schema(settings) is not None else ""
        if self.show:
            those = "this fault" if len(faults) == 1 else "these faults"
            return f"That answer cannot be used: {named}. Write the whole answer again without {those}.{only}"
        return f"Mind this: an earlier answer could not be used, because {named}.{only}"

    def again(self, conversation: Conversation, text: str, complaint: str) -> list[Message]:
        """What is asked after a faulty answer."""
        turns = list(conversation)
        if self.show or not turns or turns[-1].role != "user":
            return [*turns, Message("assistant", text), Message("user", complaint)]
        return [*turns[:-1], dataclasses.replace(turns[-1], content=f"{turns[-1].content}\n\n{complaint}")]


@dataclass
class _Try:
    """One answer with what came along, and what is wrong with it."""

    text: str
    events: list[Event]
    usage: Usage | None
    done: Done
    faults: list[Fault]

    @property
    def badness(self) -> tuple[bool, int]:
        return any(fault.grave for fault in self.faults), len(self.faults)


class Repaired(Wrapped[Repair]):
    """An answerer that looks its answers over. Satisfies `core.protocols.Answerer`."""

    def room(self, conversation: Conversation) -> int | None:
        """Tokens left for the first answer."""
        return room(self.inner, conversation)

    async def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        """The events of the best try, with the usage of all of them.

        Raises:
            SteelyardError: what the inner answerer raises for the question itself, or a pattern that cannot be decided.
        """
        begun, tries = time.monotonic(), []
        asked: list[Message] = list(conversation)
        for number in range(self.lever.times + 1):
            mine = self._settings(settings, number, begun)
            if mine is None:
                break
            try:
                found = await self._tried(asked, conversation, mine)
            except ContextLengthError:
                if not tries:
                    raise
                break  # no room for the complaint: the best so far it is
            tries.append(found)
            if found.done.reason in ("error", "cancelled", "timeout") or not found.faults:
                break
            asked = self.lever.again(conversation, found.text, self.lever.complaint(found.faults, settings))
            left = room(self.inner, asked)
            if left is not None and left < LEAST_ROOM:
                break
        broken = tries[-1].done.reason in ("error", "cancelled")
        best = tries[-1] if broken else min(tries, key=lambda each: each.badness)
        for event in best.events:
            yield event
        if (usage := _together(tries)) is not None:
            yield usage
        yield best.done

    def _settings(self, settings: AnswerSettings, number: int, begun: float) -> AnswerSettings | None:
        """The settings of a try; None where no time is left for it."""
        if not number:
            return settings
        left = None if settings.seconds is None else settings.seconds - (time.monotonic() - begun)
        if left is not None and left <= 0:
            return None
        return dataclasses.replace(settings, seed=derive(settings.seed, "repair", number), seconds=left)

    async def _tried(self, asked: Conversation, conversation: Conversation, settings: AnswerSettings) -> _Try:
        """One answer, looked over and put right as far as nothing is to be asked for it."""
        events: list[Event] = []
        usage, done = None, Done("error")
        async with aclosing(self.inner.answer(asked, settings)) as heard:  # type: ignore[type-var]
            async for event in heard:
                match event:
                    case Usage():
                        usage = event
                    case Done():
                        done = event
                    case _:
                        events.append(event)
        text = "".join(event.text for event in events if isinstance(event, Text))
        if done.reason in ("error", "cancelled") or any(isinstance(event, Failure) for event in events):
            return _Try(text, events, usage, done, [])
        # A pattern may take its time, in which others are to be served.
        faults = await asyncio.to_thread(self.lever.faults, text, conversation, settings)
        schema = self.lever.schema(settings)
        if faults and self.lever.fix and schema is not None and (fixed := fixed_json(text, schema)) is not None:
            left = await asyncio.to_thread(self.lever.faults, fixed, conversation, settings)
            if len(left) < len(faults):
                kept = [event for event in events if not isinstance(event, Text | Token)]
                return _Try(fixed, [*kept, Text(fixed)], usage, Done("stop") if done.reason == "length" else done, left)
        return _Try(text, events, usage, done, faults)


class RepairedScores(Repaired):
    """The same for an answerer that knows probabilities, which stay what they are."""

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        """Scores of the inner answerer."""
        return await cast(ScoringAnswerer, self.inner).score(conversation, continuations)


def _together(tries: Sequence[_Try]) -> Usage | None:
    """The usage of all tries; None where none told any."""
    told = [each.usage for each in tries if each.usage is not None]
    if not told:
        return None
    return Usage(
        sum(usage.prompt_tokens for usage in told),
        sum(usage.completion_tokens for usage in told),
        sum(usage.calls for usage in told),
        sum(usage.verified for usage in told),
    )
