"""Cuts documents into passages on paragraph and sentence boundaries.

An index serves any model, so it cannot count with one model's tokenizer. It counts with `estimated_tokens`, which errs high:
SmolLM2's tokenizer counts 0.6 of it on the English encyclopedia and 0.85 on the French and Spanish ones, where no passage of
256 exceeds 256 (measured). Text that is not words is counted in bytes, above which no byte-level tokenizer can go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

PASSAGE_TOKENS = 256
TITLE_TOKENS = 48

_PIECE = re.compile(r"[A-Za-z]?[a-z]+|[A-Za-z]+|[^\sA-Za-z]|\s+")
_PARAGRAPH = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
# A full stop, question or exclamation mark, what closes after it, and then a space before something that may open a sentence.
# Possessive, and begun only where a run of marks begins: a page of full stops must not take the square of its length.
_SENTENCE_END = re.compile(r"""(?<![.!?…])[.!?…]++["'”’)\]»]*+(?=\s++["'“‘(\[«]*+[^\sa-z])|[。！？]++["”’」』）]*+|\n""")
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st mt ft jr sr vs etc approx ca cf eg ie e.g i.e no nos vol fig gen col lt capt sgt rev hon gov sen rep inc ltd co "
    "corp bros dept est fl pp ed eds u.s u.k u.n d.c a.m p.m b.c a.d jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
LONGEST_ABBREVIATION = 24  # characters looked at before a full stop
_LAST_WORD = re.compile(r"([^\s(\[\"“]+)\.$")


def estimated_tokens(text: str) -> int:
    """An estimate of tokens that errs high.

    A word in small letters (or capitalised) counts one token per three letters begun, per two beyond twelve letters; other runs of
    letters (capitals, identifiers, base64) one per letter; every other character its UTF-8 bytes.
    """
    total = 0
    for found in _PIECE.finditer(text):  # one by one, so that other threads get their turns meanwhile
        piece = found[0]
        if piece.isspace():
            total += len(piece) - 1 + piece.count("\n")
        elif not piece.isascii():
            total += len(piece.encode("utf-8", "replace"))
        elif piece[1:].islower() or len(piece) == 1:
            total += -(-len(piece) // (3 if len(piece) <= 12 else 2))
        else:
            total += len(piece)
    return total


def sentences(text: str) -> list[str]:
    """The sentences of a text, stripped, in order. Nothing but white space is lost.

    A full stop after an initial or a common abbreviation (`Dr.`, `U.S.`) ends no sentence; the doubt between "in the U.S." at the
    end of one and "the U.S. Army" is settled for the longer sentence.
    """
    found, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        if stays_open(text[max(start, end.end() - LONGEST_ABBREVIATION) : end.end()].rstrip()):
            continue
        if piece := text[start : end.end()].strip():
            found.append(piece)
        start = end.end()
    if rest := text[start:].strip():
        found.append(rest)
    return found


def stays_open(piece: str) -> bool:
    """Whether a full stop at the end of this piece belongs to an abbreviation."""
    last = _LAST_WORD.search(piece[-LONGEST_ABBREVIATION:])
    if last is None:
        return False
    word = last[1].lower()
    return word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha()) or re.fullmatch(r"(?:[a-z]\.)+[a-z]", word) is not None


def passages(title: str, text: str, most: int = PASSAGE_TOKENS) -> Iterator[str]:
    """Pieces of a text that, with the title in front, are estimated at no more than `most` tokens each.

    Whole paragraphs are kept together where they fit, then whole sentences; a sentence that is too long is cut between words,
    and only a word that is too long is cut inside.
    """
    room = most - estimated_tokens(title) - 2
    if room < 8:
        raise ValueError(f"a title of {estimated_tokens(title)} tokens leaves no room in passages of {most}")
    paragraphs = (" ".join(paragraph.split()) if "\n" not in paragraph else paragraph.strip() for paragraph in _PARAGRAPH.split(text))
    yield from _packed(_fitting(paragraphs, room), room)


def shortened_title(title: str, most: int = TITLE_TOKENS) -> str:
    """The title on one line, ending in an ellipsis where it is too long to stand before every passage."""
    title = " ".join(title.split())
    if estimated_tokens(title) <= most:
        return title
    title = title[: 4 * most]  # no text has more characters to a token than "abc abc abc"
    while estimated_tokens(title) > most - 3:
        title = title[:-1]
    return title.rstrip() + "…"


def _fitting(paragraphs: Iterable[str], room: int) -> Iterator[tuple[str, str]]:
    """Pieces that fit, each with what joins it to the piece before."""
    for paragraph in paragraphs:
        if not paragraph:
            continue
        if estimated_tokens(paragraph) <= room:
            yield paragraph, "\n"
            continue
        joint = "\n"
        for sentence in sentences(paragraph):
            for piece in [sentence] if estimated_tokens(sentence) <= room else _cut(sentence, room):
                yield piece, joint
                joint = " "


def _cut(sentence: str, room: int) -> Iterator[str]:
    """A sentence that is too long, cut between words; words that are too long are cut inside."""
    words = (part for word in sentence.split() for part in ([word] if estimated_tokens(word) <= room else _slices(word, room)))
    yield from _packed(((word, " ") for word in words), room)


def _slices(word: str, room: int) -> Iterator[str]:
    step = max(1, room // 4)  # a character is four bytes of UTF-8 at most, so at most four tokens
    for start in range(0, len(word), step):
        yield word[start : start + step]


def _packed(pieces: Iterable[tuple[str, str]], room: int) -> Iterator[str]:
    held, used = "", 0
    for piece, joint in pieces:
        size = estimated_tokens(piece) + len(joint)
        if held and used + size > room:
            yield held
            held, used = "", 0
        held, used = (held + joint + piece if held else piece), used + size
    if held:
        yield held
