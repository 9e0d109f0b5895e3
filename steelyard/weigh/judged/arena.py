"""The arena: ratings of arms that were compared two at a time, by people or by a judge.

    points = 400 / ln 10 * rating        (400 points apart: odds of ten to one, the scale of chess)

Ratings are maximum-likelihood estimates of the Bradley-Terry model with ties and a place (`bradley_terry.py`), so the order in which the
comparisons came cannot matter. Their mean is zero in each group of arms that can be told apart; an arm without a finite rating is said so,
with the reason. Intervals are percentiles of a bootstrap over what may depend on one another: items, raters, or both at once (each drawn by
itself, weights multiplied: the pigeonhole bootstrap of A. Owen, Annals of Applied Statistics 1, 2007, which errs to the wide side). Where a
resample gives an arm no finite rating its bound is open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy

from steelyard.core.errors import DataError
from steelyard.core.seeds import derive
from steelyard.weigh.judged.comparisons import Comparison
from steelyard.weigh.statistics.bradley_terry import (
    FIRST,
    LARGEST,
    SECOND,
    TIE,
    Fit,
    Pairings,
    centred,
    chances,
    fit,
    linked,
    reached,
    settled,
)
from steelyard.weigh.statistics.intervals import normal_quantile, student_quantile
from steelyard.weigh.statistics.paired import ALPHA, FEW

POINTS = 400 / math.log(10)
DRAWS = 1000
MOST_ARMS = 50
OUTCOMES = {"first": FIRST, "second": SECOND, "tie": TIE}


@dataclass(frozen=True)
class Rated:
    """One arm.

    Attributes:
        arm: its name.
        n, wins, losses, ties: comparisons it was in.
        rating: points; None where there is no finite one, and `reason` says why.
        low, high: of the rating; None where it has none, or is open on that side.
        share: expected share of wins (a tie is half of one) against the other arms of its group, nobody standing first; None without rating.
        share_low, share_high: of it.
        group: arms of one group can be compared with each other, those of different groups cannot.
        reason: why there is no rating.
    """

    arm: str
    n: int
    wins: int
    losses: int
    ties: int
    rating: float | None
    low: float | None
    high: float | None
    share: float | None
    share_low: float | None
    share_high: float | None
    group: int
    reason: str = ""


@dataclass(frozen=True)
class Place:
    """What standing first is worth: the chance of winning that it gives one of two equal arms, where a tie does not come.

    `value` is None where it cannot be told, and `reason` says why; 0.5 is no advantage. `n`: comparisons with a known place.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str = ""


@dataclass(frozen=True)
class Met:
    """Two arms that met: what happened, and by the model the share of wins (a tie half) of the first, nobody standing first.

    `share` and its bounds are None where the two are of different groups: no chain of wins both ways tells how far they are apart.
    """

    first: str
    second: str
    first_won: int
    second_won: int
    ties: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Arena:
    """Everything the comparisons say. Arms are in order of their ratings, those without behind.

    Attributes:
        arms, place, pairs: see there.
        n: comparisons.
        tie: chance of a tie between two equal arms, nobody standing first.
        clusters: what the bootstrap drew: name -> how many.
        draws: resamples.
        confidence: of the intervals.
        notes: limits, one sentence each.
        left_out: how many comparisons were not used, and why.
    """

    arms: list[Rated]
    place: Place
    pairs: list[Met]
    n: int
    tie: float
    clusters: dict[str, int]
    draws: int
    confidence: float
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)

    def arm(self, name: str) -> Rated:
        """An arm by name."""
        return next(arm for arm in self.arms if arm.arm == name)


@dataclass(frozen=True)
class _Table:
    """Comparisons as numbers: each one's cell of counts (pairing * 3 + outcome) and its item and rater."""

    names: list[str]
    pairings: Pairings
    cells: numpy.ndarray
    items: numpy.ndarray
    raters: numpy.ndarray

    def counts(self, weights: numpy.ndarray | None = None) -> numpy.ndarray:
        """float64 [m, 3]."""
        size = len(self.pairings.first) * 3
        return numpy.bincount(self.cells, weights, minlength=size).astype(numpy.float64).reshape(-1, 3)


def arena(comparisons: Sequence[Comparison], *, seed: int = 0, draws: int = DRAWS, alpha: float = ALPHA) -> Arena:
    """Rates arms by how they compared.

    Args:
        comparisons: in any order; the result does not depend on it.
        seed: of the bootstrap.
        draws: resamples.
        alpha: two-sided error rate of the intervals.

    Raises:
        DataError: there is nothing to rate: no comparisons, or nobody ever won.
    """
    if not comparisons:
        raise DataError("there are no comparisons", where="arena", do="Give at least one choice between answers of two arms.")
    if all(one.winner == "tie" for one in comparisons):
        raise DataError(f"all {len(comparisons)} comparisons are ties: nothing tells the arms apart", where="arena", do="Compare more.")
    table = _table(comparisons)
    observed = table.counts()
    groups = linked(table.pairings, observed)
    inside = observed * table.pairings.within(groups)[:, None]
    placed_n = int(observed[table.pairings.placed == 1].sum())
    obstacle = settled(table.pairings, inside) if inside.any() else "no two arms can be told apart"
    found = fit(table.pairings, inside[None], placed=obstacle is None)
    ratings = centred(found.ratings[0], groups)
    weights, clusters = _resampler(table, seed)
    resampled = _Resampled.of(table, groups, ratings, found, weights, draws, obstacle is None)
    tail = _tail(alpha, min(clusters.values()))
    arms = _rated(table, observed, groups, ratings, found.tie[0], resampled, tail)
    notes = _notes(table, groups, clusters)
    value, (low, high) = 1 / (1 + math.exp(-found.first[0])), _bounds(resampled.first, tail)
    place = Place(None, None, None, placed_n, obstacle) if obstacle else Place(value, low or 0.0, 1.0 if high is None else high, placed_n)
    tie = float(chances(numpy.zeros(()), found.tie[0])[TIE])
    pairs = _met(table, observed, groups, ratings, found.tie[0], resampled, tail)
    return Arena(arms, place, pairs, len(comparisons), tie, clusters, draws, 1 - alpha, notes)


def _table(comparisons: Sequence[Comparison]) -> _Table:
    """Comparisons in one order, whatever order they came in; a pairing without a place is told from its lesser name."""
    turned = {"first": "second", "second": "first", "tie": "tie"}
    kept = sorted(
        one
        if one.placed or one.first < one.second
        else Comparison(one.second, one.first, turned[one.winner], one.item, one.rater, one.strength, False)  # type: ignore[arg-type]
        for one in comparisons
    )
    names = sorted({name for one in kept for name in (one.first, one.second)})
    if len(names) > MOST_ARMS:
        raise DataError(f"{len(names)} arms, of which {MOST_ARMS} can be rated at once", where="arena", do="Compare fewer.")
    number = {name: place for place, name in enumerate(names)}
    rows = numpy.array([(number[one.first], number[one.second], int(one.placed)) for one in kept], numpy.int64)
    met, inverse = numpy.unique(rows, axis=0, return_inverse=True)
    outcomes = numpy.array([OUTCOMES[one.winner] for one in kept], numpy.int64)
    pairings = Pairings(len(names), met[:, 0], met[:, 1], met[:, 2].astype(numpy.float64))
    return _Table(
        names, pairings, inverse.reshape(-1) * 3 + outcomes, _codes([one.item for one in kept]), _codes([one.rater for one in kept])
    )


def _codes(names: Sequence[str]) -> numpy.ndarray:
    """int64 [n]: a number for each name; "" is one of its own every time."""
    known: dict[object, int] = {}
    return numpy.array([known.setdefault(name or place, len(known)) for place, name in enumerate(names)], numpy.int64)


def _resampler(table: _Table, seed: int) -> tuple[Any, dict[str, int]]:
    """A function that draws a weight for every comparison, and what it draws from.

    Items are drawn always, raters where one of them judged several items: two crossed sources of chance.
    """
    rng = numpy.random.default_rng(derive(seed, "arena"))
    items, raters = int(table.items.max()) + 1, int(table.raters.max()) + 1
    crossed = raters < len(table.raters) and raters > 1
    if not crossed:
        return (lambda: rng.multinomial(items, numpy.full(items, 1 / items))[table.items]), {"items": items}

    def weights() -> numpy.ndarray:
        one, other = (rng.multinomial(count, numpy.full(count, 1 / count)) for count in (items, raters))
        return one[table.items] * other[table.raters]

    return weights, {"items": items, "raters": raters}


@dataclass(frozen=True)
class _Resampled:
    """Ratings of resamples, on the scale of the observed ones: inf above, -inf below, nan where an arm cannot be compared with the others.

    Attributes:
        ratings: float64 [draws, k].
        first: float64 [draws], what standing first is worth, as a chance.
        shares: float64 [draws, k].
        tie: float64 [draws], log nu.
    """

    ratings: numpy.ndarray
    first: numpy.ndarray
    shares: numpy.ndarray
    tie: numpy.ndarray

    @classmethod
    def of(
        cls, table: _Table, groups: numpy.ndarray, observed: numpy.ndarray, start: Fit, weights: Any, draws: int, placed: bool
    ) -> _Resampled:
        pairings, k = table.pairings, len(table.names)
        counts = numpy.stack([table.counts(weights()) for _ in range(draws)]) * pairings.within(groups)[:, None]
        chains = reached(pairings, counts)
        both = chains & chains.transpose(0, 2, 1)
        places = numpy.full((draws, k), -1)  # the group of each arm, or -1 where this resample does not link it
        outside = numpy.full((draws, k), numpy.nan)
        for group in numpy.unique(groups):
            members = numpy.flatnonzero(groups == group)
            linked_to = both[:, members][:, :, members].sum(axis=2)
            heart = members[linked_to.argmax(axis=1)]  # an arm of the largest set of members that are linked in this resample
            rows = numpy.arange(draws)
            inside, above, below = both[rows, heart], chains[rows, :, heart], chains[rows, heart]
            mine = numpy.zeros(k, bool)
            mine[members] = True
            places[inside & mine] = group
            outside[mine & above & ~inside] = numpy.inf
            outside[mine & below & ~inside] = -numpy.inf
            # Where most arms are not linked no scale is left: who stands above somebody is open upwards, who stands below downwards.
            torn = mine & ((inside & mine).sum(axis=1) * 2 <= len(members))[:, None]
            over = (chains & ~both & mine).any(axis=2)
            under = (chains & ~both & mine[:, None]).any(axis=1)
            outside = numpy.where(torn, numpy.where(over == under, numpy.nan, numpy.where(over, numpy.inf, -numpy.inf)), outside)
            places[torn] = -1
        found = fit(pairings, counts * pairings.within(places)[..., None], placed=placed, start=start)
        ratings = outside
        for group in numpy.unique(groups):
            inside = places == group
            size = numpy.maximum(inside.sum(axis=1, keepdims=True), 1)
            shift = numpy.where(inside, found.ratings - observed, 0).sum(axis=1, keepdims=True) / size
            ratings = numpy.where(inside, found.ratings - shift, ratings)
        first = numpy.where(numpy.abs(found.first) >= LARGEST / 2, numpy.copysign(numpy.inf, found.first), found.first)
        with numpy.errstate(over="ignore"):
            first = 1 / (1 + numpy.exp(-first))
        return cls(ratings, first, _shares(ratings, groups, found.tie), found.tie)


def _shares(ratings: numpy.ndarray, groups: numpy.ndarray, tie: numpy.ndarray) -> numpy.ndarray:
    """[s, k]: expected share of wins against the other arms of the group, a tie being half of one; nan for an arm alone or not linked."""
    out = numpy.full(ratings.shape, numpy.nan)
    with numpy.errstate(invalid="ignore"):
        for arm in range(ratings.shape[1]):
            others = [other for other in numpy.flatnonzero(groups == groups[arm]) if other != arm]
            if not others:
                continue
            gap = numpy.nan_to_num(ratings[:, [arm]] - ratings[:, others], nan=numpy.nan, posinf=LARGEST, neginf=-LARGEST)
            won = chances(gap, tie[:, None])
            out[:, arm] = (won[..., FIRST] + won[..., TIE] / 2).mean(axis=1)
    return out


def _tail(alpha: float, clusters: int) -> float:
    """The share of resamples beyond each bound, fewer where clusters are few (Hesterberg 2015), as in `intervals.bootstrap`."""
    if clusters < 2:
        return 0.0
    wider = math.sqrt(clusters / (clusters - 1)) * student_quantile(alpha, clusters - 1)
    return math.erfc(max(wider, normal_quantile(alpha)) / math.sqrt(2)) / 2


def _bounds(values: numpy.ndarray, tail: float) -> tuple[float | None, float | None]:
    """The bounds between which resamples lie; None where open. What cannot be compared may lie on either side."""
    low = float(numpy.quantile(numpy.nan_to_num(values, nan=-numpy.inf, posinf=numpy.inf, neginf=-numpy.inf), tail, method="lower"))
    high = float(numpy.quantile(numpy.nan_to_num(values, nan=numpy.inf, posinf=numpy.inf, neginf=-numpy.inf), 1 - tail, method="higher"))
    return (low if math.isfinite(low) else None), (high if math.isfinite(high) else None)


def _rated(
    table: _Table, observed: numpy.ndarray, groups: numpy.ndarray, ratings: numpy.ndarray, tie: float, drawn: _Resampled, tail: float
) -> list[Rated]:
    shares = _shares(ratings[None], groups, numpy.array([tie]))[0]
    out = []
    for arm, name in enumerate(table.names):
        one, other = table.pairings.first == arm, table.pairings.second == arm
        wins = int(observed[one, FIRST].sum() + observed[other, SECOND].sum())
        losses = int(observed[one, SECOND].sum() + observed[other, FIRST].sum())
        ties = int(observed[one | other, TIE].sum())
        record = (name, wins + losses + ties, wins, losses, ties)
        if (groups == groups[arm]).sum() == 1:
            out.append(Rated(*record, None, None, None, None, None, None, int(groups[arm]), _why(wins, losses, ties)))
            continue
        low, high = _bounds(drawn.ratings[:, arm], tail)
        least, most = _bounds(drawn.shares[:, arm], tail)
        points = float(ratings[arm]) * POINTS
        out.append(
            Rated(
                *record,
                points,
                None if low is None else min(low * POINTS, points),
                None if high is None else max(high * POINTS, points),
                float(shares[arm]),
                0.0 if least is None else min(least, float(shares[arm])),
                1.0 if most is None else max(most, float(shares[arm])),
                int(groups[arm]),
            )
        )
    return sorted(out, key=lambda arm: (arm.group if arm.rating is not None else len(out), -(arm.rating or 0.0), arm.arm))


def _why(wins: int, losses: int, ties: int) -> str:
    if not losses and not ties:
        return f"never beaten in {wins} comparison{'s' * (wins > 1)}: every higher rating fits better, so there is none"
    if not wins and not ties:
        return f"never won in {losses} comparison{'s' * (losses > 1)}: every lower rating fits better, so there is none"
    return "no chain of wins leads from it to the others and back: all it beat never beat, even by others, what beats it"


def _notes(table: _Table, groups: numpy.ndarray, clusters: dict[str, int]) -> list[str]:
    notes = []
    large = [group for group in numpy.unique(groups) if (groups == group).sum() > 1]
    if len(large) > 1:
        notes.append(f"The arms fall into {len(large)} groups without wins both ways between them: ratings compare within a group alone.")
    if not large:
        return ["No arm has a finite rating: every one always won, or always lost, against those it met."]
    notes += [f"Few {name} ({count}): intervals from so few say little." for name, count in clusters.items() if count < FEW]
    if len(set(table.raters.tolist())) == 1 and len(table.raters) > 1:
        notes.append("All judgements are one rater's: the intervals say nothing about what others would choose.")
    return notes


def _met(
    table: _Table, observed: numpy.ndarray, groups: numpy.ndarray, ratings: numpy.ndarray, tie: float, drawn: _Resampled, tail: float
) -> list[Met]:
    sums: dict[tuple[int, int], numpy.ndarray] = {}
    for one, other, count in zip(table.pairings.first.tolist(), table.pairings.second.tolist(), observed, strict=True):
        pair, turned = (min(one, other), max(one, other)), count if one < other else count[[SECOND, FIRST, TIE]]
        sums[pair] = sums.get(pair, numpy.zeros(3)) + turned
    out = []
    for (one, other), count in sorted(sums.items()):
        wins, losses, ties = map(int, count)
        share = low = high = None
        if groups[one] == groups[other]:
            two = numpy.zeros(2, numpy.int64)  # as a group of their own
            share = float(_shares(ratings[None, [one, other]], two, numpy.array([tie]))[0, 0])
            low, high = _bounds(_shares(drawn.ratings[:, [one, other]], two, drawn.tie)[:, 0], tail)
            low, high = 0.0 if low is None else min(low, share), 1.0 if high is None else max(high, share)
        out.append(Met(table.names[one], table.names[other], wins, losses, ties, share, low, high))
    return out
