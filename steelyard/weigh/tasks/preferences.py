"""Preference pairs by log-probability: does the model find the answer that people preferred likelier than the other?

Rows are `{"prompt": ..., "chosen": ..., "rejected": ...}` (texts or lists of messages, as `data/preferences.py` reads them), or
`{"chosen": ..., "rejected": ...}` with whole conversations in both, told apart by lines `Human:` and `Assistant:`, as hh-rlhf has them (Bai et al.,
arXiv:2204.05862). Both answers are put behind the same conversation, through the chat template and whatever wraps the arm.

`preferred` compares log-probabilities per token, because a sum prefers what is short; `preferred_sum` compares the sums. `margin` is the
difference per token in nats, a continuous figure that tells two arms apart with fewer pairs. A half is chance.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from steelyard.core.protocols import Message
from steelyard.data.formats import UnusableRow
from steelyard.data.preferences import to_preference
from steelyard.weigh.tasks.rows import BadValue, Row, encodable, read_rows, take
from steelyard.weigh.tasks.task import Choose, Metric, Output, Sample, Task, Value

PREFERRED = Metric("preferred", "quality", "share", True, margin=0.03, floor=0.5, binary=True)
PREFERRED_SUM = Metric("preferred_sum", "quality", "share", True, margin=0.03, binary=True)
MARGIN = Metric("margin", "quality", "nats/token", True, margin=0.02, reach=(-math.inf, math.inf))
_TURNS = {"\n\nHuman:": "user", "\n\nAssistant:": "assistant"}


class Preferences(Task):
    """Pairs of answers, one of them preferred."""

    name: ClassVar[str] = "preferences"
    summary: ClassVar[str] = "Preference pairs: whether the answer that people preferred is the likelier."
    perturbable: ClassVar[bool] = False  # the answers are given
    metrics: ClassVar[tuple[Metric, ...]] = (PREFERRED, PREFERRED_SUM, MARGIN)

    path: Path = Field(description="JSONL file of pairs")
    limit: int | None = Field(None, ge=1, description="most pairs, count; drawn by the seed")
    empty: Literal["refuse", "skip"] = Field("refuse", description="pairs of which an answer is empty: refuse the file | leave them out")

    @functools.cached_property
    def _rows(self) -> list[Row]:
        skipped: list[object] = []

        def check(row: Mapping[str, Any]) -> None:
            try:
                _pair(row)
            except _EmptyAnswer:
                if self.empty == "refuse":
                    raise
                skipped.append(row)

        rows = read_rows(self.path, check)
        return [row for row in rows if not any(row.value is one for one in skipped)]

    def samples(self, seed: int) -> list[Sample]:
        return [self._sample(row) for row in take(self._rows, self.limit, seed, self.name)]

    def _sample(self, row: Row) -> Sample:
        prompt, chosen, rejected = _pair(row.value)
        return Sample(
            row.id,
            Choose(prompt, (chosen, rejected)),
            reference={"expected": chosen},
            cluster=row.id.partition("-")[0],
            tags={"line": str(row.line), "turns": str(len(prompt))},
        )

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        scores = output.scores
        if output.failure is not None or len(scores) != 2 or not all(math.isfinite(one.logprob) and one.tokens for one in scores):
            return dict.fromkeys(metric.name for metric in self.metrics)
        chosen, rejected = (one.logprob / one.tokens for one in scores)
        return {
            "preferred": float(chosen > rejected),
            "preferred_sum": float(scores[0].logprob > scores[1].logprob),
            "margin": chosen - rejected,
        }


def conversation_of(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """What a row's two answers follow.

    Raises:
        BadValue: it is no pair of answers to one conversation. One of them may be empty.
    """
    try:
        return _pair(row)[0]
    except _EmptyAnswer as error:
        return error.conversation


class _EmptyAnswer(BadValue):
    """One of the answers to this conversation has no word."""

    def __init__(self, conversation: tuple[Message, ...]):
        super().__init__("an answer is empty")
        self.conversation = conversation


def _pair(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], str, str]:
    """Conversation, preferred and other answer of a row."""
    if "prompt" not in row and isinstance(row.get("chosen"), str) and "\n\nHuman:" in row["chosen"]:
        return _of_transcripts(row)
    try:
        pair = to_preference(row)
    except UnusableRow as problem:
        raise BadValue(str(problem)) from None
    for text in (pair.chosen, pair.rejected):
        if not text.strip():
            raise _EmptyAnswer(pair.prompt)
    return pair.prompt, pair.chosen, pair.rejected


def _of_transcripts(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], str, str]:
    """Two transcripts that differ in their last answer alone."""
    if not isinstance(row.get("rejected"), str):
        raise BadValue("`rejected` is not a text")
    both = (row["chosen"], row["rejected"])
    for key in ("chosen", "rejected"):
        encodable(row[key], key)
    end = min(text.rfind("\n\nAssistant:") for text in both)
    shared = os.path.commonprefix(both)
    if end < 0 or both[0][:end] != both[1][:end] or len(shared) < end:
        raise BadValue("the transcripts differ before their last answer")
    chosen, rejected = (text[end:].removeprefix("\n\nAssistant:").strip() for text in both)
    if not chosen or not rejected:
        raise _EmptyAnswer(_messages(both[0][:end]))
    if chosen == rejected:
        raise BadValue("both answers are the same")
    if "\n\nHuman:" in chosen or "\n\nHuman:" in rejected:
        raise BadValue("the transcripts differ before their last answer")
    return _messages(both[0][:end]), chosen, rejected


def _messages(text: str) -> tuple[Message, ...]:
    out: list[Message] = []
    place = 0
    while place < len(text):
        mark = next((mark for mark in _TURNS if text.startswith(mark, place)), None)
        if mark is None:
            raise BadValue("the transcript does not begin with `Human:`")
        after = place + len(mark)
        place = min((found for one in _TURNS if (found := text.find(one, after)) >= 0), default=len(text))
        said = text[after:place].strip()
        role = _TURNS[mark]
        if out and out[-1].role == role:
            out[-1] = Message(out[-1].role, f"{out[-1].content}\n\n{said}")  # somebody spoke twice
        else:
            out.append(Message("user" if role == "user" else "assistant", said))
    if not out or out[-1].role != "user":
        raise BadValue("the last turn before the answers is not the person's")
    return tuple(out)
