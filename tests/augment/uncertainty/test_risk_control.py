"""The promise of a threshold: kept on simulated questions as often as stated, and broken without the correction."""

from __future__ import annotations

import numpy
import pytest
from scipy import stats

from steelyard.augment.uncertainty.risk_control import STEPS, candidates, p_values, threshold
from steelyard.core.errors import DataError

ALPHA, DELTA = 0.1, 0.2


def questions(rng: numpy.random.Generator, count: int, levels: int | None = None) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Scores, and whether each answer is right, which is likelier the higher the score. `levels`: scores with many ties."""
    scores = rng.random(count)
    right = rng.random(count) < numpy.minimum(1.0, 0.5 + 0.6 * scores)
    return (numpy.floor(scores * levels) / levels if levels else scores), right


@pytest.mark.parametrize("levels", [None, 6])
def test_the_promise_is_kept_in_all_but_a_share_delta_of_draws(levels):
    everyone = questions(numpy.random.default_rng(99), 400_000, levels)
    broken = tuned = 0
    for seed in range(300):
        scores, right = questions(numpy.random.default_rng(seed), 300, levels)
        try:
            found = threshold(scores, right, ALPHA, DELTA).above
            broken += (~everyone[1][everyone[0] > found]).mean() > ALPHA
        except DataError:
            pass  # it answers nothing, and breaks no promise
        seen = [one for one in candidates(scores) if (above := scores > one).any() and (~right[above]).mean() <= ALPHA]
        tuned += bool(seen) and (~everyone[1][everyone[0] > min(seen)]).mean() > ALPHA
    assert broken <= stats.binom.ppf(0.999, 300, DELTA)
    assert tuned > stats.binom.ppf(0.999, 300, DELTA), "choosing the best-looking threshold must be seen to fail"


def test_more_questions_allow_more_answers():
    few, many = (threshold(*questions(numpy.random.default_rng(3), count), ALPHA, DELTA) for count in (500, 5000))
    assert few.share < many.share
    assert many.wrong <= ALPHA and many.n == 5000


def test_a_p_value_is_the_binomial_tail():
    scores, wrong = numpy.array([0.9, 0.8, 0.7, 0.1]), numpy.array([False, False, True, True])
    assert p_values(scores, wrong, [0.5, 0.95], 0.3) == [pytest.approx(0.7**3 + 3 * 0.3 * 0.7**2), 1.0]


def test_thresholds_tried_are_few_and_end_with_answering_all():
    tried = candidates(numpy.linspace(0, 1, 1000))
    assert len(tried) == STEPS + 1 and tried[-1] == -1.0 and tried[0] == pytest.approx(0.95, abs=0.01)


def test_a_model_that_is_always_right_may_always_answer():
    found = threshold([0.3] * 200, [True] * 200, ALPHA, DELTA)
    assert found.above == -1.0 and found.share == 1.0


@pytest.mark.parametrize("right", [[False] * 200, [True, False] * 100, [True] * 10, []])
def test_where_nothing_can_be_promised_it_is_refused_with_the_reason(right):
    with pytest.raises(DataError, match="wrong, shows at most 0.1 wrong"):
        threshold(list(numpy.linspace(0, 1, len(right))), right, ALPHA, DELTA)


def test_shuffled_scores_earn_no_right_to_answer():
    rng = numpy.random.default_rng(5)
    scores, right = questions(rng, 400)
    refused = 0
    for _ in range(50):
        try:
            threshold(rng.permutation(scores), right, ALPHA, DELTA)
        except DataError:
            refused += 1
    assert refused >= 48
