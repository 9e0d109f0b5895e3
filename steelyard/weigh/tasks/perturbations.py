"""The same question, asked as people also ask: in other case, without its punctuation, with typos, with words out of place, in other words.

Each perturbation takes a question and a random source and gives another text that asks for the same, or None where it has nothing to
change. What the truth hangs on stays as it is, letter for letter:

* words that hold a digit, and number words (`three`, `half`): another number is another question;
* negations and comparisons (`not`, `never`, `least`, `before`, ...);
* names: words with a capital inside a sentence, and words all in capitals;
* whatever is quoted, in backticks, braces, angle brackets or an address;
* the words of the reference (the right answer, the choices, their rivals): a misspelt choice would be another reference.

Case alone changes names too, because a name in small letters is the same name; not so abbreviations (`US`), symbols (`He`) and digits.
Typos need an alphabet with case (Latin, Greek, Cyrillic, ...), at least four letters, and keep a word's first and last letter; a typo never makes
another word of the question. The placebo keeps every word and adds white space at the end (at the beginning of raw text, whose end joins
its continuation), so what it moves is what no meaning moves.

Ref.: M. Ribeiro et al., arXiv:2005.04118 (invariance tests); K. Zhu et al., arXiv:2306.04528.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from steelyard.data.words import words

PLACEBO = "placebo"
TYPO_SHARE = 0.25  # of the words that may have one; at least one has
SWAPS = 0.2  # pairs of neighbours that change places, per word that may; at least one does

_PIECES = re.compile(r"\w+(?:['’\-]\w+)*|\s+|[^\w\s]")
_KEPT_SPANS = re.compile(r"`[^`]*`|\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|\{[^{}]*\}|<[^<>\n]*>|\bhttps?://\S+|\S+@\S+\.\S+")
_NUMBERS = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen "
    "twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion dozen half quarter third double twice triple "
    "first second fourth fifth sixth seventh eighth ninth tenth last".split()
)
_TURNS = frozenset(
    "no not never none nor neither without except unless cannot nothing nobody more most less least fewer fewest before after above below "
    "over under always only but from to than and or if same different other larger smaller older younger higher lower longer shorter".split()
)
_MARKS = frozenset(",;:.!?…。，、；：！？।")
_ENDS = ("?", ".", "!")

_LEADS = (
    "Could you tell me the following? {}",
    "I would like to know this: {}",
    "Here is a question for you. {}",
    "Please help me with this. {}",
    "Somebody asked me this. {}",
)


@dataclass(frozen=True)
class Piece:
    """A word, a stretch of white space, or one other character; `kept` where it has to stay as it is."""

    text: str
    word: bool
    kept: bool
    cased: bool  # whether its case may change


def pieces(text: str, protected: Collection[str] = ()) -> list[Piece]:
    """A text in pieces that join to it again.

    Args:
        text: the question.
        protected: words, as `data.words.words` writes them, that stay.
    """
    spans = [match.span() for match in _KEPT_SPANS.finditer(text)]
    out: list[Piece] = []
    opens = True  # the next word begins a sentence
    for match in _PIECES.finditer(text):
        piece = match.group()
        word = piece[0].isalnum() or piece[0] == "_"
        if not word:
            opens = opens and piece.isspace() or piece in _MARKS and piece not in ",;" or "\n" in piece
            out.append(Piece(piece, False, _inside(match.start(), spans), False))
            continue
        fixed = _inside(match.start(), spans) or any(letter.isdigit() or letter.isnumeric() for letter in piece) or "_" in piece
        capital = piece[0].isupper() and (not opens or piece[1:] != piece[1:].lower())
        plain = words(piece)
        meaning = any(part in protected or part in _NUMBERS or part in _TURNS for part in (*plain, piece.lower()))
        kept = fixed or capital or meaning or any(part in _NUMBERS for part in piece.lower().split("-")) or "n't" in piece.replace("’", "'")
        symbol = len(piece) < 3 and piece[0].isupper() or len(piece) > 1 and piece.isupper()
        same = len(piece.upper()) == len(piece) and piece.upper().lower() == piece.lower()
        out.append(Piece(piece, True, kept, not fixed and not symbol and same))
        opens = False
    return out


def _inside(place: int, spans: Collection[tuple[int, int]]) -> bool:
    return any(low <= place < high for low, high in spans)


Perturb = Callable[[str, random.Random, Collection[str]], str | None]


def case(text: str, rng: random.Random, protected: Collection[str] = ()) -> str | None:
    """All in small letters, or all in capitals."""
    change = rng.choice((str.lower, str.upper))
    for made in (change, str.upper):  # a text in small letters has no other way
        found = "".join(made(piece.text) if piece.cased else piece.text for piece in pieces(text, protected))
        if found != text:
            return found
    return None


def punctuation(text: str, rng: random.Random, protected: Collection[str] = ()) -> str | None:
    """Without its marks, or with the last one several times. Marks between digits, inside quotes and after a cue (`Answer:`) stay."""
    found = pieces(text, protected)
    marks = [place for place, piece in enumerate(found) if not piece.kept and piece.text in _MARKS and _free(found, place)]
    if not marks:
        return None
    last = marks[-1]
    if rng.random() < 0.5 and found[last].text in _ENDS:
        return "".join(piece.text * (3 if place == last else 1) for place, piece in enumerate(found))
    return "".join(piece.text for place, piece in enumerate(found) if place not in marks)


def _free(found: list[Piece], place: int) -> bool:
    """Whether a mark may go: what follows is white space or the end, and it is no cue at the end of a line."""
    after = found[place + 1] if place + 1 < len(found) else None
    cue = found[place].text in ":：" and (after is None or "\n" in after.text or place + 2 >= len(found))
    before = found[place - 1] if place else None
    abbreviation = before is not None and len(before.text) == 1 and before.text.isupper()
    wide = found[place].text in "。，、；：！？"
    return not cue and not abbreviation and (after is None or wide or after.text.isspace())


def typos(text: str, rng: random.Random, protected: Collection[str] = ()) -> str | None:
    """A slip of the finger in a quarter of the words: two inner letters change places, one is missing, or one is there twice."""
    found = pieces(text, protected)
    known = {piece.text.lower() for piece in found if piece.word} | set(protected)
    able = [place for place, piece in enumerate(found) if piece.word and not piece.kept and _typable(piece.text)]
    chosen = rng.sample(able, max(1, round(TYPO_SHARE * len(able)))) if able else []
    out = [piece.text for piece in found]
    for place in sorted(chosen):
        out[place] = _slip(out[place], rng, known)
    made = "".join(out)
    return made if made != text else None


def _typable(word: str) -> bool:
    return len(word) > 3 and word.isalpha() and all(letter.lower() != letter.upper() for letter in word)


def _slip(word: str, rng: random.Random, known: Collection[str]) -> str:
    for _ in range(8):
        place = rng.randrange(1, len(word) - 1)
        kind = rng.randrange(3)
        if kind == 0 and place < len(word) - 2:
            made = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        elif kind == 1 and len(word) > 4:
            made = word[:place] + word[place + 1 :]
        else:
            made = word[:place] + word[place] + word[place:]
        if made != word and made.lower() not in known and made.lower() not in _NUMBERS | _TURNS:
            return made
    return word


def word_order(text: str, rng: random.Random, protected: Collection[str] = ()) -> str | None:
    """Some neighbours change places. Kept words stay where they are, and nothing moves across one or across a mark."""
    found = pieces(text, protected)
    out = [piece.text for piece in found]
    able = [
        place
        for place in range(len(found) - 2)
        if found[place + 1].text == " "
        and all(found[i].word and not found[i].kept for i in (place, place + 2))
        and out[place].lower() != out[place + 2].lower()
    ]
    rng.shuffle(able)
    moved: set[int] = set()
    most = max(1, round(SWAPS * sum(piece.word and not piece.kept for piece in found)))
    for place in able:
        if len(moved) >= 2 * most:
            break
        if not moved & {place, place + 2}:
            out[place], out[place + 2] = out[place + 2], out[place]
            moved |= {place, place + 2}
    return "".join(out) if moved else None


def paraphrase(text: str, rng: random.Random, protected: Collection[str] = ()) -> str | None:
    """The question as it is, behind other words that ask it."""
    return rng.choice(_LEADS).format(text) if words(text) else None


def placebo(text: str, rng: random.Random, protected: Collection[str] = ()) -> str | None:
    """White space at the end: every word stays."""
    return text + rng.choice((" ", "  ", "\n"))


def placebo_before(text: str, rng: random.Random, protected: Collection[str] = ()) -> str | None:
    """White space at the beginning, for raw text whose end belongs to what continues it."""
    return rng.choice((" ", "\n")) + text


PERTURBATIONS: dict[str, Perturb] = {
    "case": case,
    "punctuation": punctuation,
    "typos": typos,
    "word_order": word_order,
    "paraphrase": paraphrase,
    PLACEBO: placebo,
}
RAW_PERTURBATIONS: dict[str, Perturb] = {name: one for name, one in PERTURBATIONS.items() if name != "paraphrase"} | {
    PLACEBO: placebo_before
}
"""For raw text: whoever continues a text was asked nothing that could be asked in other words."""
