"""A scaling law: how the loss of models trained from nothing falls with their size and with the tokens they read.

L(N, D) = E + A / N^alpha + B / D^beta          (Hoffmann et al. 2022, arXiv:2203.15556, approach 3)

N weights, D tokens, L in nats a token. The five numbers minimise Huber's loss of log L - log L(N, D), from many starts at once, as
it has several minima. With C = k N D operations, the best size and the best number of tokens for a budget C are

N* = G (C / k)^a,   D* = (C / k)^b / G,   a = beta / (alpha + beta),  b = 1 - a,  G = (alpha A / (beta B))^(1 / (alpha + beta)).

Trainings of one size and length under several seeds are one point, their mean: what all of them share, a learning rate that suits a
size less well for example, does not show in their spread. Intervals are those of a bootstrap that draws the points' residuals anew
(draws of a dozen points would often leave out a whole size), made larger for how few they are: five numbers follow a dozen points
closely whatever these say, and the paper's own intervals were far too short (Besiroglu et al. 2024, arXiv:2404.10102). Huber's loss
bends where residuals become large beside the others; bent at the paper's 0.001 throughout, intervals for points that scatter by 0.003
held the truth in 87 to 93% of simulations where 95% were stated; these hold it in 91 to 97% (docs/reports.md).

Shapes: n points, r fits side by side; five numbers each: log A, alpha, log B, beta, log E, with N and D in units of their geometric
means, so that the numbers hang together less.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy
from scipy import optimize

from steelyard.core.errors import SteelyardError
from steelyard.core.seeds import derive
from steelyard.weigh.report.report import ArmSummary, Foretold, ScalingFigure, ScalingLaw, ScalingPoint, Training
from steelyard.weigh.statistics.intervals import normal_quantile, student_quantile

NUMBERS = 5
LEAST_VALUES = 3
"""Different sizes and different numbers of tokens: between two, a steep power and a flat one say the same."""
LEAST_FREE = 2
"""Points beyond five that a law must have before it is asked to foretell another."""
IN_STEP = 0.999
"""Correlation of log N and log D from which on their effects are not told apart."""
HUBER = 1e-3
"""Of the paper: beyond this distance of log L a point pulls no stronger; the least that is used here."""
EFFICIENT = 1.345
"""Standard deviations at which Huber's loss bends and keeps 95% of the efficiency of least squares (Huber 1964)."""
RESAMPLES = 500
FLATTEST, STEEPEST = 1e-3, 3.0
"""Powers are looked for between these; one that ends there is not settled."""
SMALLEST, LARGEST = -12.0, 30.0
"""Logarithms of E, A and B are looked for between these."""
STARTS = (0.1, 0.2, 0.35, 0.5, 0.8, 1.2)
NEAR = 6
"""Of the starts' ends by least squares, so many are where Huber's loss begins: the best, and others by their rank."""
MOST_STEPS, LONGEST_STEP, DONE = 300, 2.0, 1e-9
KNOWN_WITHIN, SHARE_WITHIN = 2.0, 0.2
"""A figure is settled where its interval's ends differ by no more than this factor; an exponent of growth, by no more than this."""


def scaling_laws(arms: Mapping[str, ArmSummary], alpha: float = 0.05) -> list[ScalingLaw]:
    """One law for each family of trainings that has at least five different (parameters, tokens).

    Args:
        arms: who was weighed.
        alpha: two-sided error rate of the intervals.

    Returns:
        Laws in the order of the arms; where one cannot be fitted, its points and the reason.
    """
    families: dict[str, list[tuple[str, Training]]] = {}
    for name, arm in arms.items():
        for training in arm.trainings:
            families.setdefault(training.family, []).append((name, training))
    found = []
    for members in families.values():
        points = points_of(members)
        if len(points) < NUMBERS:
            continue
        name = members[0][1].name
        try:
            found.append(scaling_law(points, name, alpha))
        except SteelyardError as error:
            found.append(ScalingLaw(name, points, [], f"No law: {error.what}. {error.do or ''}".strip()))
    return found


def points_of(trainings: Sequence[tuple[str, Training]]) -> list[ScalingPoint]:
    """(arm, training) as points, the cheapest first; those of one size and length are one, with the mean of log L."""
    together: dict[tuple[int, int], list[tuple[str, Training]]] = {}
    for arm, training in trainings:
        together.setdefault((training.parameters, training.tokens), []).append((arm, training))
    points = []
    for (parameters, tokens), members in together.items():
        losses = [training.loss for _, training in members]
        usable = all(math.isfinite(loss) and loss > 0 for loss in losses)
        mean = math.exp(sum(map(math.log, losses)) / len(losses)) if usable else math.nan
        flops = sum(training.flops for _, training in members) / len(members)
        points.append(ScalingPoint(list(dict.fromkeys(arm for arm, _ in members)), parameters, tokens, flops, mean, len(members)))
    return sorted(points, key=lambda point: (point.flops, point.parameters))


def scaling_law(points: Sequence[ScalingPoint], name: str = "", alpha: float = 0.05, resamples: int = RESAMPLES) -> ScalingLaw:
    """The law over some points.

    Args:
        points: of different (parameters, tokens), with their mean losses.
        name: what was trained, in words.
        alpha: two-sided error rate of the intervals.
        resamples: of the bootstrap.

    Raises:
        SteelyardError: the points cannot tell five numbers apart, whatever their losses are, or a loss is no positive number.
    """
    check(points)
    data = Data.of(points)
    fit = Fit.to(data)
    drawn = fit.drawn(data, alpha, resamples) if data.free else None
    budget = max(point.flops for point in points)
    every = figures_of(fit.numbers[None], data, budget)
    spread = figures_of(drawn, data, budget) if drawn is not None else {}
    figures = []
    for key, (values, words) in every.items():
        low = high = None
        if drawn is not None:
            low, high = (float(edge) for edge in numpy.quantile(spread[key][0], [alpha / 2, 1 - alpha / 2]))
        figures.append(ScalingFigure(key, words, float(values[0]), low, high, _settled(key, low, high)))
    law = ScalingLaw(
        name,
        [replace(point, fitted=math.exp(value)) for point, value in zip(points, fit.fitted, strict=True)],
        figures,
        "",
        fit.deviation,
        data.operations,
        _foretold(points, alpha, resamples),
    )
    return replace(law, verdict=_verdict(law, data.free, budget))


def check(points: Sequence[ScalingPoint]) -> None:
    """Refuses points that cannot tell the law's five numbers apart.

    Raises:
        SteelyardError: too few points, sizes or lengths, sizes and lengths that grow in step, or a loss that is no positive number.
    """
    do = "Train several sizes, each with several budgets."
    if bad := [point for point in points if not (math.isfinite(point.loss) and point.loss > 0)]:
        raise SteelyardError(f"a loss of {bad[0].loss:g} has no logarithm", where=", ".join(bad[0].arms), do="Leave that arm out.")
    if any(point.parameters < 1 or point.tokens < 1 or not point.flops > 0 for point in points):
        raise SteelyardError("a point without weights, tokens or operations", do=do)
    if len(points) < NUMBERS:
        raise SteelyardError(f"{len(points)} points for five numbers", do=do)
    for what, values in (("sizes", {point.parameters for point in points}), ("numbers of tokens", {point.tokens for point in points})):
        if len(values) < LEAST_VALUES:
            raise SteelyardError(f"only {len(values)} different {what}, where {LEAST_VALUES} are the least", do=do)
    sizes, lengths = (numpy.log([getattr(point, key) for point in points]) for key in ("parameters", "tokens"))
    if abs(float(numpy.corrcoef(sizes, lengths)[0, 1])) > IN_STEP:
        raise SteelyardError("sizes and numbers of tokens change in step, so that their effects are one", do=do)


@dataclass(frozen=True)
class Data:
    """Points as logarithms. size, length and loss: float64 [n], the first two centred on `centre`."""

    size: numpy.ndarray
    length: numpy.ndarray
    loss: numpy.ndarray
    centre: tuple[float, float]
    operations: float

    @classmethod
    def of(cls, points: Sequence[ScalingPoint]) -> Data:
        size, length, flops, loss = (numpy.log([getattr(p, key) for p in points]) for key in ("parameters", "tokens", "flops", "loss"))
        centre = (float(size.mean()), float(length.mean()))
        return cls(size - centre[0], length - centre[1], loss, centre, math.exp(float((flops - size - length).mean())))

    @property
    def free(self) -> int:
        """Points beyond those that the five numbers use up."""
        return len(self.loss) - NUMBERS


@dataclass(frozen=True)
class Fit:
    """The best five numbers [5], what they say of each point [n], runners-up [r, 5], and where Huber's loss bends."""

    numbers: numpy.ndarray
    fitted: numpy.ndarray
    others: numpy.ndarray
    bend: float
    deviation: float | None

    @classmethod
    def to(cls, data: Data) -> Fit:
        """From every start by least squares, then once more by Huber's loss, which bends by how far the points lie from the first."""
        starts = _starts(data)
        rough, rough_cost = _descend(starts, data, numpy.broadcast_to(data.loss, (len(starts), len(data.loss))), math.inf)
        best = rough[numpy.argmin(rough_cost)]
        left = data.loss - _law(best[None], data)[0][0]
        # The median does not hear outliers; five numbers have made the residuals smaller than the scatter.
        scatter = 1.4826 * float(numpy.median(numpy.abs(left))) * math.sqrt(len(left) / data.free) if data.free else 0.0
        bend = max(HUBER, EFFICIENT * scatter)
        near = rough[numpy.argsort(rough_cost, kind="stable")[:: len(rough) // NEAR]]
        found, cost = _descend(near, data, numpy.broadcast_to(data.loss, (len(near), len(data.loss))), bend)
        found = found[numpy.argsort(cost, kind="stable")]
        fitted = _law(found[:1], data)[0][0]
        deviation = math.sqrt(float(((data.loss - fitted) ** 2).sum()) / data.free) if data.free else None
        return cls(found[0], fitted, found[[len(found) // 3, 2 * len(found) // 3]], bend, deviation)

    def drawn(self, data: Data, alpha: float, resamples: int) -> numpy.ndarray:
        """Fits to losses whose residuals are drawn anew: float64 [resamples, 5]. Equal points give equal draws."""
        losses = self.fitted + self.residuals(data, alpha, resamples, "losses")
        starts = numpy.concatenate([numpy.tile(start, (resamples, 1)) for start in (self.numbers, *self.others)])
        tries = len(starts) // resamples
        found, cost = _descend(starts, data, numpy.tile(losses, (tries, 1)), self.bend)
        best = cost.reshape(tries, resamples).argmin(0)
        return found.reshape(tries, resamples, NUMBERS)[best, numpy.arange(resamples)]

    def residuals(self, data: Data, alpha: float, resamples: int, purpose: str) -> numpy.ndarray:
        """Residuals drawn with replacement: float64 [resamples, n].

        They are as large as they were before five numbers followed them, and larger still where few points are left to tell how large
        that is, as Student's t is wider than the normal distribution at this error rate.
        """
        left = data.loss - self.fitted
        few = student_quantile(alpha, data.free) / normal_quantile(alpha)
        left = (left - left.mean()) * math.sqrt(len(left) / data.free) * few
        return left[numpy.random.default_rng(derive("scaling law", purpose)).integers(0, len(left), (resamples, len(left)))]


def figures_of(numbers: numpy.ndarray, data: Data, budget: float) -> dict[str, tuple[numpy.ndarray, str]]:
    """What laws say, by name: float64 [r] and words. numbers: float64 [r, 5]; budget: operations of the best size that is told."""
    log_a, size_power, log_b, length_power, log_e = numbers.T
    log_a, log_b = log_a + size_power * data.centre[0], log_b + length_power * data.centre[1]
    share = length_power / (size_power + length_power)
    log_g = (numpy.log(size_power) + log_a - numpy.log(length_power) - log_b) / (size_power + length_power)
    work = math.log(budget / data.operations)
    # What a budget far from the points would have as its best size may be no number a computer knows.
    best_size, best_length = (numpy.exp(numpy.clip(value, -700, 700)) for value in (log_g + share * work, (1 - share) * work - log_g))
    return {
        "E": (numpy.exp(log_e), "loss that neither size nor tokens lower, nats a token"),
        "A": (numpy.exp(log_a), "weight of size"),
        "alpha": (size_power, "power of size"),
        "B": (numpy.exp(log_b), "weight of tokens"),
        "beta": (length_power, "power of tokens"),
        "size_exponent": (share, "best size grows with this power of the operations"),
        "token_exponent": (1 - share, "best number of tokens grows with this power of the operations"),
        "best_parameters": (best_size, f"best size for {budget:.3g} operations, weights"),
        "best_tokens": (best_length, f"best number of tokens for {budget:.3g} operations"),
    }


def _settled(name: str, low: float | None, high: float | None) -> bool:
    if low is None or high is None:
        return False
    if name in ("size_exponent", "token_exponent"):
        return high - low <= SHARE_WITHIN
    if name in ("alpha", "beta") and (low <= FLATTEST * 1.001 or high >= STEEPEST * 0.999):
        return False
    return low > 0 and high <= KNOWN_WITHIN * low


def _verdict(law: ScalingLaw, free: int, budget: float) -> str:
    """What the law says about the best size."""
    if not free:
        return "Not settled: five numbers follow five points exactly, and nothing is left to tell how far they can be trusted."
    growth, size = law.figure("size_exponent"), law.figure("best_parameters")
    assert growth.low is not None and growth.high is not None
    span = f"its exponent lies in {growth.low:.2f} to {growth.high:.2f}"
    if growth.high < 0.5:
        out = f"With more operations the best number of tokens grows faster than the best size ({span})"
    elif growth.low > 0.5:
        out = f"With more operations the best size grows faster than the best number of tokens ({span})"
    elif growth.settled:
        out = f"Whether the best size or the best number of tokens grows faster is open, they are close ({span})"
    else:
        out = f"Not settled: whether the best size or the best number of tokens grows faster with the operations ({span})"
    if not growth.settled and not growth.low <= 0.5 <= growth.high:
        out += "; by how much is not settled"
    if size.settled:
        return f"{out}. For {budget:.3g} operations the best size is known within a factor of {KNOWN_WITHIN:g}."
    return f"{out}. The best size for {budget:.3g} operations is not known within a factor of {KNOWN_WITHIN:g} either."


def _foretold(points: Sequence[ScalingPoint], alpha: float, resamples: int) -> Foretold | None:
    """The costliest point's loss by a law of all others, or None where these are too few."""
    *others, last = sorted(points, key=lambda point: (point.flops, point.parameters))
    if len(others) < NUMBERS + LEAST_FREE:
        return None
    try:
        check(others)
    except SteelyardError:
        return None
    data = Data.of(others)
    fit = Fit.to(data)
    where = Data(
        numpy.array([math.log(last.parameters) - data.centre[0]]),
        numpy.array([math.log(last.tokens) - data.centre[1]]),
        numpy.array([math.log(last.loss)]),
        data.centre,
        data.operations,
    )
    told = _law(fit.numbers[None], where)[0][0, 0]
    # The point has a residual of its own besides what is uncertain of the law.
    spread = _law(fit.drawn(data, alpha, resamples), where)[0][:, 0] + fit.residuals(data, alpha, resamples, "new point")[:, 0]
    low, high = (math.exp(float(edge)) for edge in numpy.quantile(spread, [alpha / 2, 1 - alpha / 2]))
    return Foretold(last.arms, last.loss, math.exp(float(told)), low, high)


def _law(numbers: numpy.ndarray, data: Data) -> tuple[numpy.ndarray, numpy.ndarray]:
    """log L [r, n], and the shares [r, n, 3] that size, tokens and E have in L."""
    size = numbers[:, 0:1] - numbers[:, 1:2] * data.size
    length = numbers[:, 2:3] - numbers[:, 3:4] * data.length
    terms = numpy.stack([size, length, numpy.broadcast_to(numbers[:, 4:5], size.shape)], -1)
    top = terms.max(-1, keepdims=True)
    parts = numpy.exp(terms - top)
    whole = parts.sum(-1, keepdims=True)
    return (top + numpy.log(whole))[..., 0], parts / whole


def _cost(left: numpy.ndarray, bend: float) -> numpy.ndarray:
    """Huber's loss of residuals [r, n], summed over the points: [r]."""
    size = numpy.abs(left)
    return numpy.where(size <= bend, left * left / 2, size * min(bend, 1e300) - min(bend, 1e150) ** 2 / 2).sum(-1)


def _starts(data: Data) -> numpy.ndarray:
    """For each pair of powers from `STARTS` the E, A and B that suit it best, none below zero (a linear problem): [36, 5]."""
    loss, out = numpy.exp(data.loss), []
    for size, length in itertools.product(STARTS, STARTS):
        columns = numpy.stack([numpy.exp(-size * data.size), numpy.exp(-length * data.length), numpy.ones_like(loss)], 1)
        a, b, e = numpy.log(numpy.maximum(optimize.nnls(columns / loss[:, None], numpy.ones_like(loss))[0], 1e-5))
        out.append([a, size, b, length, e])
    return numpy.array(out)


def _descend(starts: numpy.ndarray, data: Data, losses: numpy.ndarray, bend: float) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Levenberg's and Marquardt's steps from every start at once, residuals reweighted as Huber's loss asks.

    Args:
        starts: float64 [r, 5].
        losses: float64 [r, n], the log L that each is to follow.
        bend: of Huber's loss.

    Returns:
        Numbers [r, 5] and their costs [r].
    """
    low = numpy.array([SMALLEST, FLATTEST, SMALLEST, FLATTEST, SMALLEST])
    high = numpy.array([LARGEST, STEEPEST, LARGEST, STEEPEST, LARGEST])
    ends, costs = numpy.clip(starts, low, high), numpy.empty(len(starts))
    going = numpy.arange(len(starts))  # rows that have not come to rest
    numbers, damping = ends.copy(), numpy.full(len(starts), 1e-2)
    law, shares = _law(numbers, data)
    cost = _cost(law - losses, bend)
    costs[:] = cost
    for _ in range(MOST_STEPS):
        left = law - losses
        slopes = numpy.stack(
            [shares[..., 0], -shares[..., 0] * data.size, shares[..., 1], -shares[..., 1] * data.length, shares[..., 2]], -1
        )
        pulled = slopes * numpy.minimum(1.0, bend / numpy.maximum(numpy.abs(left), 1e-300))[..., None]
        gradient = (pulled * left[..., None]).sum(1)
        curvature = pulled.swapaxes(1, 2) @ slopes
        ridge = damping[:, None] * (numpy.einsum("rii->ri", curvature) + 1e-9)
        step = numpy.linalg.solve(curvature + ridge[..., None] * numpy.eye(NUMBERS), -gradient[..., None])[..., 0]
        tried = numpy.clip(numbers + numpy.clip(step, -LONGEST_STEP, LONGEST_STEP), low, high)
        tried_law, tried_shares = _law(tried, data)
        tried_cost = _cost(tried_law - losses, bend)
        better = tried_cost < cost
        rest = (better & (cost - tried_cost <= DONE * cost)) | (damping >= 1e8)
        numbers[better], law[better], shares[better], cost[better] = (
            tried[better],
            tried_law[better],
            tried_shares[better],
            tried_cost[better],
        )
        damping = numpy.clip(numpy.where(better, damping * 0.3, damping * 5), 1e-9, 1e9)
        ends[going], costs[going] = numbers, cost
        if rest.all():
            break
        if rest.any():
            go = ~rest
            going, numbers, damping, law, shares, cost, losses = (each[go] for each in (going, numbers, damping, law, shares, cost, losses))
    return ends, costs
