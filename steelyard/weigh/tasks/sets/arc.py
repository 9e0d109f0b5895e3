"""ARC: science questions of school tests, in an easy and a hard part (Clark et al., arXiv:1803.05457). Prompts as in lm-eval 0.4."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from steelyard.weigh.tasks.likelihood import Question
from steelyard.weigh.tasks.rows import BadValue, Row
from steelyard.weigh.tasks.sets.asked import text_at, texts_at
from steelyard.weigh.tasks.sets.hub import HubQuestions


class Arc(HubQuestions):
    """Science questions."""

    name: ClassVar[str] = "arc"
    summary: ClassVar[str] = "ARC: science questions of school tests, easy or hard."
    dataset: ClassVar[str] = "allenai/ai2_arc"
    split: ClassVar[str] = "test"
    commit: ClassVar[str | None] = "210d026faf9955653af8916fad021475a3f00453"

    part: Literal["easy", "challenge"] = Field("easy", description="easy | challenge")

    @property
    def subset(self) -> str:
        """ARC-Easy or ARC-Challenge."""
        return f"ARC-{self.part.capitalize()}"

    def question(self, row: Row) -> Question:
        question, choices, key = text_at(row.value, "question"), row.value.get("choices"), text_at(row.value, "answerKey")
        if not isinstance(choices, dict):
            raise BadValue("`choices` is not an object with `text` and `label`")
        texts, labels = texts_at(choices, "text", 2), texts_at(choices, "label", 2)
        if len(texts) != len(labels) or key not in labels:
            raise BadValue(f"`answerKey` {key!r:.20} is none of the choices' labels")
        return Question(row.id, f"Question: {question}\nAnswer:", tuple(texts), (labels.index(key),), tags={"part": self.part})
