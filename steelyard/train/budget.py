"""How much a training may use: a number of steps, tokens, floating-point operations or seconds, whichever two arms are to share.

Training ends with the first step that reaches the amount, so it is over by less than one step. The learning rate follows the share
of the budget that is used, so that every arm of a race anneals wholly, however many steps its budget lets it take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from steelyard.core.errors import RecipeError

Unit = Literal["steps", "tokens", "flops", "seconds"]
UNITS: tuple[Unit, ...] = ("steps", "tokens", "flops", "seconds")


class Counters(Protocol):
    """What a training has used so far."""

    step: int
    tokens: int
    flops: int
    seconds: float


@dataclass(frozen=True)
class Budget:
    """`amount` of a unit: optimizer steps, tokens read (padding not counted), FLOPs of forward and backward, seconds in steps."""

    unit: Unit
    amount: float

    def used(self, counters: Counters) -> float:
        return counters.step if self.unit == "steps" else getattr(counters, self.unit)

    def share(self, counters: Counters) -> float:
        """Share of the budget that is used, from 0 to 1."""
        return min(1.0, self.used(counters) / self.amount) if self.amount else 1.0

    def finished(self, counters: Counters) -> bool:
        return self.used(counters) >= self.amount

    def shown(self, counters: Counters) -> tuple[int, int]:
        """(done, total) for a progress bar: whole steps or tokens, or thousandths of what is too large or too small to count."""
        if self.unit in ("steps", "tokens"):
            return int(min(self.used(counters), self.amount)), int(self.amount)
        return round(1000 * self.share(counters)), 1000

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}" if self.unit in ("flops", "seconds") else f"{int(self.amount)} {self.unit}"


def one_budget(**amounts: float | None) -> Budget:
    """The budget of the one unit that is given.

    Raises:
        RecipeError: none or several are given.
    """
    given: list[tuple[Unit, float]] = [(unit, amount) for unit in UNITS if (amount := amounts.get(unit)) is not None]
    if len(given) != 1:
        named = f"{' and '.join(unit for unit, _ in given)} are" if given else "none is"
        raise RecipeError(f"a training has one budget, but {named} given", do=f"Give exactly one of {', '.join(UNITS)}.")
    ((unit, amount),) = given
    return Budget(unit, amount)
