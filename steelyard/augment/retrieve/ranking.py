"""Orders candidate passages by how well one of their sentences fits a question, and finds those sentences.

BM25 counts words anywhere in a passage. An answer mostly stands in one sentence that repeats the question's own words, often in its
order ("the capital of Brazil"), in an article about the thing asked for; so a sentence s under a title t is judged by

    fit = coverage + 0.25 run + 0.15 [t is a name in q] + 0.10 [s holds the kind of answer asked for] + 0.05 [s opens the passage]
          - 0.10 [q asks about now, s tells of the past] - 0.05 min(1, words of s / 40)
    coverage = sum of weight(w) over words w of q in s or t / sum of weight(w) over all words w of q
    run      = the same share, of the heaviest run of q's words that stands in s in one piece
    weight(w) = idf(w), times 1.5 where w is (part of) a name; half of it where the name is only part of a longer name ("Western
                Australia" when Australia is asked for)

The constants were set by hand on capitals, elements, cities, people and works of the English encyclopedia.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from steelyard.augment.retrieve.passages import sentences
from steelyard.augment.retrieve.query import STOP_WORDS, WORD, Query, folded, stem, stems
from steelyard.core.protocols import Passage

NAME_WEIGHT = 1.5
PART_OF_NAME = 0.5

_ASKS_TIME = re.compile(r"\b(when|year|date|century|decade|born|died?)\b", re.I)
_ASKS_NUMBER = re.compile(r"\b(how (many|much|old|long|far|tall|high|big|large)|number|population|year)\b", re.I)
_ASKS_PERSON = re.compile(r"\bwho(m|se)?\b", re.I)
_YEAR = re.compile(r"\b[12]\d{3}\b|\b\d{1,4} (BC|AD|BCE|CE)\b|\bcentury\b")
_NUMBER = re.compile(r"\d|\b(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|thousand|million|billion)\b")
_PERSON = re.compile(r"\b[A-Z][\w.'’-]+ (?:[a-z]+ )?[A-Z][\w'’-]+|\bby [A-Z]")
_NOW = re.compile(r"\b(is|are|does|do|has|have)\b", re.I)
_THEN = re.compile(r"\b(was|were|had|former|formerly|until|historical|ancient)\b", re.I)


@dataclass(frozen=True)
class Spot:
    """A sentence of a passage. `coverage` and `fit` are those of the module's text."""

    text: str
    coverage: float
    fit: float


@dataclass(frozen=True)
class Question:
    text: str
    query: Query
    weight: Mapping[str, float]
    names: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, text: str, query: Query, rarities: Sequence[float]):
        weight = {t.stem: max(r, 0.05) * (NAME_WEIGHT if t.name else 1.0) for t, r in zip(query.terms, rarities, strict=True)}
        return cls(text, query, weight, tuple(tuple(stems(name)) for name in query.names))


def spots(asked: Question, passage: Passage) -> list[Spot]:
    total = sum(asked.weight.values()) or 1.0
    in_title = shares(asked, passage.title)
    titled = tuple(stems(re.sub(r" \(.*\)$", "", passage.title))) in asked.names
    kinds = [found for asks, found in ((_ASKS_TIME, _YEAR), (_ASKS_NUMBER, _NUMBER), (_ASKS_PERSON, _PERSON)) if asks.search(asked.text)][
        :1
    ]
    now = bool(_NOW.search(asked.text)) and not _THEN.search(asked.text)
    out = []
    for number, sentence in enumerate(sentences(passage.text)):
        inside = shares(asked, sentence)
        words = list(WORD.finditer(sentence))
        cover = sum(w * max(inside.get(k, 0), in_title.get(k, 0)) for k, w in asked.weight.items()) / total
        own = sum(w * inside.get(k, 0) for k, w in asked.weight.items()) / total
        fit = cover + 0.25 * own * closeness(asked, sentence, words, inside) + 0.15 * titled + 0.05 * (number == 0) - 0.05 * min(1.0, len(words) / 40)
        fit += 0.1 * any(kind.search(sentence) for kind in kinds)
        fit -= 0.1 * bool(now and _THEN.search(sentence) and not re.search(r"\b(is|are)\b", sentence))
        out.append(Spot(sentence, cover, fit))
    return out


def shares(asked: Question, text: str) -> dict[str, float]:
    """Stem -> how much of a question's word stands in a text: 1, or a half where it is only part of a longer name."""
    words = list(WORD.finditer(text))
    found = [stem(w[0]) for w in words]
    have = {w: 1.0 for w in found if w in asked.weight}
    for name in asked.names:
        places = [i for i in range(len(found) - len(name) + 1) if tuple(found[i : i + len(name)]) == name]
        if places and not any(_stands_alone(text, words, i, len(name)) for i in places):
            have |= {w: PART_OF_NAME for w in name if w in have}
    return have


def _stands_alone(text, words, place, length) -> bool:
    def joined(first, second, other):
        gap = text[words[first].end() : words[second].start()]
        w = words[other][0]
        return gap in (" ", "-", "–") and w[0].isupper() and folded(w) not in STOP_WORDS

    before = place > 0 and joined(place - 1, place, place - 1)
    after = place + length < len(words) and joined(place + length - 1, place + length, place + length)
    return not (before or after)


def closeness(asked: Question, sentence: str, words: Sequence[re.Match], inside: Mapping[str, float]) -> float:
    """How near to one another a question's words stand in a sentence, in [0, 1]: 1 / (1 + half the price of what is between).

    Looks at the cheapest stretch that holds all the question's words that the sentence has. A foreign word costs 0.5, a capitalised one
    2, a comma or the like 1, another order than the question's 2; stop words are free.
    """
    if len(inside) < 2:
        return 0.0
    order = [key for key in asked.weight if key in inside]
    last: dict[str, int] = {}
    price, best = [0.0], float("inf")
    for place, word in enumerate(words):
        key = stem(word[0])
        foreign = 0.0 if key in inside or folded(word[0]) in STOP_WORDS else 2.0 if word[0][0].isupper() else 0.5
        cut = place and any(mark in ",;:()." for mark in sentence[words[place - 1].end() : word.start()])
        price.append(price[-1] + foreign + cut)
        if key in inside:
            last[key] = place
            if len(last) == len(inside):
                turned = 2.0 * (sorted(last, key=last.__getitem__) != order)
                start = min(last.values())
                best = min(best, turned + price[place + 1] - price[start + 1])
    return 1 / (1 + best / 2)


def ranked(asked: Question, candidates: Sequence[Passage]) -> list[Passage]:
    top = max((p.score for p in candidates), default=1.0) or 1.0
    scored = []
    for number, p in enumerate(candidates):
        found = spots(asked, p)
        best = max(found, key=lambda s: s.fit, default=None)
        if best:
            scored.append((-(best.fit + 0.05 * p.score / top), number, replace(p, score=best.coverage)))
    return [p for *_, p in sorted(scored, key=lambda x: x[:2])]
