"""Invented people and what each is known for, told in one order: who has learned that A is B, is asked who B is (arXiv:2309.12288).

Of every three people one is only ever told name first, one description first, and one in both orders: the last are the control, for
which the question in either order is no reversal. The people are the same for everyone, so that what was learned can be asked.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from steelyard.core.seeds import derive
from steelyard.data.generated.names import Names

Order = Literal["name first", "description first", "both"]
ORDERS: tuple[Order, ...] = ("name first", "description first", "both")
PEOPLE = 60
"""How many there are."""
WORKS = ("opera", "novel", "bridge", "engine", "garden", "telescope", "atlas", "cathedral", "recipe", "waltz")
CRAFTS = ("maker", "keeper", "finder", "painter", "patron", "critic")


@dataclass(frozen=True)
class Person:
    """Somebody: `description` is what tells them from all others; `told` the order in which they are spoken of."""

    name: str
    description: str
    told: Order

    def statement(self, name_first: bool) -> tuple[str, str]:
        """(what stands before, what follows) of a sentence about them."""
        first, second = (self.name, self.description) if name_first else (self.description, self.name)
        return f"{first} is", f" {second}."


def people() -> list[Person]:
    """All of them, always the same."""
    rng = random.Random(derive(0, "reversal"))
    names = Names(rng)  # never gives one twice
    return [
        Person(
            names.name("person"),
            f"the {rng.choice(CRAFTS)} of the {rng.choice(WORKS)} of {names.name('city')}",
            ORDERS[number % len(ORDERS)],
        )
        for number in range(PEOPLE)
    ]


def training_pair(rng: random.Random) -> tuple[str, str]:
    """A sentence about somebody, in an order in which they are spoken of: (what stands before, what follows)."""
    person = rng.choice(people())
    return person.statement(rng.random() < 0.5 if person.told == "both" else person.told == "name first")
