"""Text as comparable words, and names found among them.

Two spellings of a name compare equal when they differ only in case, diacritics, articles, possessives or punctuation:
"The Hague" = "hague", "São Tomé" = "sao tome", "Washington, D.C." = "washington dc".
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

_ARTICLES = frozenset({"the", "a", "an"})
# Letters that Unicode does not decompose, though people type them without their stroke.
_PLAIN = str.maketrans({"ø": "o", "đ": "d", "ð": "d", "ł": "l", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th", "ħ": "h", "ŧ": "t"})
_US = re.compile(r"\bU\.?S\b\.?")  # before case is lost: "US" is a country, "us" is not
_POSSESSIVE = re.compile(r"['’]s\b", re.IGNORECASE)
_APOSTROPHES = re.compile(r"['’‘ʼʻ`´]")
_INITIALS = re.compile(r"\b(?:\w\.){2,}")
_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"[.!?](?=[\"'”’)*\]]*(?:\s|$))|[。！？]")
_ABBREVIATIONS = frozenset(
    [
        "st",
        "mt",
        "mr",
        "mrs",
        "ms",
        "dr",
        "jr",
        "sr",
        "vs",
        "ft",
        "no",
        "etc",
        "prof",
        "gen",
        "lt",
        "col",
        "sgt",
        "ca",
        "approx",
        "e.g",
        "i.e",
    ]
)


def normalise(text: str) -> str:
    """Words in lower case without diacritics, articles and punctuation, joined by single spaces."""
    return " ".join(words(text))


def words(text: str) -> tuple[str, ...]:
    """The comparable words of a text, in order."""
    return tuple(word for word in _tokens(text) if word not in _ARTICLES)


def _tokens(text: str) -> list[str]:
    text = unicodedata.normalize("NFKC", _POSSESSIVE.sub("", _US.sub("USA", text)))  # before case goes: the sign "℠" is "SM"
    text = unicodedata.normalize("NFKD", text.casefold().translate(_PLAIN))
    # Only the marks of Latin, Greek and Cyrillic go: in other scripts they are vowels.
    text = "".join(c for c in text if not "\u0300" <= c <= "\u036f")
    text = _APOSTROPHES.sub("", unicodedata.normalize("NFC", text))
    text = _INITIALS.sub(lambda match: match.group().replace(".", ""), text)
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    """Sentences of a text. Initials and the commonest abbreviations ("St.") do not end one."""
    pieces, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        before = text[max(start, match.start() - 20) : match.start()].rsplit(None, 1)[-1:] or [""]
        last = before[0].lower().strip("(\"'")
        if match.group() == "." and (last in _ABBREVIATIONS or re.fullmatch(r"(?:\w\.)*[^\W\d_]", last)):
            continue
        pieces.append(text[start : match.end()].strip())
        start = match.end()
    pieces.append(text[start:].strip())
    return [piece for piece in pieces if piece]


@dataclass(frozen=True, slots=True)
class Mention:
    """A name found in a text: its normal form, and the words [start, end) it covers."""

    name: str
    start: int
    end: int


class Vocabulary:
    """Names that can be looked for together; the longest name wins, so "Guinea" is not found in "Equatorial Guinea"."""

    def __init__(self, names: Iterable[str]):
        self._by_first: dict[str, list[tuple[str, ...]]] = {}
        for name in sorted({words(name) for name in names} - {()}, key=lambda name: (-len(name), name)):
            self._by_first.setdefault(name[0], []).append(name)

    def find(self, text_words: tuple[str, ...]) -> list[Mention]:
        """Every mention, from left to right, none overlapping another."""
        found, at = [], 0
        while at < len(text_words):
            for name in self._by_first.get(text_words[at], ()):
                if text_words[at : at + len(name)] == name:
                    found.append(Mention(" ".join(name), at, at + len(name)))
                    at += len(name)
                    break
            else:
                at += 1
        return found


@functools.lru_cache(maxsize=256)
def vocabulary(names: tuple[str, ...]) -> Vocabulary:
    """A vocabulary, remembered: the same competitors are looked for in every answer of a kind."""
    return Vocabulary(names)


def names_any(text: str, names: Iterable[str]) -> bool:
    """Whether a text names any of these, as whole words."""
    return bool(Vocabulary(names).find(words(text)))
