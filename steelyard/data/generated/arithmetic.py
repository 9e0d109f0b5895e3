"""Arithmetic problems of any difficulty: more digits, more terms, harder operations."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Operation = Literal["add", "subtract", "multiply", "divide"]
SIGNS: dict[Operation, str] = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with its exact whole-number answer. `text` is the bare expression: `23 + 48`."""

    text: str
    answer: int
    operation: Operation
    digits: int

    @property
    def question(self) -> str:
        """As it is put to a model."""
        return f"What is {self.text}?"

    @property
    def equation(self) -> str:
        """As a worked example is answered: `23 + 48 = 71`."""
        return f"{self.text} = {self.answer}"


def _operand(rng: random.Random, digits: int) -> int:
    return rng.randint(10 ** (digits - 1) if digits > 1 else 1, 10**digits - 1)


def make_problem(rng: random.Random, digits: int = 1, operations: Sequence[Operation] = ("add",), terms: int = 2) -> Problem:
    """A problem whose operands have exactly `digits` digits.

    Args:
        rng: where the choices come from.
        digits: digits of every operand; of divisor and quotient where it divides, so that the answer is whole.
        operations: one is drawn and used throughout the problem.
        terms: number of operands; more than two only for adding and subtracting.
    """
    operation = rng.choice(list(operations))
    numbers = [_operand(rng, digits) for _ in range(terms if operation in ("add", "subtract") else 2)]
    if operation == "add":
        answer = sum(numbers)
    elif operation == "subtract":
        numbers.sort(reverse=True)  # two terms never go below zero
        answer = numbers[0] - sum(numbers[1:])
    elif operation == "multiply":
        answer = numbers[0] * numbers[1]
    else:
        answer, divisor = numbers
        numbers = [answer * divisor, divisor]
    return Problem(f" {SIGNS[operation]} ".join(map(str, numbers)), answer, operation, digits)


def most_distinct(digits: int, operations: Sequence[Operation], terms: int = 2) -> int:
    """A lower bound of how many different problems there are, so that nobody waits for more."""
    operands = 9 * 10 ** (digits - 1)
    return (operands * (operands + 1) // 2) * len(set(operations)) if terms >= 2 else 0
