"""A defect planted on purpose: if the balance does not call it worse, the balance is not to be trusted.

A wrong chat template is the commonest silent fault in practice: everything runs, answers come, and they are bad because the
model reads turns in a form it was never trained on. Nothing about the weights changes, so a balance that only looked at
log-probabilities of raw text would rightly see nothing.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.core.protocols import Answerer, AnswerSettings, Conversation, Event, Message, Score
from steelyard.core.seeds import derive
from steelyard.generate.spec import EngineSpec
from steelyard.model.template import ChatTemplate

WRONG_TEMPLATE = (
    "{%- for message in messages | reverse -%}"
    "</s><|{{ 'user' if message['role'] == 'assistant' else 'assistant' }}|>[{{ message['content'] }}]"
    "{%- endfor -%}</s><|user|>["
)


class PlantedDefect(Lever):
    """A change known to be bad, to see whether the weighing notices."""

    name: ClassVar[str] = "planted_defect"
    idea: ClassVar[str] = (
        "Break the model on purpose in a way that really happens: give it turns in another family's tags with the roles exchanged, or "
        "shuffle the words of the question. The verdict must be `worse`; otherwise no verdict of that report deserves trust."
    )
    equation: ClassVar[str] = "prompt' = wrong(template)(conversation), or prompt' = template(shuffle(words))"
    paper: ClassVar[str] = "the idea of a positive control; template sensitivity: arXiv:2310.11324"
    cost: ClassVar[str] = "None; the answers are only worse, and may be longer."
    main: ClassVar[str] = "kind"
    identity: ClassVar[str] = "none: it exists to do harm"
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"

    kind: Literal["wrong_template", "scrambled_prompt"] = Field(
        "wrong_template",
        description="wrong_template: another family's tags, roles exchanged (needs an engine); scrambled_prompt: the words of every "
        "message in random order (works on endpoints too)",
    )

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """The spec with the wrong template in place of the model's."""
        if self.kind != "wrong_template":
            return spec
        return dataclasses.replace(spec, template=ChatTemplate(WRONG_TEMPLATE, {}))

    def wrap(self, answerer: Answerer) -> Answerer:
        """The answerer behind somebody who mixes up the words."""
        if self.kind != "scrambled_prompt":
            return answerer
        return ScrambledScores(answerer) if "score" in answerer.capabilities else Scrambled(answerer)


def scrambled(conversation: Conversation) -> list[Message]:
    """Every message with its words in an order drawn from the message itself."""
    out = []
    for message in conversation:
        words = message.content.split()
        random.Random(derive("scrambled", message.content)).shuffle(words)
        out.append(dataclasses.replace(message, content=" ".join(words)))
    return out


class Scrambled:
    """An answerer that reads the words in random order."""

    def __init__(self, inner: Answerer):
        self.inner = inner

    @property
    def fingerprint(self) -> str:
        return digest(["scrambled", self.inner.fingerprint])

    @property
    def capabilities(self) -> frozenset[str]:
        return self.inner.capabilities

    def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        return self.inner.answer(scrambled(conversation), settings)


class ScrambledScores(Scrambled):
    """The same for an answerer that knows probabilities."""

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        return await self.inner.score(scrambled(conversation), continuations)  # type: ignore[attr-defined]
