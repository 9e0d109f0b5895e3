"""Examples by a generator's name: drawn from the seed, exercises of the lengths asked for."""

from __future__ import annotations

import pytest

from steelyard.core.errors import DataError
from steelyard.data.generated.long_range import EXERCISES
from steelyard.data.sources import open_source


@pytest.mark.parametrize("kind", EXERCISES)
def test_exercises_are_questions_whose_answers_are_determined(kind: str) -> None:
    source, again = (open_source(f"generated:{kind}:2-5", count=40, seed=3) for _ in range(2))
    assert source.fingerprint == again.fingerprint != open_source(f"generated:{kind}:2-5", count=40, seed=4).fingerprint
    for example in source.examples:
        question, answer = (turn.message.content for turn in example.turns)
        assert question and answer
        if kind == "copying":
            assert question == answer + "|" and 2 <= len(answer) <= 5
        if kind == "associative_recall":
            assert answer == question[question.index(question[-1]) + 1] and len(answer) == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [("copyin:1-3", "Did you mean `copying`"), ("copying", "no range"), ("copying:5-2", "no range"), ("copying:0-4", "no range")],
)
def test_names_that_mean_nothing_are_refused(name: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        open_source(f"generated:{name}")
