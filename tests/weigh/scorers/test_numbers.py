"""Numbers in text."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.weigh.scorers.numbers import read_numbers, same_number


def values(text: str) -> list[Fraction]:
    return [number.value for number in read_numbers(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("26", [26]),
        ("It is 26.", [26]),
        ("-7", [-7]),
        ("−7", [-7]),
        ("12,345.5", [Fraction(24691, 2)]),
        ("1,23", [1, 23]),
        ("3/4", [Fraction(3, 4)]),
        ("1e3", [1000]),
        ("5-3", [5, 3]),
        ("$1,200", [1200]),
        ("2024-05-06", [2024, 5, 6]),
        ("v1.2.3 H2O", []),
        ("٣", [3]),
        ("1/0", [1]),
        ("NaN Infinity", []),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, expected: list[Fraction]) -> None:
    assert values(text) == expected


@given(st.integers(-(10**30), 10**30))
def test_every_whole_number_is_read_back(number: int) -> None:
    assert values(f"so it is {number}.") == values(f"{number:,}") == [number]


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=6))
def test_every_decimal_is_read_back(number: object) -> None:
    assert values(f"{number:f}") == [Fraction(str(number))]


@given(st.text(max_size=300))
def test_any_text_is_read_without_failing(text: str) -> None:
    read_numbers(text)


def test_numbers_of_thousands_of_digits_are_no_answers_and_take_no_time() -> None:
    assert read_numbers("9" * 100_000) == []
    assert values("1e999")[0] > 10**998


def test_the_last_number_is_the_answer_and_it_must_be_exact() -> None:
    assert same_number("12 + 30 = 42", 42)
    assert not same_number("42 or 43", 42)
    assert not same_number("0.3000001", 0.3)
    assert same_number("about 0.31", 0.3, tolerance=0.02)
    assert not same_number("none", 3)
