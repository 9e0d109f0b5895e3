"""Multiple choice by log-probability: which of the given answers does the model find likeliest?

Rows: `{"question": "...", "choices": ["...", "..."], "answer": 2}`, the answer counted from 0. `acc` takes the choice with the
highest log-probability, `acc_norm` the highest per byte of UTF-8, because a sum is lower for longer texts whatever they say.
Beside these counts stand continuous figures, which need far fewer samples to tell two arms apart: `right_logprob` is
the log-probability of the right choice among the choices (softmax over their sums), 0 at best. `brier` is the sum over
choices of (probability - truth)^2. Chance is the mean of 1 / number of choices, and the floor of acc and acc_norm.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from steelyard.core.protocols import Message
from steelyard.weigh.tasks.rows import BadValue, Row, encodable, only_keys, read_rows, take, text_of
from steelyard.weigh.tasks.task import Choose, Metric, Output, Sample, Task, Value

ACC = Metric("acc", "quality", "share", True, margin=0.03, binary=True)
ACC_NORM = Metric("acc_norm", "quality", "share", True, margin=0.03, binary=True)
RIGHT_LOGPROB = Metric("right_logprob", "quality", "nats", True, margin=0.05)
BRIER = Metric("brier", "calibration", "squared error", False, margin=0.02, reach=(0.0, 2.0))


class Choices(Task):
    """Multiple choice over rows of your own."""

    name: ClassVar[str] = "choices"
    summary: ClassVar[str] = "Multiple choice from a JSONL file, by log-probability."

    path: Path = Field(description='JSONL file of {"question", "choices", "answer"}')
    limit: int | None = Field(None, ge=1, description="most rows used, count; drawn by the seed")
    show_choices: bool = Field(False, description="whether the question lists the choices")

    @functools.cached_property
    def metrics(self) -> tuple[Metric, ...]:  # type: ignore[override]  # chance depends on the rows
        """acc first; the floors are the chance level of the file's rows."""
        rows = self._rows
        chance = sum(1 / len(row.value["choices"]) for row in rows) / len(rows)
        return (replace(ACC, floor=chance), replace(ACC_NORM, floor=chance), RIGHT_LOGPROB, BRIER)

    @functools.cached_property
    def _rows(self) -> list[Row]:
        return read_rows(self.path, _check)

    def samples(self, seed: int) -> list[Sample]:
        return [self._sample(row) for row in take(self._rows, self.limit, seed, self.name)]

    def _sample(self, row: Row) -> Sample:
        question, choices = row.value["question"], tuple(row.value["choices"])
        if self.show_choices:
            question += "\n" + "\n".join(f"- {choice}" for choice in choices)
        return Sample(
            id=row.id,
            request=Choose((Message("user", question),), choices),
            reference={"expected": choices[row.value["answer"]], "answer": row.value["answer"]},
            cluster=row.id.partition("-")[0],
            tags={"line": str(row.line), "choices": str(len(choices))},
        )

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        answer, request = sample.reference["answer"], sample.request
        assert isinstance(request, Choose)
        sums = [score.logprob for score in output.scores]
        if output.failure is not None or len(sums) != len(request.continuations) or not all(map(math.isfinite, sums)):
            return {"acc": None, "acc_norm": None, "right_logprob": None, "brier": None}
        per_byte = [total / len(choice.encode()) for total, choice in zip(sums, request.continuations, strict=True)]
        most = max(sums)
        total = most + math.log(sum(math.exp(one - most) for one in sums))
        shares = [math.exp(one - total) for one in sums]
        return {
            "acc": float(sums.index(most) == answer),
            "acc_norm": float(per_byte.index(max(per_byte)) == answer),
            "right_logprob": sums[answer] - total,
            "brier": sum((share - (i == answer)) ** 2 for i, share in enumerate(shares)),
        }


def _check(row: Mapping[str, Any]) -> None:
    only_keys(row, ("question", "choices", "answer", "id", "meta"), ("question", "choices", "answer"))
    text_of(row, "question")
    choices, answer = row["choices"], row["answer"]
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise BadValue("`choices` is not a list of at least two texts")
    for choice in choices:
        encodable(choice, "choices")
    if len(set(choices)) != len(choices):
        raise BadValue("`choices` holds the same text twice")
    if not isinstance(answer, int) or isinstance(answer, bool):
        raise BadValue("`answer` is not a whole number (the right choice, counted from 0)")
    if not 0 <= answer < len(choices):
        raise BadValue(f"`answer` is {answer}, but the choices are counted from 0 to {len(choices) - 1}")
