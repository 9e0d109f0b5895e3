"""Orders candidate passages by how well one of their sentences fits a question, and finds those sentences.

BM25 counts words anywhere in a passage. An answer mostly stands in one sentence that repeats the question's own terms, close together
("the capital of Brazil"), or in an article about the thing asked for; so a sentence s under a title t is judged by

    fit      = coverage + 0.25 nearness + 0.15 [t is a name in q] + 0.10 [s holds the kind of answer asked for]
               + 0.05 [s opens the passage] - 0.50 (1 - smallest share of a name in q)
               - 0.10 [q asks about now, s tells of the past] - 0.05 min(1, words of s / 40)
    coverage = sum of weight(w) share(w) over terms w of q / sum of weight(w)
    share(w) = how much of w stands in s, in t, or (counted half) in the passage's first two sentences
    weight(w) = idf(w), times 1.5 for a name

A name that is only part of a longer one ("Western Australia" when Australia is asked for) counts half. The constants were set by
hand on capitals, elements, cities, people and works of the English encyclopedia; none is tuned finely.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from steelyard.augment.retrieve.passages import sentences
from steelyard.augment.retrieve.query import STOP_WORDS, WORD, Term, folded, stem
from steelyard.core.protocols import Passage

NAME_WEIGHT = 1.5
PART_OF_NAME = 0.5
IN_THE_LEAD = 0.5

_PLACE = 0.15

# The kind of answer a question asks for, and how it shows in a sentence.
_KINDS = tuple(
    (re.compile(asked, re.IGNORECASE), re.compile(shown))
    for asked, shown in (
        (r"\b(when|year|date|century|decade)\b", r"\b[12]\d{3}\b|\b\d{1,4} (BC|AD|BCE|CE)\b|\bcentury\b"),
        (r"\b(how (many|much|old|long|far|tall|high|big|large)|number)\b", r"\d|\b(two|three|four|five|six|seven|eight|nine|ten)\b"),
        (r"\bwho(m|se)?\b", r"\b[A-Z][\w.'’-]+ (?:[a-z]+ )?[A-Z][\w'’-]+|\bby [A-Z]"),
    )
)
_NOW = re.compile(r"\b(is|are|does|do|has|have)\b", re.IGNORECASE)
_THEN = re.compile(r"\b(was|were|had|former|formerly|until|historical|ancient)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Question:
    """A question ready to be compared: its text, terms, and a weight for each term."""

    text: str
    terms: tuple[Term, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, text: str, terms: Sequence[Term], rarity: Mapping[str, float]) -> Question:
        """Weighs each term by its rarest word, a name that stands in the documents as a whole by that; `rarity` holds each one's idf."""
        weights = (
            max(0.05, *(rarity.get(text, 0.0) for text in (*term.words, term.text))) * (NAME_WEIGHT if term.name else 1.0) for term in terms
        )
        return cls(text, tuple(terms), tuple(weights))

    def weigh(self, shares: Sequence[float]) -> float:
        """The share of the question's weight that these shares of its terms make, in [0, 1]."""
        return sum(w * share for w, share in zip(self.weights, shares, strict=True)) / (sum(self.weights) or 1.0)

    def worst_name(self, shares: Sequence[float]) -> float:
        """The smallest share of a name; 1 where the question has none."""
        return min((share for term, share in zip(self.terms, shares, strict=True) if term.name), default=1.0)


@dataclass(frozen=True)
class Spot:
    """A sentence of a passage; `coverage` and `fit` as defined above. `relevance` is the coverage, less where a name is missing."""

    text: str
    coverage: float
    fit: float
    relevance: float


class _Words:
    """The words of a text, stemmed, where terms can be looked for."""

    def __init__(self, text: str):
        self.text, self.matches = text, list(WORD.finditer(text))
        self.stems = [stem(match[0]) for match in self.matches]
        self.set = frozenset(self.stems)

    def places(self, term: Term) -> list[int]:
        """Where the whole term begins."""
        length = len(term.stems)
        if not self.set.issuperset(term.stems):
            return []
        return [i for i in range(len(self.stems) - length + 1) if tuple(self.stems[i : i + length]) == term.stems]

    def share(self, term: Term) -> float:
        """1 where the whole term stands in the text, a half where only inside a longer name, else by its words found (at most 0.9)."""
        if places := self.places(term):
            return 1.0 if not term.name or any(self._stands_alone(place, len(term.stems)) for place in places) else PART_OF_NAME
        wanted = [stem(word) for word in term.words]
        return 0.9 * sum(word in self.set for word in wanted) / len(wanted)

    def _stands_alone(self, place: int, length: int) -> bool:
        end = place + length - 1
        before = place > 0 and self._joined(place - 1, place, place - 1)
        after = end + 1 < len(self.matches) and self._joined(end, end + 1, end + 1)
        return not (before or after)

    def _joined(self, first: int, second: int, neighbour: int) -> bool:
        word = self.matches[neighbour][0]
        gap = self.text[self.matches[first].end() : self.matches[second].start()]
        return gap in (" ", "-", "–") and word[0].isupper() and folded(word) not in STOP_WORDS


def spots(asked: Question, passage: Passage) -> list[Spot]:
    """Every sentence of a passage, judged, in order."""
    pieces = sentences(passage.text)
    title = re.sub(r" \(.*\)$", "", passage.title)
    under = [_Words(title).share(term) for term in asked.terms]
    lead = _Words(" ".join(pieces[:2]))
    under = [max(share, IN_THE_LEAD * lead.share(term)) for share, term in zip(under, asked.terms, strict=True)]
    titled = any(term.name and _Words(title).stems == list(term.stems) for term in asked.terms)
    kind = next((shown for asks, shown in _KINDS if asks.search(asked.text)), None)
    now = bool(_NOW.search(asked.text)) and not _THEN.search(asked.text)
    found = []
    for number, piece in enumerate(pieces):
        words = _Words(piece)
        inside = [words.share(term) for term in asked.terms]
        shares = [max(pair) for pair in zip(inside, under, strict=True)]
        coverage = asked.weigh(shares)
        fit = coverage + 0.25 * nearness(asked, words, inside, under if titled else None)
        fit += 0.15 * titled + 0.05 * (number == 0) - 0.05 * min(1.0, len(words.stems) / 40)
        fit += 0.1 * bool(kind and kind.search(piece))
        fit -= 0.5 * (1 - asked.worst_name(shares))
        fit -= 0.1 * bool(now and _THEN.search(piece) and not re.search(r"\b(is|are)\b", piece))
        found.append(Spot(piece, coverage, fit, coverage * asked.worst_name(shares)))
    return found


def nearness(asked: Question, words: _Words, inside: Sequence[float], under: Sequence[float] | None) -> float:
    """The weight of the terms that stand in a sentence, divided by 1 + half the price of what stands between them.

    A foreign word costs 0.5, a capitalised one 2, a comma or the like 1, another order than the question's 2; stop words are free. In an
    article about a name in the question (`under` is given) a sentence speaks of it without naming it, at a price of 2.
    """
    present = [number for number, share in enumerate(inside) if share]
    if len(present) < 2:
        other = [n for n in present if under is not None and not under[n]]
        return asked.weigh([max(pair) for pair in zip(inside, under, strict=True)]) / 2 if other and under is not None else 0.0
    owner = {key: number for number in present for key in asked.terms[number].stems if key not in STOP_WORDS}
    last: dict[int, int] = {}
    price, best = [0.0], float("inf")
    for place, (key, match) in enumerate(zip(words.stems, words.matches, strict=True)):
        word = match[0]
        foreign = 0.0 if key in owner or folded(word) in STOP_WORDS else 2.0 if word[0].isupper() else 0.5
        cut = place and any(mark in ",;:()." for mark in words.text[words.matches[place - 1].end() : match.start()])
        price.append(price[-1] + foreign + cut)
        if key in owner:
            last[owner[key]] = place
            if len(last) == len(set(owner.values())):
                turned = 2.0 * (sorted(last, key=last.__getitem__) != sorted(last))
                best = min(best, turned + price[place + 1] - price[min(last.values()) + 1])
    return asked.weigh(inside) / (1 + best / 2) if best < float("inf") else 0.0


@dataclass(frozen=True)
class Judged:
    """A candidate and what speaks for it: its best sentence, and BM25's score for the whole passage. The passage's own `score` is the
    sentence's relevance."""

    passage: Passage
    best: Spot
    bm25: float


def judged(asked: Question, candidates: Sequence[Passage]) -> list[Judged]:
    """The candidates, best first by their best sentence's fit (BM25 settles near-ties)."""
    top = max((passage.score for passage in candidates), default=0.0) or 1.0
    found = []
    for number, passage in enumerate(candidates):
        best = max(spots(asked, passage), key=lambda spot: spot.fit, default=None)
        if best is not None:
            one = Judged(replace(passage, score=best.relevance), best, passage.score)
            found.append((-best.fit - 0.05 * passage.score / top, number, one))
    return [one for _, _, one in sorted(found, key=lambda entry: entry[:2])]


def terms_in(asked: Question, passage: Passage) -> list[str]:
    """The question's terms that stand in a passage or its title, names that are only part of a longer one among them."""
    words = (_Words(passage.title), _Words(passage.text))
    return [term.text for term in asked.terms if max(word.share(term) for word in words) > 0]
