"""From which confidence on a model may answer, so that it is wrong in at most a share alpha of what it answers: proved, not tuned.

Answer where s > t. For a threshold t let R(t) = P(wrong | s > t). Of n judged questions take the k-th highest score as t, for 20 evenly
spaced k, and one t below all scores. Given t and how many scores lie above it, those questions are drawn independently from what lies
above t, so the number of wrong ones among m is binomial with chance R(t), and

    p(t) = P(Binomial(m, alpha) <= wrong)

is a valid p-value of "R(t) > alpha" (Clopper and Pearson's bound read as a test; equal scores do no harm). A threshold is accepted where
p(t) <= delta / (number of thresholds); the one that answers most is taken.

Theorem (learn then test, with Bonferroni's correction): if the judged questions and the one that comes are exchangeable, then with
probability at least 1 - delta over the judged ones, R of the threshold taken is at most alpha. Choosing the best-looking threshold
without the correction has no such guarantee: it fails about every second time.

Sources: A. Angelopoulos, S. Bates, E. Candes, M. Jordan & L. Lei, Learn then Test, arXiv:2110.01052, theorem 1; selection with guaranteed
risk: Y. Geifman & R. El-Yaniv, arXiv:1705.08500; C. Clopper & E. Pearson, Biometrika 26 (1934).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from steelyard.core.errors import DataError

STEPS = 20
"""Thresholds that are tried beside the one that lets everything through."""
LEAST_SHARE = 0.05
"""Share of questions that must be answered for a threshold to be of use."""


@dataclass(frozen=True)
class Threshold:
    """A threshold that holds its promise.

    Attributes:
        alpha: largest share of wrong answers among those given.
        delta: chance that the promise does not hold, over the choice of judged questions.
        above: answers are given where the confidence is higher.
        share: of the judged questions, those answered.
        wrong: of those answered, the share that was wrong.
        n: judged questions.
    """

    alpha: float
    delta: float
    above: float
    share: float
    wrong: float
    n: int


def candidates(scores: numpy.ndarray) -> list[float]:
    """Thresholds to try, the strictest first: -1 answers everything."""
    ranked = numpy.sort(scores)[::-1]
    ranks = sorted({max(1, round(len(ranked) * step / STEPS)) for step in range(1, STEPS + 1)})
    return [*(float(ranked[rank - 1]) for rank in ranks), -1.0]


def p_values(scores: numpy.ndarray, wrong: numpy.ndarray, thresholds: Sequence[float], alpha: float) -> list[float]:
    """For each threshold the p-value of "more than alpha of what is answered is wrong"."""
    from scipy.stats import binom  # a server reads thresholds and finds none: it starts without SciPy

    found = []
    for threshold in thresholds:
        above = scores > threshold
        found.append(float(binom.cdf(int(wrong[above].sum()), int(above.sum()), alpha)) if above.any() else 1.0)
    return found


def threshold(scores: Sequence[float], right: Sequence[bool], alpha: float, delta: float) -> Threshold:
    """The threshold that answers most among those that provably keep the promise.

    Args:
        scores: [n] confidence of each judged answer, in [0, 1].
        right: [n], whether it was right.
        alpha: largest share of wrong answers among those given.
        delta: chance that the promise may fail.

    Raises:
        DataError: no threshold keeps it, or only one that answers less than 5% of questions.
    """
    s, w = numpy.asarray(scores, numpy.float64), ~numpy.asarray(right, bool)
    tried = candidates(s) if len(s) else [-1.0]
    level = delta / len(tried)
    promise = f"at most {alpha:.3g} wrong among what is answered, with probability {1 - delta:.3g}"
    kept = [one for one, p in zip(tried, p_values(s, w, tried, alpha), strict=True) if p <= level]
    if not kept:
        raise DataError(
            f"no threshold over {len(s)} judged answers, of which {int(w.sum())} are wrong, shows {promise}",
            where="abstain",
            do="Judge more questions, use another measure, or allow a larger alpha or delta.",
        )
    chosen = min(kept)
    above = s > chosen
    if above.mean() < LEAST_SHARE:
        raise DataError(
            f"to show {promise}, only {above.mean():.1%} of questions could be answered",
            where="abstain",
            do=f"Below {LEAST_SHARE:.0%} nothing is gained: use another measure, or allow a larger alpha.",
        )
    return Threshold(alpha, delta, chosen, float(above.mean()), float(w[above].mean()), len(s))
