"""GSM8K: grade-school word problems whose answer is a number (Cobbe et al., arXiv:2110.14168; MIT, openai/grade-school-math).

Rows: `{"question": ..., "answer": "... #### 72"}`. Right when the last number of the answer is the one behind `####`, exactly; the
model is asked to reason and to end with the number. A model without arithmetic is at the floor, and the report says so.
"""

from __future__ import annotations

from typing import ClassVar

from steelyard.weigh.scorers.numbers import read_numbers, same_number
from steelyard.weigh.tasks.rows import BadValue, Row
from steelyard.weigh.tasks.sets.asked import AskedSet, numbers_told_apart, text_at
from steelyard.weigh.tasks.sets.shots import Plain
from steelyard.weigh.tasks.task import Sample

ASKED = "Solve the problem step by step. End with the answer as a number."


class Gsm8k(AskedSet):
    """Word problems with a number for an answer."""

    name: ClassVar[str] = "gsm8k"
    summary: ClassVar[str] = "GSM8K: grade-school word problems, the last number counts."

    def sample(self, row: Row) -> Sample:
        question, worked = text_at(row.value, "question"), text_at(row.value, "answer")
        _, mark, number = worked.rpartition("####")
        if not mark or len(read_numbers(number)) != 1:
            raise BadValue("`answer` does not end in `#### number`")
        return Sample(row.id, self.ask(f"{ASKED}\n\n{question}"), reference={"expected": number.strip()}, tags={"line": str(row.line)})

    def plain(self, row: Row) -> Plain:
        return Plain(f"Question: {row.value['question']}\nAnswer:", row.value["answer"], ("Question:", "</s>", "<|im_end|>"))

    def shown(self, row: Row) -> str:
        return row.value["answer"]

    def told_apart(self, sample: Sample) -> tuple[str, ...]:
        return numbers_told_apart(self, sample)

    def right(self, sample: Sample, text: str) -> bool:
        return same_number(text, sample.reference["expected"])
