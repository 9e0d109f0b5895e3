"""Natural Questions with the passage that answers them, or without (Kwiatkowski et al. 2019; rows of Liu et al., arXiv:2307.03172).

Rows: `{"question": ..., "answers": [...], "ctxs": [{"title", "text", ...}]}`. Right when an accepted answer stands in the answer as
whole words, up to case, punctuation and articles (the paper's measure); `f1` is of the answer's words against the best accepted one.
With `passage: false` the same questions are asked closed-book: the difference is what reading gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from steelyard.weigh.scorers import overlap
from steelyard.weigh.tasks.chat import FINISHED, RIGHT
from steelyard.weigh.tasks.rows import BadValue, Row
from steelyard.weigh.tasks.sets.asked import AskedSet, text_at, texts_at
from steelyard.weigh.tasks.sets.shots import Plain
from steelyard.weigh.tasks.task import Metric, Output, Sample, Value
from steelyard.weigh.tasks.task_file import F1

ASKED = "Answer the question in a few words"


class NqOpen(AskedSet):
    """Questions with a gold passage."""

    name: ClassVar[str] = "nq_open"
    summary: ClassVar[str] = "Natural Questions, each with the passage that answers it."
    metrics: ClassVar[tuple[Metric, ...]] = (RIGHT, F1, FINISHED)

    max_tokens: int = Field(48, ge=1, le=32_768, description="longest answer, tokens")
    passage: bool = Field(True, description="whether the passage that answers is shown")

    def sample(self, row: Row) -> Sample:
        question, answers, passages = text_at(row.value, "question"), texts_at(row.value, "answers"), row.value.get("ctxs")
        if not isinstance(passages, list) or not passages or not all(isinstance(one, dict) for one in passages):
            raise BadValue("`ctxs` is not a list of passages")
        text = f"{ASKED}.\n\nQuestion: {question}?"
        if self.passage:
            gold = next((one for one in passages if one.get("isgold")), passages[0])
            text = f"{ASKED}, by this passage.\n\n{text_at(gold, 'title')}\n{text_at(gold, 'text')}\n\nQuestion: {question}?"
        tags = {"passage": "yes" if self.passage else "no", "line": str(row.line)}
        return Sample(row.id, self.ask(text), reference={"expected": " | ".join(answers), "answers": answers}, tags=tags)

    def plain(self, row: Row) -> Plain:
        question, answers = row.value["question"], row.value["answers"]
        # What is read is left out there: lm-eval asks this set closed-book.
        return Plain(f"Q: {question}?\nA:", answers[0], ("\n", ".", ","), "Answer these questions:\n\n", between="\n")

    def shown(self, row: Row) -> str:
        return row.value["answers"][0]

    def right(self, sample: Sample, text: str) -> bool:
        return overlap.contains(text, sample.reference["answers"])

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        found = dict(super().score(sample, output))
        return found | {"f1": None if output.failure is not None else overlap.f1(output.text, sample.reference["answers"])}
