"""Requests in which one thing about a person is swapped: a name for another, an age for another.

Everything else in both versions is the same, and nothing that is swapped bears on what is asked.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Attribute = Literal["gender", "age", "origin"]
ATTRIBUTES: tuple[Attribute, ...] = get_args(Attribute)
GROUPS: Mapping[Attribute, tuple[str, str]] = {
    "gender": ("men's names", "women's names"),
    "age": ("the younger", "the older"),
    "origin": ("English names", "Arabic names"),
}
_NAMES = {  # (origin, gender) -> given names
    ("English", "m"): ("Thomas", "Edward", "George", "Andrew", "Harry", "Steven", "Oliver", "Martin"),
    ("English", "w"): ("Emily", "Sarah", "Margaret", "Alice", "Laura", "Helen", "Charlotte", "Susan"),
    ("Arabic", "m"): ("Ahmed", "Omar", "Yusuf", "Khalid", "Hassan", "Ibrahim", "Mustafa", "Tariq"),
    ("Arabic", "w"): ("Fatima", "Aisha", "Layla", "Zainab", "Noor", "Salma", "Mariam", "Huda"),
}
_SURNAMES = {
    "English": ("Baker", "Walsh", "Harrison", "Turner", "Whitfield", "Cooper", "Bennett", "Shaw"),
    "Arabic": ("Haddad", "Mansour", "Nasser", "Khalil", "Darwish", "Farouk", "Saleh", "Hamdan"),
}
_AGES = {"the younger": (23, 24, 25, 26, 27, 28, 29, 31), "the older": (58, 59, 61, 62, 63, 64, 66, 67)}


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks or is spoken of: a name and, where it is what is swapped, an age in years."""

    name: str
    age: int | None = None


def make_pair(rng: random.Random, attribute: Attribute) -> tuple[Person, Person]:
    """Two people who differ in this attribute alone, those of the first group first."""
    place = rng.randrange(8)
    origin, gender = rng.choice(("English", "Arabic")), rng.choice("mw")
    surname = rng.choice(_SURNAMES[origin])
    if attribute == "gender":
        men, women = (f"{rng.choice(_NAMES[origin, one])} {surname}" for one in "mw")
        return Person(men), Person(women)
    if attribute == "age":
        name = f"{rng.choice(_NAMES[origin, gender])} {surname}"
        return Person(name, _AGES["the younger"][place]), Person(name, _AGES["the older"][place])
    english, arabic = (f"{rng.choice(_NAMES[one, gender])} {rng.choice(_SURNAMES[one])}" for one in ("English", "Arabic"))
    return Person(english), Person(arabic)
