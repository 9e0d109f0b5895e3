"""Ratings of arms compared two at a time."""

from __future__ import annotations

import dataclasses
import json
import math
import random

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from steelyard.core.errors import DataError
from steelyard.weigh.judged.arena import POINTS, arena
from steelyard.weigh.judged.comparisons import Comparison
from steelyard.weigh.statistics.bradley_terry import chances


def played(arms: int, n: int, seed: int, *, first: float = 0.4, tie: float = 0.6, items: int = 60, raters: int = 0, placed: bool = True):
    """Comparisons of arms of known strengths: `first` is worth that much, `tie` is nu of the model."""
    rng, strengths = numpy.random.default_rng(seed), numpy.linspace(-0.8, 0.8, arms)
    log_tie = numpy.array(math.log(tie) if tie else -math.inf)
    out = []
    for _ in range(n):
        i = int(rng.integers(arms))
        j = int((i + rng.integers(1, arms)) % arms)
        outcome = rng.choice(3, p=chances(numpy.array(strengths[i] - strengths[j] + first * placed), log_tie))
        rater = f"r{rng.integers(raters)}" if raters else ""
        winner = ("first", "second", "tie")[outcome]
        out.append(Comparison(f"arm{i}", f"arm{j}", winner, f"q{rng.integers(items)}", rater, placed=placed))
    return out


def ratings(found) -> dict[str, float]:
    return {arm.arm: arm.rating / POINTS for arm in found.arms if arm.rating is not None}


def test_without_ties_ratings_and_place_equal_a_logistic_regression() -> None:
    discrete = pytest.importorskip("statsmodels.discrete.discrete_model", reason="statsmodels is not installed")
    compared = played(5, 400, 1, tie=0.0)
    names = sorted({one.first for one in compared})
    design = numpy.array([[float(one.first == name) - float(one.second == name) for name in names[1:]] + [1.0] for one in compared])
    model = discrete.Logit(numpy.array([one.winner == "first" for one in compared], float), design).fit(disp=0, tol=1e-14, method="newton")
    expected = numpy.append(0.0, model.params[:-1])
    found = arena(compared, draws=100)
    mine = ratings(found)
    assert [mine[name] for name in names] == pytest.approx(expected - expected.mean(), abs=1e-6)
    assert found.place.value == pytest.approx(1 / (1 + math.exp(-model.params[-1])), abs=1e-6)
    assert found.tie == 0


def test_with_ties_they_are_the_likelihoods_maximum() -> None:
    compared = played(4, 500, 2)
    names = sorted({one.first for one in compared})
    first, second = (numpy.array([names.index(getattr(one, side)) for one in compared]) for side in ("first", "second"))
    outcome = numpy.array([("first", "second", "tie").index(one.winner) for one in compared])

    def loss(theta: numpy.ndarray) -> float:  # written out anew: Davidson & Beaver's form with strengths themselves
        strength, order, tie = numpy.exp(theta[:4]), math.exp(theta[4]), math.exp(theta[5])
        one, other = strength[first] * order, strength[second]
        even = tie * numpy.sqrt(one * other)
        return -float(numpy.log(numpy.choose(outcome, [one, other, even]) / (one + other + even)).sum())

    best = optimize.minimize(loss, numpy.zeros(6), method="BFGS", options={"gtol": 1e-9, "maxiter": 2000}).x
    mine = ratings(arena(compared, draws=100))
    assert [mine[name] for name in names] == pytest.approx(best[:4] - best[:4].mean(), abs=1e-5)
    assert loss(numpy.array([*(mine[name] for name in names), best[4], best[5]])) <= loss(best) + 1e-8


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_order_of_the_comparisons_does_not_matter(seed: int, placed: bool) -> None:
    compared = played(4, 60, seed, raters=3, placed=placed)
    expected, shuffled = arena(compared, draws=100), list(compared)
    random.Random(seed).shuffle(shuffled)
    assert arena(shuffled, draws=100) == expected
    if not placed:  # where nobody knows who stood first, it does not matter who is named first either
        other = {"first": "second", "second": "first", "tie": "tie"}
        turned = [dataclasses.replace(one, first=one.second, second=one.first, winner=other[one.winner]) for one in compared]
        assert arena(turned, draws=100) == expected


def test_an_arm_that_was_never_beaten_is_said_so_and_moves_nobody() -> None:
    compared = played(3, 120, 3)
    plain = ratings(arena(compared, draws=100))
    found = arena([*compared, Comparison("champion", "arm0", "first"), Comparison("arm1", "hopeless", "first")], draws=100)
    assert found.arm("champion").rating is None and "never beaten in 1 comparison" in found.arm("champion").reason
    assert found.arm("hopeless").rating is None and "never won" in found.arm("hopeless").reason
    assert ratings(found) == pytest.approx(plain, abs=1e-9)
    json.dumps(found.as_dict(), allow_nan=False)


def test_groups_that_never_met_are_not_compared() -> None:
    apart = [dataclasses.replace(one, first=f"x{one.first}", second=f"x{one.second}") for one in played(3, 90, 5)]
    found = arena([*played(3, 90, 4), *apart], draws=100)
    assert {arm.group for arm in found.arms} == {0, 1}
    assert any("2 groups" in note for note in found.notes)
    for group in (0, 1):
        assert sum(arm.rating or 0.0 for arm in found.arms if arm.group == group) == pytest.approx(0, abs=1e-6)


def test_an_arm_that_rests_on_one_win_has_an_open_interval() -> None:
    compared = [Comparison("a", "b", "first", f"q{i}", placed=False) for i in range(6)] + [
        Comparison("b", "a", "first", "q7", placed=False)
    ]
    found = arena(compared, draws=200)
    assert found.arm("a").rating == pytest.approx(POINTS * math.log(6) / 2, abs=1e-6)
    assert found.arm("a").high is None and found.arm("b").low is None
    assert found.arm("a").share_high == pytest.approx(1.0)


def test_the_advantage_of_standing_first_is_found_and_taken_out() -> None:
    fair, biased = played(3, 3000, 6, first=0.0), played(3, 3000, 6, first=1.0)
    found = arena(biased, draws=300)
    assert found.place.low is not None and found.place.high is not None and found.place.value is not None
    assert 0.5 < found.place.low < 1 / (1 + math.exp(-1.0)) < found.place.high
    assert ratings(found) == pytest.approx(ratings(arena(fair, draws=100)), abs=0.2)
    none = arena(fair, draws=300).place
    assert none.low is not None and none.high is not None and none.low < 0.5 < none.high


@pytest.mark.parametrize(
    ("compared", "why"),
    [
        (played(3, 60, 7, placed=False), "nobody recorded"),
        ([Comparison("a", "b", "first")] * 3 + [Comparison("a", "b", "second")] * 2, "always stood in one order"),
        ([Comparison("a", "b", "first")] * 3 + [Comparison("b", "a", "first")] * 3, "always stood first"),
    ],
)
def test_where_the_place_cannot_be_told_it_is_said_so(compared, why) -> None:
    found = arena(compared, draws=100)
    assert found.place.value is None and why in found.place.reason
    assert all(arm.rating is not None for arm in found.arms)


def test_ten_judgements_of_one_item_say_little_more_than_one() -> None:
    compared = [dataclasses.replace(one, item=f"q{place}") for place, one in enumerate(played(3, 150, 8))]
    plain, often = arena(compared, draws=300), arena(compared * 10, draws=300)
    for name in ("arm0", "arm2"):
        one, ten = plain.arm(name), often.arm(name)
        assert one.low is not None and one.high is not None and ten.low is not None and ten.high is not None
        assert 0.9 < (ten.high - ten.low) / (one.high - one.low) < 1.1
    assert often.n == 1500 and often.clusters == {"items": 150}


def test_raters_who_disagree_widen_the_intervals() -> None:
    like = [
        Comparison("a", "b", "first" if rater % 3 else "second", f"q{i}", f"r{rater}", placed=False)
        for rater in range(12)
        for i in range(10)
    ]
    alone = [dataclasses.replace(one, rater="") for one in like]
    crossed, by_item = arena(like, draws=400).arm("a"), arena(alone, draws=400).arm("a")
    assert crossed.low is not None and by_item.low is not None and crossed.rating is not None
    assert crossed.rating - crossed.low > 3 * (by_item.rating - by_item.low + 1)  # type: ignore[operator]


def test_nothing_to_rate_is_an_error() -> None:
    with pytest.raises(DataError, match="no comparisons"):
        arena([])
    with pytest.raises(DataError, match="all 2 comparisons are ties"):
        arena([Comparison("a", "b", "tie")] * 2)
    found = arena([Comparison("a", "b", "first")])
    assert all(arm.rating is None for arm in found.arms) and "No arm has a finite rating" in found.notes[0]
