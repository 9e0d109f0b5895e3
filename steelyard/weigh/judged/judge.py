"""A judge of pairs: how well its verdicts agree with people's, and what it says once its errors are taken out.

A judge is shown two answers to one conversation in both orders and says which is the better one; the two are averaged, so that neither place
wins. On pairs that people judged it is right with probability a. Being asked in both orders, it errs alike whichever answer is the better
one, and the share of wins it finds, p, speaks for a true share of

    pi = (p + a - 1) / (2a - 1)

which is the estimate of W. Rogan & B. Gladen (American Journal of Epidemiology 107, 1978) with one error rate for both sides. The interval
draws p and a from what the two samples allow (Beta with Jeffreys' half counts; clusters weigh as many samples as they are worth), so it
knows how few labels there were. Where the interval of a holds one half, the judge is not shown to be better than a coin: nothing is
measured with it. The correction supposes that it errs on these answers as it did on the labelled ones; nothing here can test that.

Cohen's kappa over both orders of every pair is 2a - 1, because both labels are then equally frequent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy

from steelyard.core.errors import DataError
from steelyard.core.seeds import derive
from steelyard.weigh.statistics.intervals import Interval, wilson
from steelyard.weigh.statistics.paired import ALPHA, FEW

DRAWS = 4_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge said of two answers in both orders.

    Attributes:
        before: how much rather it takes the first answer where that stands first, nats (or +1, 0, -1 from a judge that only names one).
        behind: the same where it stands second.
    """

    before: float
    behind: float

    @property
    def margin(self) -> float:
        """How much rather it takes the first answer, whichever stands first."""
        return (self.before + self.behind) / 2

    @property
    def wins(self) -> float:
        """1 where the first answer is the better one, 0 where the second is, 1/2 where the judge is undecided."""
        return 0.5 if self.margin == 0 else float(self.margin > 0)

    @property
    def steady(self) -> bool:
        """Whether both orders gave one verdict."""
        return self.before * self.behind > 0


@dataclass(frozen=True)
class Agreement:
    """How a judge agrees with labels.

    Attributes:
        judge: its name.
        labels: whose labels, such as a file's name.
        n: labelled pairs that it judged.
        accuracy, low, high: share of pairs in which it takes the answer that people took (undecided: half a pair).
        kappa, kappa_low, kappa_high: Cohen's kappa with the labels, over both orders.
        first: share of single showings in which it took the answer that stood first; 1/2 is no preference.
        steady: share of pairs in which both orders gave one verdict.
        effective: independent pairs that these are worth.
        left_out: pairs that it gave no verdict on.
    """

    judge: str
    labels: str
    n: int
    accuracy: float
    low: float
    high: float
    kappa: float
    kappa_low: float
    kappa_high: float
    first: float
    steady: float
    effective: float
    left_out: int = 0

    @property
    def useless(self) -> str | None:
        """Why nothing can be measured with this judge, or None."""
        if self.low > 0.5:
            return None
        what = "is not shown to be better than a coin" if self.high >= 0.5 else "disagrees with people more often than a coin"
        return f"the judge {self.judge} {what}: {self.told}"

    @property
    def told(self) -> str:
        """Its figures in words."""
        return (
            f"agrees with {self.labels} on {self.accuracy:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.n} pairs "
            f"(kappa {self.kappa:.2f}), takes what stands first in {self.first:.0%}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"useless": self.useless}


def agreement(judge: str, labels: str, verdicts: Sequence[Verdict | None], clusters: Sequence[str] = (), alpha: float = ALPHA) -> Agreement:
    """What verdicts on labelled pairs say of a judge; in each pair the first answer is the one that people took.

    Args:
        judge, labels: names.
        verdicts: None where it gave none.
        clusters: pairs that depend on one another share one; "" or nothing: each is its own.
        alpha: two-sided error rate.

    Raises:
        DataError: there is no verdict.
    """
    kept = [(one, name) for one, name in zip(verdicts, clusters or [""] * len(verdicts), strict=True) if one is not None]
    if not kept:
        raise DataError(f"{judge} gave no verdict on any of {len(verdicts)} labelled pairs", where=labels, do="Use another judge.")
    right, names = [one.wins for one, _ in kept], [name for _, name in kept]
    n, effective, accuracy = len(right), worth(right, names), sum(right) / len(right)
    low, high = wilson(accuracy * effective, effective, alpha)
    first = sum((one.before > 0) + (one.behind < 0) + ((one.before == 0) + (one.behind == 0)) / 2 for one, _ in kept) / (2 * n)
    return Agreement(
        judge, labels, n, accuracy, low, high, 2 * accuracy - 1, 2 * low - 1, 2 * high - 1,
        first, sum(one.steady for one, _ in kept) / n, effective, len(verdicts) - n,
    )  # fmt: skip


@dataclass(frozen=True)
class Share:
    """The share of pairs that one side wins: as the judge found it, and with its errors taken out."""

    found: float
    found_interval: Interval
    value: float
    interval: Interval
    n: int


def corrected(
    verdicts: Sequence[Verdict | None], judge: Agreement, clusters: Sequence[str] = (), seed: int = 0, alpha: float = ALPHA
) -> Share:
    """The share of pairs whose first answer is the better one, by a judge that errs.

    Args:
        verdicts: None where it gave none.
        judge: with its error on labels.
        clusters: pairs that depend on one another share one; "" or nothing: each is its own.
        seed: of the draws.
        alpha: two-sided error rate.

    Raises:
        DataError: there is no verdict, or the judge is useless.
    """
    if judge.useless:
        raise DataError(judge.useless, where="judge", do="Use a better judge, or more labels.")
    kept = [(one.wins, name) for one, name in zip(verdicts, clusters or [""] * len(verdicts), strict=True) if one is not None]
    if not kept:
        raise DataError(f"{judge.judge} gave no verdict on any of {len(verdicts)} pairs", where="judge", do="Use another judge.")
    wins = [won for won, _ in kept]
    effective, found = worth(wins, [name for _, name in kept]), sum(wins) / len(wins)
    rng = numpy.random.default_rng(derive(seed, "judge"))
    shares, rights = _drawn(rng, found, effective), _drawn(rng, judge.accuracy, judge.effective)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        true = (shares + rights - 1) / (2 * rights - 1)
    # A draw in which the judge is a coin or worse says nothing: it counts for both ends.
    low = float(numpy.quantile(numpy.where(rights > 0.5, true, -numpy.inf), alpha / 2, method="lower"))
    high = float(numpy.quantile(numpy.where(rights > 0.5, true, numpy.inf), 1 - alpha / 2, method="higher"))
    value = min(1.0, max(0.0, (found + judge.accuracy - 1) / (2 * judge.accuracy - 1)))
    interval = (min(value, max(0.0, low)), max(value, min(1.0, high)))
    return Share(found, wilson(found * effective, effective, alpha), value, interval, len(wins))


def _drawn(rng: numpy.random.Generator, share: float, n: float) -> numpy.ndarray:
    """What a share of n independent samples may be in truth."""
    return rng.beta(share * n + 0.5, (1 - share) * n + 0.5, DRAWS)


def worth(values: Sequence[float], clusters: Sequence[str]) -> float:
    """How many independent samples a mean in [0, 1] of dependent ones is worth: measured where clusters are many, else the careful bound."""
    n, own = len(values), dict[object, list[float]]()
    for place, (value, name) in enumerate(zip(values, clusters, strict=True)):
        own.setdefault(name or place, []).append(value)
    groups, mean = len(own), sum(values) / n
    largest = sum(len(each) ** 2 for each in own.values()) / n
    if largest == 1:
        return float(n)
    spread = mean * (1 - mean) / n
    varied = min(sum(sum(each) > 0 for each in own.values()), sum(sum(each) < len(each) for each in own.values()))
    if groups < FEW or not spread or varied < FEW:
        return n / largest
    between = groups / (groups - 1) * math.fsum((sum(each) - mean * len(each)) ** 2 for each in own.values()) / n**2
    return n / min(max(between / spread, 1.0), largest)
