"""MMLU: questions of 57 subjects with four choices (Hendrycks et al., arXiv:2009.03300). Prompts as in lm-eval 0.4, without examples.

The choices stand in the prompt and the letter is scored, so `acc_norm` and its like equal `acc`. `subject` is one of the 57; a line
before every prompt names it, as there.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from steelyard.weigh.tasks.likelihood import Question
from steelyard.weigh.tasks.rows import BadValue, Row
from steelyard.weigh.tasks.sets.asked import number_at, text_at
from steelyard.weigh.tasks.sets.hub import HubQuestions

LETTERS = ("A", "B", "C", "D")


class Mmlu(HubQuestions):
    """Knowledge of 57 subjects."""

    name: ClassVar[str] = "mmlu"
    summary: ClassVar[str] = "MMLU: questions of one of 57 subjects, four choices."
    dataset: ClassVar[str] = "cais/mmlu"
    split: ClassVar[str] = "test"
    commit: ClassVar[str | None] = "c30699e8356da336a370243923dbaf21066bb9fe"

    subject: str = Field("abstract_algebra", pattern=r"^[a-z_]+$", description="subject, as the data set's configurations are called")

    @property
    def subset(self) -> str:
        """The subject."""
        return self.subject

    def question(self, row: Row) -> Question:
        question, choices = text_at(row.value, "question").strip(), row.value.get("choices")
        if not isinstance(choices, list) or len(choices) != 4 or not all(isinstance(choice, str) for choice in choices):
            raise BadValue("`choices` is not a list of four texts")
        about = f"The following are multiple choice questions (with answers) about {self.subject.replace('_', ' ')}.\n\n"
        lines = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
        answer = number_at(row.value, "answer", 4)
        return Question(row.id, f"{about}{question}{lines}\nAnswer:", LETTERS, (answer,), tags={"subject": self.subject})
