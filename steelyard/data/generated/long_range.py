"""Exercises for memory over distances: copying, selective copying, induction, associative recall, delay and parity, of any length.

Each is a line of characters of which some are determined by what stands before them; only these are learned and asked for. The
distance over which something must be remembered grows with `length`, so models can be asked at lengths they never saw.

copying             qxbf|qxbf                     the line again (arXiv:1410.5401, section 4.1)
selective_copying   ..q...x.bf..|qxbf             only its letters, whatever lies between them (arXiv:2312.00752, section 4.1.1)
induction           kd?wmsb...?w                  what followed the mark when it stood there before (arXiv:2209.11895)
associative_recall  q3x1b7|b7q3x1                 the digit of each letter, asked in another order (arXiv:1610.06258, section 4.1)
delay               q.x.bqfxgb                    every second character is the one `length` pairs before (arXiv:2111.00396, appendix)
parity              10110=1                       whether the number of ones is odd (arXiv:1603.08983, section 3.1)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from steelyard.core.errors import DataError, nearest

LETTERS = "abcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"
NOTHING, BAR, MARK, EQUALS = ".|?="
CHARACTERS = LETTERS + DIGITS + NOTHING + BAR + MARK + EQUALS
"""All characters that stand in exercises."""

SELECTED = 8
"""Letters of a selective copying, however long its line is."""


@dataclass(frozen=True, slots=True)
class Exercise:
    """One line.

    Attributes:
        text: the whole of it.
        known: places of the characters that are determined by those before them, rising.
    """

    text: str
    known: tuple[int, ...]

    @property
    def prompt(self) -> str:
        """What stands before the first character that is determined."""
        return self.text[: self.known[0]]

    @property
    def answer(self) -> str:
        """The characters that are determined."""
        return "".join(self.text[place] for place in self.known)

    @property
    def first(self) -> str:
        """The first stretch of characters that are determined: all of them, where nothing lies between."""
        end = next((place for place in range(self.known[0], len(self.text)) if place not in self.known), len(self.text))
        return self.text[self.known[0] : end]


def answered(prompt: str, answer: str) -> Exercise:
    """A line whose end is determined."""
    return Exercise(prompt + answer, tuple(range(len(prompt), len(prompt) + len(answer))))


def copying(rng: random.Random, length: int) -> Exercise:
    """`length` letters, and again."""
    letters = "".join(rng.choices(LETTERS, k=length))
    return answered(letters + BAR, letters)


def selective_copying(rng: random.Random, length: int) -> Exercise:
    """`SELECTED` letters scattered over `length` places."""
    line = [NOTHING] * length
    for place in sorted(rng.sample(range(length), min(SELECTED, length))):
        line[place] = rng.choice(LETTERS)
    return answered("".join(line) + BAR, "".join(letter for letter in line if letter != NOTHING))


def induction(rng: random.Random, length: int) -> Exercise:
    """`length` letters with a mark among them, and the mark again at the end."""
    line = rng.choices(LETTERS, k=length)
    place = rng.randrange(length)
    return answered("".join(line[:place]) + MARK + "".join(line[place:]) + MARK, line[place])


def associative_recall(rng: random.Random, length: int) -> Exercise:
    """`length` different letters (26 at most), each with a digit; then all letters in another order, each to be followed by its digit."""
    letters = rng.sample(LETTERS, min(length, len(LETTERS)))
    digit = {letter: rng.choice(DIGITS) for letter in letters}
    told = "".join(letter + digit[letter] for letter in letters) + BAR
    asked = "".join(letter + digit[letter] for letter in rng.sample(letters, len(letters)))
    return Exercise(told + asked, tuple(range(len(told) + 1, len(told) + len(asked), 2)))


def delay(rng: random.Random, length: int) -> Exercise:
    """Twice `length` pairs: a letter, and the letter of the pair `length` pairs before."""
    letters = rng.choices(LETTERS, k=2 * length)
    pairs = [letter + (NOTHING if place < length else letters[place - length]) for place, letter in enumerate(letters)]
    return Exercise("".join(pairs), tuple(range(2 * length + 1, 4 * length, 2)))


def parity(rng: random.Random, length: int) -> Exercise:
    """`length` bits."""
    bits = rng.choices("01", k=length)
    return answered("".join(bits) + EQUALS, str(bits.count("1") % 2))


EXERCISES: Mapping[str, Callable[[random.Random, int], Exercise]] = {
    "copying": copying,
    "selective_copying": selective_copying,
    "induction": induction,
    "associative_recall": associative_recall,
    "delay": delay,
    "parity": parity,
}


def make_exercise(kind: str, rng: random.Random, length: int) -> Exercise:
    """A fresh exercise.

    Args:
        kind: one of `EXERCISES`.
        rng: where the choices come from.
        length: over how much must be remembered, in what the kind counts: letters, places, pairs, bits.

    Raises:
        DataError: there is no such kind, or the length is not at least 1.
    """
    if kind not in EXERCISES:
        raise DataError(f"no exercise is called `{kind}`", do=nearest(kind, EXERCISES))
    if length < 1:
        raise DataError(f"an exercise over a length of {length}", where=kind, do="Lengths begin at 1.")
    return EXERCISES[kind](rng, length)
