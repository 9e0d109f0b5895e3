"""PIQA: which of two ways reaches an everyday goal? (Bisk et al., arXiv:1911.11641). Prompts as in lm-eval 0.4."""

from __future__ import annotations

from typing import ClassVar

from steelyard.weigh.tasks.likelihood import Question
from steelyard.weigh.tasks.rows import Row
from steelyard.weigh.tasks.sets.asked import number_at, text_at
from steelyard.weigh.tasks.sets.hub import HubQuestions


class Piqa(HubQuestions):
    """Everyday physics."""

    name: ClassVar[str] = "piqa"
    summary: ClassVar[str] = "PIQA: which of two ways reaches an everyday goal."
    dataset: ClassVar[str] = "baber/piqa"
    commit: ClassVar[str | None] = "142f6d7367fd9877f0fb3b5734ea6a545f54cdd1"

    def question(self, row: Row) -> Question:
        ways = (text_at(row.value, "sol1"), text_at(row.value, "sol2"))
        return Question(row.id, f"Question: {text_at(row.value, 'goal')}\nAnswer:", ways, (number_at(row.value, "label", 2),))
