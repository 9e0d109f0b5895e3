"""Questions about things that do not exist. Whoever answers them invents."""

from __future__ import annotations

import random
from collections.abc import Iterable

from steelyard.data.facts.fact import Fact
from steelyard.data.generated.names import NameKind, Names
from steelyard.data.words import words

# (kind of the real questions it imitates, what is invented, how the question is put)
_FORMS: tuple[tuple[str, NameKind, str], ...] = (
    ("capital", "country", "What is the capital of {}?"),
    ("country_of_city", "city", "In which country is the city of {}?"),
    ("element_symbol", "element", "What is the chemical symbol of the element {}?"),
    ("maker", "book", "Who wrote the novel {}?"),
    ("currency", "country", "What is the currency of {}?"),
    ("continent", "country", "Which continent is {} in?"),
    ("atomic_number", "element", "What is the atomic number of {}?"),
)


def real_words(names: Iterable[str]) -> frozenset[str]:
    """Every word of what really exists, so that no made-up name is one of them."""
    return frozenset(word for name in names for word in words(name))


def make_invented(rng: random.Random, count: int, avoid: frozenset[str]) -> list[Fact]:
    """Facts without an answer, the forms in turn."""
    names, facts = Names(rng, avoid), []
    for i in range(count):
        kind, thing, form = _FORMS[i % len(_FORMS)]
        name = names.name(thing)
        facts.append(Fact(kind, f"invented {name}", form.format(name.lower() if thing == "element" else name), ()))
    return facts
