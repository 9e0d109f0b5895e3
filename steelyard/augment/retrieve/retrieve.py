"""Retrieve: look the question up in documents first, and give the model the passages that fit.

    answer = model(instruction + passages(question) + question),   passages = {p in BM25(question): relevance(p) >= threshold}

The passages stand right before the question, as quoted data. Where nothing fits, the question is left as it was (a wrong passage
misleads more than none helps) or, if so set, answered with "not in the documents".
Source: retrieval-augmented generation, Lewis et al. 2020 (arXiv:2005.11401); the order of passages: arXiv:2307.03172.
Cost: a search (about 10 ms for ten thousand articles) and the passages' tokens with every question.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

from pydantic import Field

from steelyard.augment.answerers import count, room
from steelyard.augment.wrapped import Wrapped
from steelyard.core.errors import ContextLengthError
from steelyard.core.levers import Lever
from steelyard.core.protocols import (
    Answerer,
    AnswerSettings,
    Citation,
    Considered,
    Conversation,
    Done,
    Event,
    Index,
    Lookup,
    Message,
    Passage,
    Score,
    ScoringAnswerer,
    Text,
    Usage,
)  # fmt: skip
from steelyard.core.references import IndexRef

NOT_FOUND = "I do not know: the documents do not say."
SHOWN = 4
"""Passages beyond those given that people are shown with the reasons."""
PASSAGES = "{passages}\n\n{question}"


class Retrieve(Lever):
    """Passages from documents, put before the question and cited."""

    name: ClassVar[str] = "retrieve"
    idea: ClassVar[str] = (
        "Search documents for the question and let the model read the best passages before it answers, so that it can say what it never "
        "learned. Passages that do not fit the question are kept from it."
    )
    equation: ClassVar[str] = "answer = model(passages(q) + q); passages(q) = {p in BM25(q): relevance(p, q) >= threshold}"
    paper: ClassVar[str] = "arXiv:2005.11401"
    cost: ClassVar[str] = (
        "A search and the passages' tokens with every question; the index is built once (seconds for ten thousand articles)."
    )
    main: ClassVar[str] = "documents"
    identity: ClassVar[dict] = {"passages": 0}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"
    per_request: ClassVar[bool] = True

    documents: IndexRef = Field(
        default_factory=lambda: IndexRef("encyclopedia"),
        description="what is searched: `encyclopedia`, a folder, a document, or an index file",
    )
    passages: int = Field(2, ge=0, le=64, description="most passages given with a question, count; 0 turns it off")
    threshold: float = Field(
        0.6, ge=0, le=1, description="least share of the question that a passage must speak of to be given, names foremost"
    )
    abstain: bool = Field(False, description="answer that the documents do not say where no passage reaches the threshold")

    def wrap(self, answerer: Answerer) -> Answerer:
        """The answerer with the documents at hand."""
        if not self.passages:
            return answerer
        return RetrievedScores(self, answerer) if "score" in answerer.capabilities else Retrieved(self, answerer)

    @property
    def index(self) -> Index:
        """The documents' index, once a run has resolved it."""
        return self.documents.value

    def found(self, conversation: Conversation) -> list[Passage]:
        """The passages that fit a conversation's last question, best first."""
        return self.looked_up(conversation)[0]

    def looked_up(self, conversation: Conversation) -> tuple[list[Passage], tuple[Considered, ...] | None]:
        """The same, and what else was weighed; None where nothing was searched for, or the index cannot tell why."""
        query = question_of(conversation)
        if not query:
            return [], None
        if (considered := getattr(self.index, "considered", None)) is None:
            best, weighed = self.index.search(query, self.passages), None
        else:
            weighed = tuple(considered(query, self.passages + SHOWN))
            best = [one.passage for one in weighed[: self.passages]]
        return [passage for passage in best if passage.score >= self.threshold], weighed

    def rewritten(self, conversation: Conversation, passages: Sequence[Passage]) -> list[Message]:
        """The conversation with passages before its last question."""
        turns = list(conversation)
        place = _last_question(turns)
        if not passages or place is None:
            return turns
        shown = "\n\n".join(inert(_headed(passage)) for passage in reversed(passages))
        turns[place] = replace(turns[place], content=PASSAGES.format(passages=shown, question=turns[place].content))
        return turns


def _last_question(conversation: Conversation) -> int | None:
    places = [place for place, message in enumerate(conversation) if message.role == "user"]
    return places[-1] if places else None


def question_of(conversation: Conversation) -> str:
    """What is searched for: the last user turn."""
    place = _last_question(conversation)
    return "" if place is None else conversation[place].content


def _headed(passage: Passage) -> str:
    """A passage under its title, where it does not say itself what it is about ("It lies on the Vltava")."""
    return passage.text if passage.title.split(" (")[0] in passage.text else f"{passage.title}: {passage.text}"


_MARKUP = re.compile(r"<(?=[^\s<>]{1,60}>)|\[(?=/?[A-Z_]{2,24}\])")


def inert(text: str) -> str:
    """A document's text in which nothing can pass for a chat template's tag: `<|im_end|>` becomes `< |im_end|>`."""
    return _MARKUP.sub(lambda found: found[0] + " ", text)


@dataclass(frozen=True)
class _Reading:
    """A conversation ready to be answered, and the passages in it."""

    conversation: list[Message]
    passages: tuple[Passage, ...]


class Retrieved(Wrapped[Retrieve]):
    """An answerer that looks every question up first. Its first events are citations of what it was given to read."""

    @property
    def capabilities(self) -> frozenset[str]:
        return self.inner.capabilities | {"citations"}

    async def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        """Citations and how they were found, then the inner answerer's events.

        Raises:
            DataError: the index is damaged.
            SteelyardError: what the inner answerer raises before its first event.
        """
        passages, weighed = await asyncio.to_thread(self.lever.looked_up, conversation)
        if not passages and self.lever.abstain:
            for event in (*self._lookup(conversation, weighed, ()), Text(NOT_FOUND), Usage(0, 0, calls=0), Done("stop")):
                yield event
            return
        readings = self._readings(conversation, passages, settings.max_tokens)
        while True:
            reading = readings.pop(0)
            events = self.inner.answer(reading.conversation, settings)
            try:
                try:
                    first = await anext(events)
                except ContextLengthError:
                    if not readings:
                        raise
                    continue
                for passage in reading.passages:
                    yield Citation(passage.source, passage.title, passage.text, passage.score)
                for event in self._lookup(conversation, weighed, reading.passages):
                    yield event
                yield first
                async for event in events:
                    yield event
                return
            finally:
                if (close := getattr(events, "aclose", None)) is not None:
                    await close()

    def _lookup(self, conversation: Conversation, weighed: tuple[Considered, ...] | None, given: Sequence[Passage]) -> list[Lookup]:
        """How the search went, where the index can tell; one that found nothing says so."""
        lever, read = self.lever, tuple(passage.id for passage in given)
        return [] if weighed is None else [Lookup(question_of(conversation), lever.documents.name, lever.threshold, weighed, read)]

    def _readings(self, conversation: Conversation, passages: Sequence[Passage], answer: int) -> list[_Reading]:
        """The conversation with all passages, then with fewer and fewer of the best; those known not to fit are left out.

        The last one, without passages, always stays: whether it is too long is for the inner answerer to say.
        """
        readings = [
            _Reading(self.lever.rewritten(conversation, passages[:most]), tuple(passages[:most])) for most in range(len(passages), -1, -1)
        ]
        left = [room(self.inner, reading.conversation) for reading in readings[:-1]]
        return [reading for reading, tokens in zip(readings, left, strict=False) if tokens is None or tokens >= answer] + readings[-1:]

    def room(self, conversation: Conversation) -> int | None:
        """Tokens left for the answer without any passage: passages give way."""
        return room(self.inner, conversation)


class RetrievedScores(Retrieved):
    """The same for an answerer that knows probabilities."""

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        """Scores of the inner answerer after the passages and the question."""
        passages = await asyncio.to_thread(self.lever.found, conversation)
        longest = max((count(self.inner, continuation) or 0 for continuation in continuations), default=0)
        readings = self._readings(conversation, passages, longest)
        while True:
            try:
                return await cast(ScoringAnswerer, self.inner).score(readings.pop(0).conversation, continuations)
            except ContextLengthError:
                if not readings:
                    raise
