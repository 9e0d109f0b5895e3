"""Multiple choice by log-probability: which of the given answers does the model find likeliest?

Rows: `{"question": "...", "choices": ["...", "..."], "answer": 2}`, the answer counted from 0. The question is put to the arm as a
conversation, through whatever wraps it; raw text is what `task_file` scores. The metrics are those of `scorers/choosing.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from steelyard.core.protocols import Message
from steelyard.weigh.scorers import choosing
from steelyard.weigh.tasks.rows import BadValue, Row, encodable, only_keys, read_rows, take, text_of
from steelyard.weigh.tasks.task import Choose, Metric, Output, Sample, Task, Value


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
        return choosing.metrics(chance, labels=choosing.are_labels([tuple(row.value["choices"]) for row in rows]))

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
        assert isinstance(sample.request, Choose)
        found = choosing.values(output.scores, sample.request.continuations, {sample.reference["answer"]})
        return {metric.name: found[metric.name] for metric in self.metrics}


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
