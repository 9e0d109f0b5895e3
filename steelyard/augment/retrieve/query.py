"""Turns a question into search terms.

Words carry a question's meaning unevenly: "What is the capital of Peru?" is about *Peru* and asks for a *capital*; the rest is
grammar. Stop words are dropped, names (capitalised, quoted, with digits) are told from common words, and neighbouring words are
kept as phrases. Every term is a quoted FTS5 string, so nothing a user types can act as query syntax.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from dataclasses import dataclass

MOST_TERMS = 48

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

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_QUOTED = re.compile(r'"([^"]{2,80})"|“([^”]{2,80})”|«([^»]{2,80})»')
_SENTENCE_START = re.compile(r"(?:^|[.!?:;…]|\n)[\s\"'“”‘’«»()\[\]*_-]*$")


def folded(word: str) -> str:
    """Small letters without diacritics, as the index's own tokenizer folds them."""
    decomposed = unicodedata.normalize("NFKD", word)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).lower()


@functools.lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A folded word without its commonest English endings; a little coarser than none, a little finer than Porter's."""
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
            return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz" else word
    return word[:-1] if len(word) > 4 and word.endswith("e") else word


@dataclass(frozen=True)
class Term:
    """One word of a question that counts. `name` tells names (of people, places, things) and numbers from common words."""

    text: str
    stem: str
    name: bool


@dataclass(frozen=True)
class Query:
    """What to look for.

    Attributes:
        terms: the words that count, each once, in the question's order.
        names: runs of neighbouring name words (`Marie Curie`), as written.
        phrase: stems of all words in order, stop words too, for matching runs such as "capital of Peru".
    """

    terms: tuple[Term, ...]
    names: tuple[str, ...]
    phrase: tuple[str, ...]


def stems(text: str) -> list[str]:
    """The stems of all words of a text, in order."""
    return [stem(word) for word in WORD.findall(text)]


def parse(question: str) -> Query:
    """The query behind a question.

    A capitalised word is a name unless it opens a sentence and no capitalised word follows it; a word with a digit is one too.
    Where everything is a stop word ("Who are you?", "The Who"), stop words that are capitalised mid-sentence count.
    At most 48 different terms are kept, names first, so that a pasted page does not become a query of thousands of terms.
    """
    question = unicodedata.normalize("NFC", question.replace("\0", " "))
    quoted = {span for match in _QUOTED.finditer(question) for span in range(match.start() + 1, match.end() - 1)}
    found: dict[str, Term] = {}
    runs: list[list[re.Match]] = []
    words = list(WORD.finditer(question))
    for position, match in enumerate(words):
        word = match[0]
        following = words[position + 1] if position + 1 < len(words) else None
        opens = bool(_SENTENCE_START.search(question[max(0, match.start() - 24) : match.start()]))
        capital = word[0].isupper() or any(c.isupper() for c in word[1:])
        beside = following is not None and following[0][0].isupper() and question[match.end() : following.start()].strip() in ("", "-")
        stop = folded(word) in STOP_WORDS
        name = match.start() in quoted or any(c.isdigit() for c in word) or (capital and (not opens or (beside and not stop)))
        if stop and not (name and match.start() in quoted):
            continue
        key = stem(word)
        if not key:
            continue
        if key not in found or (name and not found[key].name):
            found[key] = Term(word, key, name)
        if name:
            gap = question[runs[-1][-1].end() : match.start()] if runs else ""
            if runs and re.fullmatch(
                r"[\s\-.’']*(?:(?:of|the|and|de|la|le|las|los|da|do|dos|du|des|del|es|von|van|der|den|al|el|bin|ibn)\s+)*", gap
            ):
                runs[-1].append(match)
            else:
                runs.append([match])
    terms = sorted(found.values(), key=lambda term: not term.name)[:MOST_TERMS]
    kept = {term.stem for term in terms}
    names = tuple(dict.fromkeys(question[run[0].start() : run[-1].end()] for run in runs))
    ordered = tuple(term for term in found.values() if term.stem in kept)
    return Query(ordered, names[:MOST_TERMS], tuple(stem(word[0]) for word in words[: 4 * MOST_TERMS]))


def quoted(text: str) -> str:
    """An FTS5 string: matched as a phrase of its words, whatever it holds."""
    return '"' + text.replace("\0", " ").replace('"', '""') + '"'


def rarity(hits: int, total: int) -> float:
    """Inverse document frequency in nats, never negative: ln(1 + (N - n + 0.5) / (n + 0.5))."""
    return math.log(1 + (total - hits + 0.5) / (hits + 0.5))
