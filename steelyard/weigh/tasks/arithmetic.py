"""Arithmetic with a difficulty dial: digits, terms, operations.

The answer's last number counts, so that a model may reason first; it has to be exactly right. A few worked examples of the
same difficulty come before the problem, because the question here is whether a model can calculate, not whether it knows what
is wanted. They write the whole equation down: SmolLM2-135M-Instruct is right on 38 % (60 problems) when it repeats the problem
before its answer, and on 12 % when it answers with the bare number.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from steelyard.core.fingerprint import digest
from steelyard.core.protocols import AnswerSettings, Message
from steelyard.core.seeds import derive
from steelyard.data.generated.arithmetic import Problem, make_problem, most_distinct
from steelyard.weigh.scorers import calibration
from steelyard.weigh.scorers.numbers import read_numbers, same_number
from steelyard.weigh.tasks.right_answers import other_numbers
from steelyard.weigh.tasks.task import Ask, Metric, Output, Sample, Task, Value

RIGHT = Metric("right", "quality", "share", True, margin=0.03, floor=0.0, binary=True)
NUMBER_GIVEN = Metric("number_given", "format", "share", True, margin=0.03, floor=0.0, binary=True)


class Arithmetic(Task):
    """Problems whose answers are whole numbers."""

    name: ClassVar[str] = "arithmetic"
    summary: ClassVar[str] = "Exact whole-number arithmetic, from one digit up."
    metrics: ClassVar[tuple[Metric, ...]] = (RIGHT, *calibration.METRICS, NUMBER_GIVEN)

    problems: int = Field(60, ge=1, le=5000, description="problems, count")
    digits: tuple[int, ...] = Field(
        (1, 2), min_length=1, max_length=12, description="digits of the operands, one or several: the difficulty"
    )
    operations: tuple[Literal["add", "subtract", "multiply", "divide"], ...] = Field(
        ("add", "subtract"), min_length=1, description="operations drawn from"
    )
    terms: int = Field(2, ge=2, le=10, description="operands of sums and differences, count")
    shown: int = Field(4, ge=0, le=8, description="worked examples shown first, count")
    max_tokens: int = Field(16, ge=2, le=2048, description="longest answer, tokens")

    @model_validator(mode="after")
    def _possible(self) -> Arithmetic:
        if bad := [digits for digits in self.digits if not 1 <= digits <= 30]:
            raise ValueError(f"digits should be 1 to 30, not {bad[0]}")
        most = sum(most_distinct(digits, self.operations, self.terms) for digits in set(self.digits)) - self.shown
        if self.problems > most:
            raise ValueError(
                f"there are not {self.problems} different problems of this kind (at least {max(most, 0)}); ask for fewer, or more digits"
            )
        return self

    def samples(self, seed: int) -> list[Sample]:
        shown = [
            make_problem(
                random.Random(derive("shown problems", i)),
                self.digits[i % len(self.digits)],
                (self.operations[i // len(self.digits) % len(self.operations)],),
                self.terms,
            )
            for i in range(self.shown)
        ]
        turns = [turn for problem in shown for turn in (Message("user", problem.question), Message("assistant", problem.equation))]
        rng = random.Random(derive(seed, self.name, self.digits, self.operations, self.terms))
        seen = {problem.text for problem in shown}  # what was shown is not asked
        samples = []
        while len(samples) < self.problems:
            problem = make_problem(rng, self.digits[len(samples) % len(self.digits)], self.operations, self.terms)
            key = problem.text
            if key in seen:
                problem = make_problem(rng, rng.choice(self.digits), self.operations, self.terms)
                key = problem.text
            if key not in seen:
                seen.add(key)
                samples.append(self._sample(problem, (*turns, Message("user", problem.question))))
        return samples

    def _sample(self, problem: Problem, conversation: tuple[Message, ...]) -> Sample:
        return Sample(
            id=f"{problem.operation}-{digest([[turn.content for turn in conversation], self.max_tokens])}",
            request=Ask(conversation, AnswerSettings(max_tokens=self.max_tokens, token_events=True)),
            reference={"expected": str(problem.answer), "written": problem.equation},
            tags={"operation": problem.operation, "digits": str(problem.digits)},
        )

    def told_apart(self, sample: Sample) -> tuple[str, ...]:
        right = sample.reference["expected"]
        written = sample.reference["written"].removesuffix(right)  # as the worked examples write it
        return tuple(written + number for number in (right, *other_numbers(right, sample.id)))

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        if output.failure is not None:
            return dict.fromkeys(metric.name for metric in self.metrics)
        right, given = same_number(output.text, sample.reference["expected"]), bool(read_numbers(output.text))
        sure = calibration.sure_of(output, output.text)
        return {"right": float(right), "number_given": float(given)} | calibration.values(sure, right, answered=given)
