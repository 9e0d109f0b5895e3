"""HellaSwag: which ending goes on with the scene? (Zellers et al., arXiv:1905.07830). Prompts as in lm-eval 0.4.

WikiHow's section marks are taken out of context and endings: `[title]` becomes a full stop, other brackets go, double spaces become one.
"""

from __future__ import annotations

import re
from typing import ClassVar

from steelyard.weigh.tasks.likelihood import Question
from steelyard.weigh.tasks.rows import BadValue, Row
from steelyard.weigh.tasks.sets.asked import number_at, text_at, texts_at
from steelyard.weigh.tasks.sets.hub import HubQuestions


class HellaSwag(HubQuestions):
    """Endings of scenes."""

    name: ClassVar[str] = "hellaswag"
    summary: ClassVar[str] = "HellaSwag: which ending goes on with the scene."
    dataset: ClassVar[str] = "Rowan/hellaswag"
    commit: ClassVar[str | None] = "218ec52e09a7e7462a5400043bb9a69a41d06b76"

    def question(self, row: Row) -> Question:
        activity, first = text_at(row.value, "activity_label"), text_at(row.value, "ctx_a")
        second, endings = row.value.get("ctx_b"), texts_at(row.value, "endings", 2)
        if not isinstance(second, str):
            raise BadValue("`ctx_b` is not a text")
        label = number_at(row.value, "label", len(endings))
        prompt = _cleaned(f"{activity}: {first} {second.capitalize()}")
        return Question(row.id, prompt, tuple(map(_cleaned, endings)), (label,), tags={"activity": activity})


def _cleaned(text: str) -> str:
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")
