"""Exercises for memory: what is asked for can be known, and only from far back."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import DataError
from steelyard.data.generated.long_range import CHARACTERS, EXERCISES, LETTERS, SELECTED, make_exercise

every_kind = pytest.mark.parametrize("kind", EXERCISES)
LENGTHS = st.integers(1, 60)


def solved(kind: str, text: str, place: int) -> str:
    """The character at a place, from those before it alone."""
    before = text[:place]
    match kind:
        case "copying":
            bar = before.index("|")
            return before[place - bar - 1]
        case "selective_copying":
            line, _, said = before.partition("|")
            return line.replace(".", "")[len(said)]
        case "induction":
            return before[before.index("?") + 1]
        case "associative_recall":
            return before[before.index(before[-1]) + 1]
        case "delay":
            return before[place - 1 - 2 * first_known(text)]
        case _:
            return str(before.count("1") % 2)


def first_known(text: str) -> int:
    """The delay of a line: pairs whose second character is empty."""
    return text.count(".")


@every_kind
@given(length=LENGTHS, seed=st.integers(0, 2**32))
def test_every_character_asked_for_follows_from_those_before_it(kind, length, seed):
    exercise = make_exercise(kind, random.Random(seed), length)
    assert exercise.known == tuple(sorted(set(exercise.known))) and exercise.known[-1] < len(exercise.text)
    assert set(exercise.text) <= set(CHARACTERS)
    assert [solved(kind, exercise.text, place) for place in exercise.known] == list(exercise.answer)


@every_kind
@given(seed=st.integers(0, 2**32))
def test_the_same_random_numbers_give_the_same_exercise(kind, seed):
    assert make_exercise(kind, random.Random(seed), 20) == make_exercise(kind, random.Random(seed), 20)


@every_kind
def test_longer_exercises_ask_over_longer_distances(kind):
    texts = [make_exercise(kind, random.Random(3), length).text for length in (4, 12, 24)]
    assert len(texts[0]) < len(texts[1]) < len(texts[2])


def test_a_selective_copy_has_as_many_letters_however_long_it_is():
    for length in (3, 8, 50, 500):
        assert len(make_exercise("selective_copying", random.Random(length), length).answer) == min(SELECTED, length)


def test_no_letter_is_asked_twice_and_none_that_was_not_told():
    exercise = make_exercise("associative_recall", random.Random(1), 99)
    told, _, asked = exercise.text.partition("|")
    assert sorted(told[::2]) == sorted(asked[::2]) == sorted(LETTERS)


def test_unknown_kinds_and_empty_lengths_are_named():
    with pytest.raises(DataError, match="copyng"):
        make_exercise("copyng", random.Random(0), 3)
    with pytest.raises(DataError, match="length of 0"):
        make_exercise("copying", random.Random(0), 0)
