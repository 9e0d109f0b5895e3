"""What is asked of an arm and what it gave, and the metrics that say how good that was.

A sample makes one of four requests: `Ask` (generate an answer), `Choose` (log-probability of given continuations of a
conversation), `Continue` (of raw text), or `Read` (log-probability of raw text).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from steelyard.core.axes import Axis
from steelyard.core.protocols import AnswerSettings, Citation, Confidence, Message, Score, Token, ToolCall, Usage
from steelyard.weigh.detector import Detector


@dataclass(frozen=True)
class Metric:
    """One number per arm.

    Attributes:
        name: what tables call it.
        axis: the axis it belongs to; the first metric of an axis in a task's list is that axis's default.
        unit: `share`, `bits/byte`, `tokens/s`, `MB`, ...
        higher_is_better: direction of good.
        margin: equivalence margin, in the metric's unit, or as a share of the base's value where `relative`.
        relative: whether the margin is a share of the base's value.
        kind: `mean` averages per-sample numbers; `ratio` divides the sum of numerators by the sum of denominators
            (a sample then gives a pair, and one of (x, 0) adds to the numerator alone). The others exist over a whole set alone
            (`weigh/statistics/selective.py`, `weigh/statistics/whole_set.py`, `weigh/statistics/gaps.py`), and a sample gives a pair: `auroc`, `aurc`, `ece` (confidence,
            right); `equal_coverage` (confidence, or -1 where silent; right); `kappa` (label given, true label, as numbers); `gap` and
            `contrast`, which are the absolute and the signed difference of two groups' means, (value, 1 or -1 for the group).
        floor: value at which an arm does no better than chance, or None where there is no such value.
        binary: per-sample values are 0 or 1 (exact McNemar and Wilson apply).
        reach: the lowest and highest value it can have, where there are such; a share has 0 and 1 without saying so.
        gate: another metric of the same task, with a floor, that has to be above it for this one to mean anything: an arm that
            cannot do the task at all treats everybody alike and gives nothing away (`weigh/cells/gates.py`).
        neutral: the value on which an arm that knows nothing lands; one that is shown to be elsewhere needs no gate.
        groups: for a `gap`, the names of the groups 1 and -1.
        detector: who decided on each sample, where that errs at known rates; the figure is then corrected for them.
    """

    name: str
    axis: Axis
    unit: str
    higher_is_better: bool
    margin: float
    relative: bool = False
    kind: Literal["mean", "ratio", "auroc", "aurc", "ece", "equal_coverage", "kappa", "gap", "contrast"] = "mean"
    floor: float | None = None
    binary: bool = False
    reach: tuple[float, float] | None = None
    gate: str = ""
    neutral: float | None = None
    groups: tuple[str, str] | None = None
    detector: Detector | None = None

    @property
    def span(self) -> float | None:
        """The largest difference two arms can have, in the unit; None where there is no largest."""
        low, high = self.reach or ((0.0, 1.0) if self.unit == "share" else (0.0, math.inf))
        return high - low if math.isfinite(high - low) else None


@dataclass(frozen=True)
class Ask:
    """Generate an answer to a conversation.

    Attributes:
        conversation: what is asked.
        settings: how the answer is drawn.
        raw: the conversation is one message whose text is gone on with as it is, without a template, by the engine below the wraps.
    """

    conversation: tuple[Message, ...]
    settings: AnswerSettings = AnswerSettings()
    raw: bool = False


@dataclass(frozen=True)
class Choose:
    """Log-probability of each continuation as the assistant's next words."""

    conversation: tuple[Message, ...]
    continuations: tuple[str, ...]


@dataclass(frozen=True)
class Continue:
    """Log-probability of each continuation of a raw text, scored by the engine below the wraps.

    Attributes:
        text: what stands before; "" = the model's start token.
        continuations: with the white space that belongs to them; they may follow texts of their own (see `texts`).
        texts: one text for each continuation in place of `text`, where they differ.
        cut: leave out the beginning of a text that is too long for the context, as lm-eval does; otherwise it fails.
    """

    text: str
    continuations: tuple[str, ...]
    texts: tuple[str, ...] = ()
    cut: bool = False

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(text, continuation) of each."""
        return list(zip(self.texts or (self.text,) * len(self.continuations), self.continuations, strict=True))


@dataclass(frozen=True)
class Read:
    """Log-probability of raw text, scored by the engine below the wraps.

    Attributes:
        text: what counts.
        before: read first; it does not count.
        rolling: of any length, in windows that predict every token once; `before` is then empty.
    """

    text: str
    before: str = ""
    rolling: bool = False


@dataclass(frozen=True)
class Sample:
    """One item.

    Attributes:
        id: stable across runs and machines: equal id, equal content.
        request: what to put to the arm.
        reference: what the scorer compares with (JSON-like); never shown to the arm.
        cluster: samples that share one (a passage, an entity) count as dependent in the statistics; "" = its own.
        tags: labels for breakdowns (`{"kind": "capital", "invented": "no"}`).
    """

    id: str
    request: Ask | Choose | Continue | Read
    reference: Any = None
    cluster: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """What an arm gave for one sample, as kept in its record.

    Attributes:
        text: the answer (empty for all requests but `Ask`).
        tokens: generated tokens with log-probabilities (empty where the arm has none, e.g. an endpoint).
        scores: one per continuation for `Choose` and `Continue`, exactly one for `Read`.
        citations: passages the arm was given.
        usage: tokens read and written.
        reason: how the answer ended.
        seconds: wall time of this request inside its batch (descriptive only; speed has its own pass).
        failure: the error of a sample whose execution failed; such a sample scores None everywhere.
        confidence: how sure the arm said it is of the whole answer, where it says so (lever `confidence`).
        model: what the server that answered calls its model, where the arm is a remote one that says so.
        calls: of the tools that were offered; without ids, which are drawn anew each time.
    """

    text: str = ""
    tokens: tuple[Token, ...] = ()
    scores: tuple[Score, ...] = ()
    citations: tuple[Citation, ...] = ()
    usage: Usage | None = None
    reason: str = ""
    seconds: float = 0.0
    failure: str | None = None
    confidence: Confidence | None = None
    model: str = ""
    calls: tuple[ToolCall, ...] = ()


Value = float | tuple[float, float] | None
