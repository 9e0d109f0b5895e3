"""Patterns that cannot hang."""

from __future__ import annotations

import threading

import pytest

from steelyard.core.errors import SteelyardError
from steelyard.data.checks.patterns import PatternTimeout, pattern_problem, probably_endless, search_within


def test_patterns_mean_what_python_says() -> None:
    assert search_within(r"(?i)^paris\b", "Paris is it")
    assert not search_within(r"^Rome", "Paris\nRome")
    assert search_within(r"(?m)^Rome", "Paris\nRome")
    assert search_within("é+\U0001f600", "éé\U0001f600")


def test_a_pattern_without_end_is_ended_and_the_next_one_works() -> None:
    with pytest.raises(PatternTimeout, match="not decided"):
        search_within("(a+)+$", "a" * 60 + "!", seconds=0.2)
    assert search_within("b", "abc")


def test_threads_share_the_worker_without_mixing_answers() -> None:
    wrong: list[int] = []

    def check(number: int) -> None:
        for _ in range(10):
            if not search_within(f"^{number}$", str(number)) or search_within(f"^{number}$", str(number + 1)):
                wrong.append(number)

    threads = [threading.Thread(target=check, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("pattern", ["(", "a" * 3000, "*", "(?P<x>", "[z-a]", "a{4294967296}"])
def test_what_is_no_pattern_is_said(pattern: str) -> None:
    assert pattern_problem(pattern)
    with pytest.raises(SteelyardError):
        search_within(pattern, "a")


@pytest.mark.parametrize(
    ("pattern", "endless"), [("(a+)+$", True), (r"^(\d+)*x$", True), (r"\bParis\b", False), (r"^[a-z]+\d{2,4}$", False)]
)
def test_nested_repeats_are_noticed_beforehand(pattern: str, endless: bool) -> None:
    assert probably_endless(pattern) is endless
