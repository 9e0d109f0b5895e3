"""Confidence: after an answer, say how sure it is. The words stay as they are.

    answer -> answer, Confidence(measure(answer))                       or, with a calibration, Confidence(f(measure(answer)))

`measure` is one of ten (`measures.py`; each file has its equation and paper). Its number orders answers and is no chance of being right;
a calibration made on judged questions of this very model (`steelyard calibrate`) turns it into one, as far as the questions that come are
like those. Weighed, an arm's AUROC, AURC and Brier score are those of what it says.
Cost: that of the measure; those that read tokens cost nothing, others ask the model again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from pydantic import Field, model_validator

from steelyard.augment.answerers import room
from steelyard.augment.uncertainty import calibration as calibrations
from steelyard.augment.uncertainty.calibration import Calibration
from steelyard.augment.uncertainty.measure import Asked, Measure, told_by
from steelyard.augment.uncertainty.measures import MeasureName, measure
from steelyard.augment.uncertainty.subject import subject
from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.core.protocols import (
    Answer,
    Answerer,
    AnswerSettings,
    Confidence,
    Conversation,
    Done,
    Event,
    Score,
    ScoringAnswerer,
    Text,
    Token,
    Usage,
)
from steelyard.core.references import AnswererRef
from steelyard.data.words import sentences

CALIBRATED, ABSTAINED = "calibrated", "abstained"
"""Kinds of confidence beside the measures' names."""


class ConfidenceLever(Lever):
    """A number in [0, 1] after each answer."""

    name: ClassVar[str] = "confidence"
    idea: ClassVar[str] = (
        "After each answer, say how sure it is: by its tokens' probability or entropy, by asking the model whether it is right (P(True)), "
        "by a probe on its hidden state (P(IK)), by semantic entropy or agreement of further samples, or by the model's own word."
    )
    equation: ClassVar[str] = "answer -> answer, confidence = f(measure(answer)); f: isotonic or Platt, fitted on judged answers"
    paper: ClassVar[str] = "arXiv:2207.05221, arXiv:2302.09664, arXiv:2303.08896, arXiv:2205.14334"
    cost: ClassVar[str] = "None for what reads tokens; two scored words for P(True); `count` more answers for what compares samples."
    main: ClassVar[str] = "measure"
    identity: ClassVar[str] = "The words of an answer never change; what is added is a statement about them."
    maturity: ClassVar = "stable"
    evidence: ClassVar = "mechanism"
    per_request: ClassVar[bool] = True

    measure: MeasureName = Field("mean_probability", description="how confidence is measured")
    count: int = Field(5, ge=2, le=20, description="further answers that semantic_entropy and self_check draw, count")
    temperature: float = Field(1.0, gt=0, le=2, description="temperature they are drawn at")
    judge: AnswererRef | None = Field(None, description="who says whether two answers mean the same; unset: equal words do")
    calibration: Path | None = Field(
        None, description="file that `steelyard calibrate` made: the number becomes a chance of being right, measure and probe are its"
    )
    sentences: bool = Field(False, description="also tell each sentence's own confidence, where the measure reads tokens")

    @model_validator(mode="after")
    def _has_a_probe(self) -> Self:
        if self.measure == "p_ik" and self.calibration is None:
            raise ValueError("`p_ik` reads a probe from a `calibration`: make one with `steelyard calibrate --measure p_ik`")
        return self

    def wrap(self, answerer: Answerer) -> Answerer:
        """The answerer that says how sure it is.

        Raises:
            UnsupportedError: it lacks what the measure needs.
            SteelyardError: a calibration that cannot be read, or was made for another.
        """
        made = None
        if self.calibration is not None:
            made = calibrations.read(self.calibration)
            refuse_others(made, answerer, str(self.calibration))
            measured = measure(made.measure, count=made.count, temperature=made.sampled_at, probe=made.probe)
        else:
            judge = self.judge.value if self.judge is not None else None
            measured = measure(self.measure, count=self.count, temperature=self.temperature, judge=judge)
        return said_by(self, answerer, measured, made)


def said_by(lever: Lever, answerer: Answerer, measured: Measure, made: Calibration | None) -> Answerer:
    """An answerer with this measure around it.

    Raises:
        UnsupportedError: it lacks what the measure needs.
    """
    if missing := measured.needs - told_by(answerer):
        raise UnsupportedError(
            f"this answerer does not tell {', '.join(sorted(missing))}, which the measure needs",
            where=lever.name,
            do="Use `semantic_entropy`, `self_check` or `verbalized`, which read texts alone.",
        )
    return (ConfidentScores if "score" in answerer.capabilities else Confident)(lever, answerer, measured, made)


def refuse_others(made: Calibration, answerer: Answerer, where: str) -> None:
    """Refuses a calibration that was made for another model, or for this one with other levers.

    Raises:
        SteelyardError: it was.
    """
    if made.subject != subject(answerer):
        raise SteelyardError(
            f"this calibration was made for another model, or for {made.model} with other levers",
            where=where,
            do="Make one for this model with these levers: `steelyard calibrate`.",
        )


@dataclass
class Heard:
    """An answer as it comes, with what is to be passed on in its time."""

    answer: Answer = field(default_factory=Answer)
    pieces: list[str] = field(default_factory=list)
    done: Done | None = None

    def take(self, event: Event) -> Event | None:
        """Notes an event; gives it back where it is to be passed on at once."""
        match event:
            case Text(text):
                self.pieces.append(text)
            case Token():
                self.answer.tokens.append(event)
            case Usage():
                self.answer.usage = event
                return None
            case Done():
                self.done = event
                return None
        return event


class Confident:
    """An answerer that says how sure it is, after each answer and before its end.

    `words_stay`: whether it leaves the answer's text alone, so that a calibration of what it wraps holds for it too.
    """

    words_stay = True

    def __init__(self, lever: Any, inner: Answerer, measured: Measure, made: Calibration | None):
        self.lever, self.inner, self.measured, self.made = lever, inner, measured, made

    @property
    def fingerprint(self) -> str:
        return digest([self.lever.fingerprint, self.made and self.made.fingerprint, self.inner.fingerprint])

    @property
    def capabilities(self) -> frozenset[str]:
        return self.inner.capabilities | {"confidence"}

    def room(self, conversation: Conversation) -> int | None:
        """Tokens left for the answer."""
        return room(self.inner, conversation)

    def comparable(self, settings: AnswerSettings) -> bool:
        """Whether an answer is drawn as those were that the calibration was made on."""
        if self.made is None:
            return False
        plain = settings.repetition_penalty == 1 and not settings.presence_penalty and not settings.frequency_penalty
        plain = plain and not settings.logit_bias
        return settings.temperature == self.made.temperature and plain and settings.constraint is None

    def asking(self, settings: AnswerSettings) -> AnswerSettings:
        """The settings with what the measure reads."""
        alternatives = max(settings.alternatives, self.measured.alternatives)
        return replace(settings, token_events=settings.token_events or self.measured.tokens, alternatives=alternatives)

    def shown(self, event: Event, settings: AnswerSettings) -> Event | None:
        """An event as it was asked for: no tokens, and no more alternatives, than that."""
        if isinstance(event, Token):
            event = replace(event, alternatives=event.alternatives[: settings.alternatives])
            return event if settings.token_events else None
        return event

    async def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        """The inner answerer's events, with confidence before the last two."""
        heard = Heard()
        async with aclosing(self.inner.answer(conversation, self.asking(settings))) as events:  # type: ignore[type-var]
            async for event in events:
                passed = heard.take(event)
                if passed is not None and (seen := self.shown(passed, settings)) is not None:
                    yield seen
        asked = self.asked(conversation, settings, heard)
        if asked is not None:
            value = await self.measured.value(asked)
            for event in await self.statements(asked, value, self.comparable(settings)):
                yield event
        for event in last(heard, asked):
            yield event

    def asked(self, conversation: Conversation, settings: AnswerSettings, heard: Heard) -> Asked | None:
        """What is to be measured; None for an answer that did not come to an end."""
        if heard.done is None or heard.done.reason in ("error", "cancelled", "timeout"):
            return None
        heard.answer.text, heard.answer.reason = "".join(heard.pieces), heard.done.reason
        return Asked(self.inner, conversation, settings, heard.answer)

    async def statements(self, asked: Asked, value: float | None, comparable: bool) -> list[Confidence]:
        """How sure the answer is, and each sentence where that is asked for."""
        calibrated = self.made if comparable else None
        kind = CALIBRATED if calibrated else (self.made.measure if self.made else self.lever.measure)

        def told(number: float) -> float:
            return calibrated.calibrator(number) if calibrated else number

        out = [] if value is None else [Confidence(told(value), kind)]
        if getattr(self.lever, "sentences", False) and self.measured.tokens:
            for start, end, part in parts(asked.answer):
                one = await self.measured.value(replace(asked, answer=part))
                if one is not None:
                    out.append(Confidence(told(one), kind, start, end))
        return out


class ConfidentScores(Confident):
    """The same for an answerer that knows probabilities, which stay what they are."""

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        """Scores of the inner answerer."""
        return await cast(ScoringAnswerer, self.inner).score(conversation, continuations)


def last(heard: Heard, asked: Asked | None) -> Iterator[Event]:
    """What ends an answer: usage with that of further questions, and the end."""
    usage = heard.answer.usage
    if usage is not None:
        for more in asked.further if asked is not None else ():
            usage = Usage(
                usage.prompt_tokens + more.prompt_tokens,
                usage.completion_tokens + more.completion_tokens,
                usage.calls + more.calls,
                usage.verified + more.verified,
            )
        yield usage
    yield heard.done or Done("error")


def parts(answer: Answer) -> Iterator[tuple[int, int, Answer]]:
    """The sentences of an answer: where each begins and ends in the text, and the tokens that spell it."""
    at = 0
    for line in answer.text.splitlines():
        for sentence in sentences(line):
            start = answer.text.find(sentence, at)
            if start < 0:
                continue
            end = at = start + len(sentence)
            place, tokens = 0, []
            for token in answer.tokens:
                if place < end and place + len(token.text) > start:
                    tokens.append(token)
                place += len(token.text)
            yield start, end, Answer(text=sentence, tokens=tokens)
