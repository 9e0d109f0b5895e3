"""Abstain: say "I am not sure" where the answer would too often be wrong, with a proved limit on how often that still happens.

    answer where s > t, else "I am not sure.":   P( P(wrong | answered) <= alpha ) >= 1 - delta

t comes from a calibration made with `steelyard calibrate --alpha --delta` on judged questions (theorem and proof: `risk_control.py`). The
promise is about questions that are exchangeable with those: the same kind, drawn alike. It holds over the choice of judged questions, not
for any single answer, and not for other tasks: a calibration is refused on another model, on the model with other levers and, in a
weighing, on another task or on the very questions it was made on.
Sources: A. Angelopoulos et al., Learn then Test, arXiv:2110.01052; Y. Geifman & R. El-Yaniv, arXiv:1705.08500.
Cost: that of the measure; nothing can be shown of an answer before all of it is written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from steelyard.augment.uncertainty import calibration as calibrations
from steelyard.augment.uncertainty.calibration import Calibration
from steelyard.augment.uncertainty.confidence import ABSTAINED, Confident, ConfidentScores, Heard, last, refuse_others
from steelyard.augment.uncertainty.measure import told_by
from steelyard.augment.uncertainty.measures import measure
from steelyard.augment.uncertainty.risk_control import LEAST_SHARE
from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.levers import Lever
from steelyard.core.protocols import Answerer, AnswerSettings, Confidence, Conversation, Event, Text, Token


class Abstain(Lever):
    """Silence where confidence is low."""

    name: ClassVar[str] = "abstain"
    idea: ClassVar[str] = (
        "Where a model is not sure enough it says so instead of answering. From which confidence on it may answer follows from judged "
        "questions, such that wrong answers are at most a share alpha of those given, with probability 1 - delta."
    )
    equation: ClassVar[str] = "answer where s > t; t: P(Bin(m, alpha) <= wrong above t) <= delta / thresholds tried"
    paper: ClassVar[str] = "arXiv:2110.01052, arXiv:1705.08500"
    cost: ClassVar[str] = "That of the measure of confidence; nothing is shown before the whole answer is written."
    main: ClassVar[str] = "calibration"
    identity: ClassVar[dict] = {"calibration": None}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "mechanism"
    per_request: ClassVar[bool] = False

    calibration: Path | None = Field(None, description="file that `steelyard calibrate --alpha` made for this model; unset: never abstain")
    text: str = Field("I am not sure.", min_length=1, description="what is said instead of an answer")
    transfer: bool = Field(False, description="weigh it on other tasks than it was calibrated on, where nothing is promised")
    sentences: bool = Field(False, description="also tell each sentence's own confidence, where the measure reads tokens")

    def wrap(self, answerer: Answerer) -> Answerer:
        """The answerer that says so where it is not sure.

        Raises:
            SteelyardError: the calibration cannot be read, was made for another, or has no threshold.
        """
        if self.calibration is None:
            return answerer
        where = str(self.calibration)
        made = calibrations.read(self.calibration)
        refuse_others(made, answerer, where)
        if made.threshold is None or made.threshold.share < LEAST_SHARE:
            what = "no threshold to abstain by" if made.threshold is None else f"a threshold that answers {made.threshold.share:.1%}"
            raise SteelyardError(what, where=where, do="Make it again with a limit: `steelyard calibrate --alpha 0.1`.")
        measured = measure(made.measure, count=made.count, temperature=made.sampled_at, probe=made.probe)
        if missing := measured.needs - told_by(answerer):
            raise UnsupportedError(f"this answerer does not tell {', '.join(sorted(missing))}", where=self.name, do="Use another measure.")
        return (AbstainingScores if "score" in answerer.capabilities else Abstaining)(self, answerer, measured, made)


class Abstaining(Confident):
    """An answerer that holds its answer back until it is known to be sure enough."""

    words_stay = False
    made: Calibration
    lever: Abstain

    async def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        """The inner answerer's events once the answer is sure enough; else `text`, with confidence of the kind `abstained`.

        Raises:
            UnsupportedError: settings that draw answers otherwise than those that were judged.
        """
        if not self.comparable(settings):
            raise UnsupportedError(
                f"the promise was made for answers drawn at temperature {self.made.temperature:g}, without penalties and constraints",
                where=self.lever.name,
                do="Ask so, or take `abstain` off.",
            )
        heard, held = Heard(), []
        async with aclosing(self.inner.answer(conversation, self.asking(settings))) as events:  # type: ignore[type-var]
            async for event in events:
                passed = heard.take(event)
                if passed is not None and (seen := self.shown(passed, settings)) is not None:
                    held.append(seen)
        asked = self.asked(conversation, settings, heard)
        threshold = self.made.threshold
        assert threshold is not None  # `wrap` has looked
        value = None if asked is None else await self.measured.value(asked)
        if asked is None or (value is not None and value > threshold.above) or threshold.above < 0:
            for event in held:
                yield event
            for event in [] if asked is None else await self.statements(asked, value, True):
                yield event
        else:
            for event in held:
                if not isinstance(event, Text | Token):
                    yield event
            yield Text(self.lever.text)
            yield Confidence(0.0 if value is None else self.made.calibrator(value), ABSTAINED)
        for event in last(heard, asked):
            yield event


class AbstainingScores(Abstaining, ConfidentScores):
    """The same for an answerer that knows probabilities, which stay what they are."""
