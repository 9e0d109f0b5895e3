"""Measures of confidence: each says what its equation says, on answers made for it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.augment.uncertainty.measure import Asked
from steelyard.augment.uncertainty.measures import NAMES, measure
from steelyard.augment.uncertainty.semantic_entropy import SemanticEntropy
from steelyard.augment.uncertainty.verbalized import stated
from steelyard.core.errors import RecipeError, SteelyardError
from steelyard.core.protocols import Answer, AnswerSettings, Conversation, Done, Failure, Message, Score, Text, Token, Usage

QUESTION = [Message("user", "What is the capital of Peru?")]


class Oracle:
    """Says what it is told to, by what it is asked; its samples come in turn."""

    fingerprint = "oracle"
    capabilities = frozenset({"logprobs", "score"})

    def __init__(self, samples: Sequence[str] = (), sure: str = "", scores: dict[str, float] | None = None, fails: bool = False):
        self.waiting, self.sure, self.scores, self.fails = list(samples), sure, scores or {}, fails
        self.settings: list[AnswerSettings] = []

    async def answer(self, conversation: Conversation, settings: AnswerSettings):
        self.settings.append(settings)
        if self.fails:
            yield Failure("the oracle is shut")
            yield Done("error")
            return
        yield Text(self.sure if "How sure" in conversation[-1].content else self.waiting.pop(0))
        yield Usage(3, 2)
        yield Done("stop")

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        asked = conversation[-1].content
        found = {"Yes": -1.0, "No": -1.0} | self.scores
        if "imply" in asked:
            one, other = (asked.split(f"Possible answer {n}: ")[1].split("\n")[0].lower() for n in (1, 2))
            found = {"Yes": 0.0 if other in one else -9.0, "No": -5.0}
        return [Score(found[text], True, 1, 4) for text in continuations]


def token(probability: float, entropy: float = 0.0, second: float = 0.0) -> Token:
    others = ((1, math.log(probability)), (2, math.log(second))) if second else ()
    return Token(1, "x", math.log(probability), entropy, math.log(probability), others)


def value(name: str, oracle: Oracle | None = None, tokens: Sequence[Token] = (), text: str = "Lima.", **settings) -> float | None:
    return asyncio.run(measured(name, oracle, tokens, text, **settings)[0])


def measured(name: str, oracle: Oracle | None = None, tokens: Sequence[Token] = (), text: str = "Lima.", **settings):
    asked = Asked(oracle or Oracle(), QUESTION, AnswerSettings(seed=5), Answer(text=text, tokens=list(tokens)))
    return measure(name, **settings).value(asked), asked


def test_token_measures_are_product_mean_least_entropy_and_margin():
    tokens = [token(0.5, 0.2, 0.3), token(0.8, 0.6, 0.1)]
    assert value("joint_probability", tokens=tokens) == pytest.approx(0.4)
    assert value("mean_probability", tokens=tokens) == pytest.approx(math.sqrt(0.4))
    assert value("least_probability", tokens=tokens) == pytest.approx(0.5)
    assert value("entropy", tokens=tokens) == pytest.approx(math.exp(-0.4))
    assert value("margin", tokens=tokens) == pytest.approx((0.2 + 0.7) / 2)


@pytest.mark.parametrize("name", ["joint_probability", "mean_probability", "least_probability", "entropy", "margin"])
def test_without_tokens_or_with_broken_ones_there_is_no_confidence(name):
    assert value(name) is None
    assert value(name, tokens=[Token(1, "x", math.nan, math.nan, 0.0)]) is None


def test_p_true_is_the_probability_of_true_beside_false():
    assert value("p_true", Oracle(scores={"True": math.log(0.3), "False": math.log(0.1)})) == pytest.approx(0.75)
    assert value("p_true", Oracle(scores={"True": -math.inf, "False": -3.0})) == 0.0
    assert value("p_true", Oracle(scores={"True": -math.inf, "False": -math.inf})) is None
    assert value("p_true", Oracle(scores={"True": 0.0, "False": -2000.0})) == 1.0


def test_self_check_counts_samples_that_say_the_same():
    samples = ["lima", "The Lima.", "Quito.", "Lima. It lies at the sea.", "Bogotá"]
    assert value("self_check", Oracle(samples), count=5) == pytest.approx(3 / 5)


def test_semantic_entropy_counts_meanings_not_wordings():
    assert value("semantic_entropy", Oracle(["Lima", "lima.", "LIMA!", "Lima"]), count=4) == 1.0
    assert value("semantic_entropy", Oracle(["a1", "b1", "c1", "d1"]), count=4) == pytest.approx(0.0, abs=1e-12)
    half = value("semantic_entropy", Oracle(["Lima", "lima", "Quito", "quito"]), count=4)
    assert half == pytest.approx(1 - math.log(2) / math.log(4))


def test_a_judge_makes_one_meaning_of_answers_that_imply_each_other():
    words = ["It is Lima", "Lima it is", "Quito"]
    assert value("semantic_entropy", Oracle(list(words)), count=3) == pytest.approx(0.0, abs=1e-12)

    class Judge(Oracle):
        async def score(self, conversation, continuations):
            one, other = (conversation[-1].content.split(f"answer {n}: ")[1].split("\n")[0].lower() for n in (1, 2))
            agrees = ("lima" in one) == ("lima" in other)
            return [Score(0.0 if (text == "Yes") == agrees else -5.0, True, 1, 3) for text in continuations]

    judged = value("semantic_entropy", Oracle(list(words)), count=3, judge=Judge())
    assert judged == pytest.approx(1 - (math.log(3) - 2 / 3 * math.log(2)) / math.log(3))


def test_one_sided_implication_is_not_the_same_meaning():
    assert value("self_check", Oracle(["Lima in Peru", "Lima"]), text="Lima", count=2, judge=Oracle()) == pytest.approx(1 / 2)


def test_samples_are_drawn_under_seeds_of_their_own_and_their_cost_is_told():
    oracle = Oracle(["Lima"] * 5)
    pending, asked = measured("self_check", oracle, count=5, temperature=0.7)
    asyncio.run(pending)
    assert {settings.temperature for settings in oracle.settings} == {0.7}
    assert len({settings.seed for settings in oracle.settings}) == 5
    assert sum(usage.completion_tokens for usage in asked.further) == 10


def test_a_further_answer_that_fails_is_told_and_not_counted_as_doubt():
    with pytest.raises(SteelyardError, match="the oracle is shut"):
        value("self_check", Oracle(fails=True))


@pytest.mark.parametrize(
    ("said", "sure"),
    [("85", 0.85), ("I am 90% sure", 0.9), ("100", 1.0), ("0", 0.0), ("2024 times 70", 0.7), ("very", None), ("", None), ("101", None)],
)
def test_the_number_a_model_says_is_read_from_its_words(said, sure):
    assert stated(said) == sure
    assert value("verbalized", Oracle(sure=said)) == sure


@given(st.text())
def test_whatever_is_said_a_stated_confidence_is_a_share(text):
    assert stated(text) is None or 0 <= stated(text) <= 1


def test_measures_are_known_by_name():
    for name in NAMES:
        if name != "p_ik":
            assert measure(name).needs <= {"logprobs", "entropies", "score"}
    with pytest.raises(RecipeError, match="self_check"):
        measure("self_chek")
    with pytest.raises(RecipeError, match="probe"):
        measure("p_ik")
    assert measure("semantic_entropy", count=3) == SemanticEntropy(3)
