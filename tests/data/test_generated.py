"""What generators promise: right answers, fresh material per seed, splits that share nothing."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.data.checks.json_schema import matches
from steelyard.data.generated.arithmetic import make_problem
from steelyard.data.generated.forms import FORMS, make_form, training_pair
from steelyard.data.generated.names import Names
from steelyard.data.generated.passages import make_passage
from steelyard.data.words import words

REPLY = '{"object": "ice skate", "station": "Keizunga", "shelf": 33, "finder": "Edith Kistessen"}'
TEXT = "The navivane is a machine. It winds ropes. The first one was built in 1859."
SEEDS = st.integers(0, 2**63 - 1)


@given(SEEDS, st.integers(1, 12), st.sampled_from(["add", "subtract", "multiply", "divide"]), st.integers(2, 6))
def test_arithmetic_answers_are_exact_and_whole(seed: int, digits: int, operation: str, terms: int) -> None:
    problem = make_problem(random.Random(seed), digits, (operation,), terms)  # type: ignore[arg-type]
    left, sign = problem.text, {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}[operation]
    numbers = [int(part) for part in left.split(f" {sign} ")]
    if operation == "divide":
        assert numbers[0] == numbers[1] * problem.answer
        assert len(str(numbers[1])) == len(str(problem.answer)) == digits
    else:
        assert problem.answer == eval(left)
        assert all(len(str(number)) == digits for number in numbers)


def test_differences_of_two_never_go_below_zero() -> None:
    assert all(make_problem(random.Random(i), 2, ("subtract",)).answer >= 0 for i in range(200))


@given(SEEDS, st.sampled_from(["train", "test"]))
def test_a_forms_own_reply_matches_its_schema_and_its_text_holds_every_value(seed: int, split: str) -> None:
    form = make_form(random.Random(seed), split)  # type: ignore[arg-type]
    assert matches(json.loads(form.reply), form.schema)
    for value in form.answer.values():
        assert isinstance(value, bool) or str(value) in form.text


def test_training_forms_and_test_forms_share_no_subject_and_no_field() -> None:
    subjects = {split: set(forms) for split, forms in FORMS.items()}
    keys = {split: {field.key for fields in forms.values() for field in fields} for split, forms in FORMS.items()}
    assert not subjects["train"] & subjects["test"]
    assert not keys["train"] & keys["test"]


def test_training_pairs_come_from_the_training_split() -> None:
    keys = {field.key for fields in FORMS["train"].values() for field in fields}
    for i in range(100):
        question, answer = training_pair(random.Random(i))
        assert set(json.loads(answer)) <= keys
        assert all(key in question for key in json.loads(answer))


@given(SEEDS, st.integers(1, 6))
def test_a_passage_tells_what_it_says_and_nothing_it_leaves_out(seed: int, sentences: int) -> None:
    passage = make_passage(random.Random(seed), sentences)
    assert len(passage.told) == sentences and passage.left_out
    assert passage.name in passage.text
    for detail in passage.told:
        assert detail.answer in passage.text and detail.sentence in passage.text
        assert passage.name in detail.question
    for detail in passage.left_out:
        assert detail.sentence not in passage.text


@given(SEEDS)
def test_the_answers_of_a_passage_are_told_apart(seed: int) -> None:
    passage = make_passage(random.Random(seed), 6)
    answers = [words(detail.answer) for detail in (*passage.told, *passage.left_out)]
    assert len(set(answers)) == len(answers)


def test_made_up_names_never_repeat_and_keep_away_from_what_is_real() -> None:
    names = Names(random.Random(1))
    given_names = [names.name("country") for _ in range(500)]
    assert len(set(given_names)) == 500
    again = Names(random.Random(1), avoid={given_names[0].lower()})
    assert given_names[0] not in [again.name("country") for _ in range(500)]


def test_running_out_of_names_is_said() -> None:
    class Everything:
        def __contains__(self, name: object) -> bool:
            return True

    with pytest.raises(ValueError, match="no unused name"):
        Names(random.Random(0), Everything()).name("element")


def test_equal_seeds_give_equal_material_wherever_they_are_drawn() -> None:
    # Pinned: a change here changes what every earlier weighing asked.
    assert make_problem(random.Random(0), 3, ("add",)).text == "876 + 530"
    assert make_form(random.Random(0)).reply == REPLY
    assert make_passage(random.Random(0), 2).text == TEXT
