"""Turns a question into search terms.

Words carry a question's meaning unevenly: "What is the capital of Peru?" is about *Peru* and asks for a *capital*; the rest is
grammar. Stop words are dropped, and names (capitalised, quoted or with digits, several words long where they run on) are told from
common words. Every word is searched as a quoted FTS5 string, so nothing a user types can act as query syntax.
"""

from __future__ import annotations

import bisect
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

# Irregular forms that questions and texts use for the same deed, by the stem of its verb.
IRREGULAR = {
    form: stem
    for stem, forms in {
        "writ": "wrote written", "build": "built", "mak": "made", "begin": "began begun", "lead": "led", "win": "won", "sing": "sang sung",
        "draw": "drew drawn", "fight": "fought", "speak": "spoke spoken", "hold": "held", "becom": "became", "teach": "taught", "ris": "rose risen",
        "fall": "fell fallen", "giv": "gave given", "tak": "took taken", "know": "knew known", "grow": "grew grown", "bear": "bore born borne",
        "di": "died dying", "lie": "lay lain", "flow": "flown", "sell": "sold", "bring": "brought", "think": "thought", "leav": "left",
    }.items()
    for form in forms.split()
}  # fmt: skip

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_STRETCH = re.compile(r"[^.!?\n]*(?:[.!?\n]|\Z)")
_INITIAL = re.compile(r"\b[A-Z]\.\Z")
_QUOTED = re.compile(r'"([^"]{2,80})"|“([^”]{2,80})”|«([^»]{2,80})»')
_SENTENCE_START = re.compile(r"(?:^|[.!?:;…]|\n)[\s\"'“”‘’«»()\[\]*_-]*\Z")
_WITHIN_NAME = re.compile(rf"[\s\-.’']*(?:(?:{'|'.join(sorted(PARTICLES))})[\s\-.’']+)*", re.IGNORECASE)


def folded(word: str) -> str:
    """Small letters without diacritics, as the index's own tokenizer folds them."""
    decomposed = unicodedata.normalize("NFKD", word)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).lower()


@functools.lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A folded word without its commonest English endings (plural, possessive, -ed, -ing, final e) or irregular form."""
    word = re.sub(r"['’]s?$", "", folded(word))
    if word in IRREGULAR:
        return IRREGULAR[word]
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
    text = " ".join(_asking(text)) or text
    if text.isupper():  # capitals tell nothing where there is nothing else
        text = text.lower()
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


def _asking(text: str) -> Iterator[str]:
    """The sentences that end in a question mark. An initial ("J. Verne") ends none."""
    begun = 0
    for stretch in _STRETCH.finditer(text):
        if stretch[0].endswith("?"):
            yield text[begun : stretch.end()].strip()
        if not _INITIAL.search(text, max(begun, stretch.end() - 3), stretch.end()):
            begun = stretch.end()


def _runs(text: str) -> Iterator[tuple[list[re.Match[str]], bool]]:
    """Runs of words that are one term, and whether it is a name."""
    quoted = [match.span() for match in _QUOTED.finditer(text)]
    words = list(WORD.finditer(text))
    held: list[re.Match[str]] = []
    for position, match in enumerate(words):
        name = _is_name(text, words, position, quoted)
        small = _is_small(match[0]) and not name
        if held and not small and not (name and _WITHIN_NAME.fullmatch(text, held[-1].end(), match.start())):
            yield held, True
            held = []
        if name:
            held.append(match)
        elif not small:
            yield [match], False
    if held:
        yield held, True


def _is_small(word: str) -> bool:
    """Whether a word only joins others. A particle with a capital is part of a name: "Lake Van", "El Salvador"."""
    return folded(word) in STOP_WORDS or (word.islower() and folded(word) in PARTICLES)


def _is_name(text: str, words: list[re.Match[str]], position: int, quoted: list[tuple[int, int]]) -> bool:
    match = words[position]
    word = match[0]
    around = bisect.bisect(quoted, (match.start(), 0)) - 1
    if around >= 0 and match.start() < quoted[around][1]:
        return not _is_small(word)
    before = text[max(0, match.start() - 24) : match.start()]
    opens = _SENTENCE_START.search(before) is not None and not stays_open(before.strip())
    if _is_small(word):  # "the symbol He": no pronoun has a capital there
        alone = not any(_is_beside(text, words, position, step) for step in (-1, 1))
        return word[0].isupper() and word != "I" and not opens and alone
    if any(c.isdigit() for c in word):
        return True
    if not any(c.isupper() for c in word):
        return False
    return not opens or _is_beside(text, words, position, 1)


def _is_beside(text: str, words: list[re.Match[str]], position: int, step: int) -> bool:
    """Whether the next word (or the one before, with a step of -1) is a capitalised one that joins this one to a name."""
    if not 0 <= position + step < len(words):
        return False
    first, second = sorted((words[position], words[position + step]), key=lambda match: match.start())
    other = words[position + step][0]
    return text[first.end() : second.start()] in (" ", "-", ". ", "’", "'") and other[0].isupper() and folded(other) not in STOP_WORDS


def quoted(text: str) -> str:
    """An FTS5 string: matched as a phrase of its words, whatever it holds."""
    return '"' + text.replace("\0", " ").replace('"', '""') + '"'


def rarity(hits: int, total: int) -> float:
    """Inverse document frequency in nats, never negative: ln(1 + (N - n + 0.5) / (n + 0.5))."""
    return math.log(1 + (total - hits + 0.5) / (hits + 0.5))
