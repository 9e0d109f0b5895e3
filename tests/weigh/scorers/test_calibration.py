"""Confidence of answers."""

from __future__ import annotations

import math

import pytest

from steelyard.core.protocols import Token
from steelyard.weigh.scorers.calibration import LEAST, confidence, values


def token(text: str, probability: float) -> Token:
    return Token(0, text, math.log(probability), 0.0, math.log(probability))


def test_confidence_is_the_probability_of_the_judged_words() -> None:
    tokens = [token("Par", 0.5), token("is", 0.9), token(".", 0.8), token(" And more", 0.1)]
    assert confidence(tokens, "Paris. And more", "Paris.") == pytest.approx(0.5 * 0.9 * 0.8)


def test_tokens_that_add_no_text_after_the_answer_do_not_count() -> None:
    assert confidence([token("Yes", 0.5), token("", 0.1)], "Yes", "Yes") == 0.5


def test_without_tokens_there_is_no_confidence() -> None:
    assert confidence([], "Paris", "Paris") is None
    assert set(values(None, True).values()) == {None}


def test_broken_probabilities_give_no_confidence() -> None:
    assert confidence([Token(0, "a", math.nan, 0.0, 0.0)], "a", "a") is None


def test_an_answer_that_abstains_is_not_scored() -> None:
    assert set(values(0.9, False, answered=False).values()) == {None}


def test_sure_and_right_is_best_and_sure_and_wrong_is_bounded() -> None:
    assert values(1.0, True) == {"brier": 0.0, "log_loss": 0.0, "auroc": (1.0, 1.0), "aurc": (1.0, 1.0), "ece": (1.0, 1.0)}
    worst = values(1.0, False)
    assert worst["brier"] == 1.0 and worst["log_loss"] == pytest.approx(-math.log(LEAST))
    assert values(0.5, True)["log_loss"] == pytest.approx(math.log(2))
