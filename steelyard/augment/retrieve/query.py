"""Turns a question into search terms.

Words carry a question's meaning unevenly: "What is the capital of Peru?" is about *Peru* and asks for a *capital*; the rest is
grammar. Stop words are dropped, and names (capitalised, quoted or with digits, several words long where they run on) are told from
common words. Every word is searched as a quoted FTS5 string, so nothing a user types can act as query syntax.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from steelyard.augment.retrieve.passages import stays_open

MOST_WORDS = 48

STOP_WORDS = frozenset(
    "a about above after again all also although am an and any are as at be because been before being both but by can could did do does "
    "doing done each either else ever every few for from had has have having he her hers him his how however i if in into is it its just "
    "may me might mine more most much must my neither no nor not of off often on once one only or other our ours out over own please per "
    "quite rather shall she should since so some such than that the their theirs them then there these they this those through thus to "
    "too under until up upon us very was we were what when where whether which while who whom whose why will with within without would "
    "yes yet you your yours d ll m re s t ve "
    # Words that ask for an answer rather than say what it is about.
    "answer answers ask asked briefly call called choose complete consider correct describe exact exactly explain find following give "
    "given identify know known list mean means mention name named names question reply respond say sentence short state tell think true "
    "word words write".split()
)
# Small words inside names; alone they are no terms either.
PARTICLES = frozenset("of the and de la le las los da do dos du des del es von van der den al el bin ibn".split())

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_QUESTION = re.compile(r"[^.!?\n]*(?:\b[A-Z]\.[^.!?\n]*)*\?")
_QUOTED = re.compile(r'"([^"]{2,80})"|“([^”]{2,80})”|«([^»]{2,80})»')
_SENTENCE_START = re.compile(r"(?:^|[.!?:;…]|\n)[\s\"'“”‘’«»()\[\]*_-]*\Z")
_WITHIN_NAME = re.compile(rf"[\s\-.’']*(?:(?:{'|'.join(sorted(PARTICLES))})[\s\-.’']+)*", re.IGNORECASE)


def folded(word: str) -> str:
    """Small letters without diacritics, as the index's own tokenizer folds them."""
    decomposed = unicodedata.normalize("NFKD", word)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).lower()


@functools.lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A folded word without its commonest English endings (plural, possessive, -ed, -ing, final e)."""
    word = re.sub(r"['’]s?$", "", folded(word))
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ses", "xes", "ches", "shes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        if len(word) > len(ending) + 3 and word.endswith(ending):
            word = word[: -len(ending)]
            return word[:-1] if word[-1] == word[-2] and word[-1] not in "lsz" else word
    return word[:-1] if len(word) > 4 and word.endswith("e") else word


def stems(text: str) -> list[str]:
    """The stems of all words of a text, in order."""
    return [stem(word) for word in WORD.findall(text)]


@dataclass(frozen=True)
class Term:
    """Something a question is about: a common word, or a name of one or more words.

    Attributes:
        text: as written.
        stems: of all its words in order, with the small words inside a name ("Democratic Republic of the Congo").
        words: those that are searched, without these small words.
        name: whether it names a person, place, thing or number.
    """

    text: str
    stems: tuple[str, ...]
    words: tuple[str, ...]
    name: bool


def parse(text: str) -> tuple[Term, ...]:
    """The terms of a question, each once, in its order.

    Where a text asks something ("...?"), only the sentences that ask are read, so that "Answer in one word." is not searched for. A
    capitalised word is a name unless it opens a sentence with no capitalised word after it; neighbouring name words are one name. At
    most 48 words are kept, names first, so that a pasted page does not become a query of thousands of words.
    """
    text = unicodedata.normalize("NFC", text.replace("\0", " "))
    text = " ".join(match[0].strip() for match in _QUESTION.finditer(text)) or text
    found: dict[tuple[str, ...], Term] = {}
    for run, name in _runs(text):
        span = text[run[0].start() : run[-1].end()]
        inner = tuple(stem(word) for word in WORD.findall(span))
        words = tuple(word[0] for word in run)
        if all(inner):
            found.setdefault(inner, Term(span, inner, words, name))
    kept, budget = set(), MOST_WORDS
    for term in sorted(found.values(), key=lambda term: not term.name):
        budget -= len(term.words)
        if budget < 0:
            break
        kept.add(term.stems)
    return tuple(term for key, term in found.items() if key in kept)


def _runs(text: str) -> Iterator[tuple[list[re.Match[str]], bool]]:
    """Runs of words that are one term, and whether it is a name."""
    quoted = [match.span() for match in _QUOTED.finditer(text)]
    words = list(WORD.finditer(text))
    held: list[re.Match[str]] = []
    for position, match in enumerate(words):
        name = _is_name(text, words, position, quoted)
        small = folded(match[0]) in STOP_WORDS or folded(match[0]) in PARTICLES
        if held and not small and not (name and _WITHIN_NAME.fullmatch(text, held[-1].end(), match.start())):
            yield held, True
            held = []
        if name:
            held.append(match)
        elif not small:
            yield [match], False
    if held:
        yield held, True


def _is_name(text: str, words: list[re.Match[str]], position: int, quoted: list[tuple[int, int]]) -> bool:
    match = words[position]
    word = match[0]
    stop = folded(word) in STOP_WORDS or folded(word) in PARTICLES
    if any(start < match.start() < end for start, end in quoted):
        return not stop
    if stop:
        return False
    if any(c.isdigit() for c in word):
        return True
    if not any(c.isupper() for c in word):
        return False
    before = text[max(0, match.start() - 24) : match.start()]
    if not _SENTENCE_START.search(before) or stays_open(before.strip()):
        return True
    following = words[position + 1] if position + 1 < len(words) else None
    beside = following is not None and text[match.end() : following.start()] in (" ", "-", ". ", "’", "'")
    return beside and following is not None and following[0][0].isupper() and folded(following[0]) not in STOP_WORDS


def quoted(text: str) -> str:
    """An FTS5 string: matched as a phrase of its words, whatever it holds."""
    return '"' + text.replace("\0", " ").replace('"', '""') + '"'


def rarity(hits: int, total: int) -> float:
    """Inverse document frequency in nats, never negative: ln(1 + (N - n + 0.5) / (n + 0.5))."""
    return math.log(1 + (total - hits + 0.5) / (hits + 0.5))
