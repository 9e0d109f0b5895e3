"""Names of things that do not exist: places, people, firms, elements, species, machines.

Names are put together from syllables, so that they are pronounceable, look like names of their kind, and were never
written about. `Names` refuses what it is told to avoid (real countries, cities, articles) and never repeats itself.
"""

from __future__ import annotations

import random
from collections.abc import Container
from typing import Literal

NameKind = Literal["country", "city", "element", "person", "company", "animal", "machine", "book"]

_STARTS = ["B", "Br", "D", "Dr", "F", "G", "Gl", "H", "J", "K", "Kr", "L", "M", "N", "P", "Pr", "Qu", "R", "S", "Sk", "T", "Tr", "V", "Z"]
_MIDDLES = ["a", "e", "i", "o", "u", "ai", "au", "ei", "ia"]
_LINKS = ["l", "r", "n", "m", "v", "z", "d", "lt", "nd", "rv", "lm", "rk", "st", "zr"]
_ENDINGS: dict[str, tuple[str, ...]] = {
    "country": ("ovia", "astan", "ania", "uria", "esia", "oria", "eland", "unda"),
    "city": ("ograd", "avik", "eport", "unga", "osk", "aburg", "inton", "uvo"),
    "element": ("ium", "onium", "adium", "ethium", "isium"),
    "animal": ("ot", "umi", "ara", "olet", "iquil", "aboo"),
    "company": ("ex", "ix", "ora", "ent", "ova", "unto"),
    "machine": ("otron", "ador", "ometer", "alyzer", "ivane"),
}
_GIVEN = (
    "Alma",
    "Bruno",
    "Clara",
    "Dario",
    "Edith",
    "Felix",
    "Greta",
    "Hugo",
    "Irene",
    "Jonas",
    "Karin",
    "Leo",
    "Mira",
    "Nils",
    "Olga",
    "Pavel",
    "Rosa",
    "Simon",
    "Tilda",
    "Viktor",
)
_SURNAME_ENDINGS = ("ovan", "essen", "ardt", "inski", "oulis", "emark", "ural", "abeck", "ettini", "ogard")
_COMPANY_FORMS = ("Works", "Industries", "Foods", "Textiles", "Instruments", "Lines")
_BOOK_NOUNS = ("Lantern", "Orchard", "Staircase", "Harbour", "Clockmaker", "Winter", "Glacier", "Ferryman", "Almanac", "Quarry")


class Names:
    """A source of made-up names.

    Args:
        rng: where the choices come from.
        avoid: names in lower case that must not be given (anything with `in`).
    """

    def __init__(self, rng: random.Random, avoid: Container[str] = ()):
        self._rng, self._avoid, self._given = rng, avoid, set[str]()

    def name(self, kind: NameKind) -> str:
        """A name of this kind that is not to be avoided and was not given before."""
        for _ in range(10_000):
            name = self._make(kind)
            parts = [name.lower(), *(part.lower() for part in name.split())] if kind != "book" else [name.lower()]
            # Given names and company forms are ordinary words; only what was put together from syllables must be new.
            ordinary = {word.lower() for word in (*_GIVEN, *_COMPANY_FORMS)}
            if name not in self._given and not any(part in self._avoid for part in parts if part not in ordinary):
                self._given.add(name)
                return name
        raise ValueError(f"no unused name for a {kind} is left")

    def _stem(self, syllables: int) -> str:
        rng = self._rng
        stem = rng.choice(_STARTS)
        for _ in range(syllables):
            stem += rng.choice(_MIDDLES) + rng.choice(_LINKS)
        return stem

    def _make(self, kind: NameKind) -> str:
        rng = self._rng
        if kind == "person":
            return f"{rng.choice(_GIVEN)} {self._stem(1)}{rng.choice(_SURNAME_ENDINGS)}"
        if kind == "company":
            return f"{self._stem(1)}{rng.choice(_ENDINGS['company'])} {rng.choice(_COMPANY_FORMS)}"
        if kind == "book":
            return f"The {rng.choice(_BOOK_NOUNS)} of {self._stem(1)}{rng.choice(_ENDINGS['city'])}"
        return self._stem(1) + rng.choice(_ENDINGS[kind])
