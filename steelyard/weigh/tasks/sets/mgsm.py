"""MGSM: the same word problems in eleven languages (Shi et al., arXiv:2210.03057; CC-BY-4.0, google-research/url-nlp).

Files `LANGUAGE*.tsv` with problem and number, no heading; the path is one of them or their folder. The languages' versions of one
problem depend on one another and share a cluster; the tag `language` breaks the figures down. `limit` draws as much of each language. Right when the last number of the answer
is the expected one; digits of any script count.
"""

from __future__ import annotations

import unicodedata
from typing import ClassVar

from steelyard.core.errors import RecipeError
from steelyard.weigh.scorers.numbers import read_numbers, same_number
from steelyard.weigh.tasks.rows import BadValue, Row
from steelyard.weigh.tasks.sets.asked import AskedSet, numbers_told_apart, text_at
from steelyard.weigh.tasks.sets.shots import Plain
from steelyard.weigh.tasks.task import Sample

# What stands before question and answer in plain text; lm-eval has words of some languages only for the latter.
WORDS = {
    "bn": ("প্রশ্ন:", "Answer:"),
    "de": ("Frage:", "Antwort:"),
    "en": ("Question:", "Answer:"),
    "es": ("Pregunta:", "Respuesta:"),
    "fr": ("Question :", "Réponse :"),
    "ja": ("問題：", "Answer:"),
    "ru": ("Задача:", "Answer:"),
    "sw": ("Swali:", "Answer:"),
    "te": ("ప్రశ్న:", "Answer:"),
    "th": ("โจทย์:", "Answer:"),
    "zh": ("问题：", "Answer:"),
}


class Mgsm(AskedSet):
    """Word problems in eleven languages."""

    name: ClassVar[str] = "mgsm"
    summary: ClassVar[str] = "MGSM: the same word problems in eleven languages."
    columns: ClassVar[tuple[str, ...]] = ("question", "answer")
    ending: ClassVar[str] = ".tsv"

    def sample(self, row: Row) -> Sample:
        question, number = text_at(row.value, "question"), _western(text_at(row.value, "answer")).strip()
        if len(read_numbers(number)) != 1:
            raise BadValue("`answer` holds no single number")
        tags = {"language": self.kind(row), "line": str(row.line)}
        return Sample(row.id, self.ask(question), reference={"expected": number}, cluster=f"problem {row.line}", tags=tags)

    def kind(self, row: Row) -> str:
        """The language, so that a limited draw holds as much of each, and its first questions some of every one."""
        return str(row.value.get("set", "")).partition("_")[0]

    def plain(self, row: Row) -> Plain:
        language = self.kind(row)
        if language not in WORDS:
            raise RecipeError(
                "a file of problems is not named after its language",
                where=str(self.path),
                do=f"Call it LANGUAGE_*.tsv: {', '.join(WORDS)}.",
            )
        question, answer = WORDS[language]
        number = _western(row.value["answer"]).strip()
        return Plain(f"{question} {row.value['question']}\n{answer}", number, (question, "</s>", "<|im_end|>"), delimiter="")

    def told_apart(self, sample: Sample) -> tuple[str, ...]:
        return numbers_told_apart(self, sample)

    def right(self, sample: Sample, text: str) -> bool:
        return same_number(_western(text), sample.reference["expected"])


def _western(text: str) -> str:
    """The text with every script's digits as 0 to 9."""
    return "".join(str(unicodedata.decimal(letter)) if letter.isdecimal() else letter for letter in text)
