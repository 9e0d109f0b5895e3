"""Prompt: say what you want before the question, and show a few answers as they should be.

    conversation' = [system] + examples + conversation, with the question written into a template

Instructions, a template around the question, and fixed examples as earlier turns. Small changes of wording move results by more than
many techniques do (arXiv:2310.11324), so one prompt's gain says little: weigh several wordings as arms beside one another.
Source: in-context examples, Brown et al. 2020 (arXiv:2005.14165).
Cost: the tokens added are read with every question (a prefix cache reads them once).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Self, cast

import pydantic
from pydantic import Field

from steelyard.augment.answerers import room
from steelyard.augment.wrapped import Wrapped
from steelyard.core.errors import nearest
from steelyard.core.levers import Lever
from steelyard.core.protocols import Answerer, AnswerSettings, Conversation, Event, Message, Score, ScoringAnswerer

QUESTION = "{{question}}"
_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")


class Example(pydantic.BaseModel):
    """A question with the answer it should have had."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    user: str = Field(min_length=1, description="what somebody asks")
    assistant: str = Field(min_length=1, description="what is answered")


class Prompt(Lever):
    """Instructions, fixed examples and a template around the question."""

    name: ClassVar[str] = "prompt"
    idea: ClassVar[str] = (
        "Tell the model what is wanted before it reads the question, and show it a few questions with the answers they should have. "
        "Nothing is trained; the model continues what it reads."
    )
    equation: ClassVar[str] = "conversation' = [system] + examples + conversation[:-1] + [template(question)]"
    paper: ClassVar[str] = "arXiv:2005.14165; sensitivity to wording: arXiv:2310.11324"
    cost: ClassVar[str] = "The added tokens are read with every question."
    main: ClassVar[str] = "system"
    identity: ClassVar[dict] = {"system": ""}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"
    per_request: ClassVar[bool] = True

    system: str = Field("", description="instructions, given as the system prompt; empty = none")
    existing: Literal["first", "last", "replaced"] = Field(
        "first", description="where the conversation's own system prompt goes: before these instructions, after them, or away"
    )
    examples: tuple[Example, ...] = Field((), description="questions with answers, shown as earlier turns before the conversation")
    question: str = Field(QUESTION, description="template of the last user turn; {{question}} stands for what the user wrote")
    variables: Mapping[str, str] = Field(
        default_factory=dict, description="what {{name}} stands for in the system prompt, the examples and the question's template"
    )

    @pydantic.model_validator(mode="after")
    def _variables_are_known(self) -> Self:
        if "question" in self.variables:
            raise ValueError("`question` stands for what the user wrote; call the variable something else")
        used = {"question"}
        used |= _check("system", self.system, self.variables)
        for number, example in enumerate(self.examples, 1):
            used |= _check(f"examples.{number}", f"{example.user}\n{example.assistant}", self.variables)
        used |= _check("question", self.question, [*self.variables, "question"])
        if "question" not in {found[1] for found in _VARIABLE.finditer(self.question)}:
            raise ValueError(f"`question` must hold {QUESTION}, or the model would never read what was asked")
        if idle := sorted(set(self.variables) - used):
            raise ValueError(f"the variable `{idle[0]}` is used nowhere")
        return self

    @property
    def changes_nothing(self) -> bool:
        """Whether every conversation is passed on as it is."""
        return not self.system.strip() and not self.examples and self.question == QUESTION and self.existing != "replaced"

    def wrap(self, answerer: Answerer) -> Answerer:
        """The answerer behind these instructions."""
        if self.changes_nothing:
            return answerer
        return PromptedScores(self, answerer) if "score" in answerer.capabilities else Prompted(self, answerer)

    def rewritten(self, conversation: Conversation) -> list[Message]:
        """The conversation as the model will read it."""
        leading = next((place for place, message in enumerate(conversation) if message.role != "system"), len(conversation))
        own, turns = "\n\n".join(message.content for message in conversation[:leading]), list(conversation[leading:])
        system = _filled(self.system, self.variables).strip()
        parts = {"first": (own, system), "last": (system, own), "replaced": (system,)}[self.existing]
        opening = "\n\n".join(part for part in parts if part)
        shown: list[Message] = []
        for example in self.examples:
            shown.append(Message("user", _filled(example.user, self.variables)))
            shown.append(Message("assistant", _filled(example.assistant, self.variables)))
        for place in reversed(range(len(turns))):
            if turns[place].role == "user":
                asked = _filled(self.question, {**self.variables, "question": turns[place].content})
                turns[place] = replace(turns[place], content=asked)
                break
        return [*([Message("system", opening)] if opening else []), *shown, *turns]


def _filled(template: str, variables: Mapping[str, str]) -> str:
    """A template with its variables written in, in one pass: what a value holds is never read as a template."""
    return _VARIABLE.sub(lambda found: variables.get(found[1], found[0]), template)


def _check(field: str, template: str, known: Iterable[str]) -> set[str]:
    """The variables a template uses.

    Raises:
        ValueError: one of them is not known.
    """
    used = {found[1] for found in _VARIABLE.finditer(template)}
    if unknown := sorted(used - set(known)):
        raise ValueError(f"`{field}` uses {{{{{unknown[0]}}}}}, which no variable is called. {nearest(unknown[0], known)}")
    return used


class Prompted(Wrapped[Prompt]):
    """An answerer that reads every conversation as a `Prompt` rewrites it."""

    def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        """The inner answerer's events. Raises what it raises: added instructions may make a conversation too long for it."""
        return self.inner.answer(self.lever.rewritten(conversation), settings)

    def room(self, conversation: Conversation) -> int | None:
        """Tokens left for the answer, as `answerers.room` has it."""
        return room(self.inner, self.lever.rewritten(conversation))


class PromptedScores(Prompted):
    """The same for an answerer that knows probabilities."""

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        """Scores of the inner answerer after the rewritten conversation."""
        return await cast(ScoringAnswerer, self.inner).score(self.lever.rewritten(conversation), continuations)
