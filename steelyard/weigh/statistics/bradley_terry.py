"""Bradley-Terry with ties and the advantage of standing first: maximum likelihood, and when there is none.

    first wins : second wins : tie  =  exp(u) : exp(-u) : nu,      u = (r_first - r_second + b) / 2

r are the ratings (natural logarithms of strength), b is what standing first is worth (0 where nobody knows who stood first), nu makes
ties (Davidson's model; without ties nu = 0 and this is Bradley and Terry's). The likelihood is concave and sums over comparisons, so their
order cannot matter, as it does for Elo's running numbers.

A maximum exists exactly where every two arms are linked by chains of wins (or ties) in both directions (Ford 1957). An arm that was never
beaten has none: any rating explains it less well than a higher one. `linked` finds the groups of arms that can be rated; `settled` asks the
same of b by linear programming.
Sources: R. Bradley & M. Terry, Biometrika 39 (1952); L. Ford, American Mathematical Monthly 64 (1957); R. Davidson, Journal of the American
Statistical Association 65 (1970); R. Davidson & R. Beaver, Biometrics 33 (1977).

Legend: k arms, m distinct pairings, s sets of counts (the observed ones, or resamples of them).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from scipy import optimize, sparse

FIRST, SECOND, TIE = 0, 1, 2
LARGEST = 35.0
"""Where a number that grows without end is stopped: odds of 1.6e15 to one."""
STEPS = 60
PRECISE = 1e-11  # of the slope a comparison, where Newton's method stops


@dataclass(frozen=True)
class Pairings:
    """Who met whom, each pairing once.

    Attributes:
        arms: k, how many there are.
        first, second: int64 [m], numbers of the arms.
        placed: float64 [m], 1 where `first` is known to have stood first, else 0.
    """

    arms: int
    first: numpy.ndarray
    second: numpy.ndarray
    placed: numpy.ndarray

    @property
    def design(self) -> numpy.ndarray:
        """float64 [m, k + 1]: what multiplies r and b in 2u."""
        out, rows = numpy.zeros((len(self.first), self.arms + 1)), numpy.arange(len(self.first))
        out[rows, self.first] += 1
        out[rows, self.second] -= 1
        out[:, -1] = self.placed
        return out

    def within(self, groups: numpy.ndarray) -> numpy.ndarray:
        """bool [..., m]: whether both arms of a pairing are in one group (groups: int64 [..., k]; -1 is none)."""
        left, right = groups[..., self.first], groups[..., self.second]
        return (left == right) & (left >= 0)


@dataclass(frozen=True)
class Fit:
    """Ratings of s sets of counts.

    Attributes:
        ratings: float64 [s, k], natural logarithms; means of groups are zero only where `centred` made them so.
        first: float64 [s], b.
        tie: float64 [s], log nu; -inf without ties.
    """

    ratings: numpy.ndarray
    first: numpy.ndarray
    tie: numpy.ndarray


def reached(pairings: Pairings, counts: numpy.ndarray) -> numpy.ndarray:
    """bool [s, k, k]: whether a chain of wins or ties leads from one arm down to another (every arm reaches itself).

    Args:
        pairings: who met whom.
        counts: float64 [s, m, 3], wins of the first, of the second, ties.
    """
    k = pairings.arms
    beats = numpy.zeros((len(counts), k, k), bool)
    beats[:, numpy.arange(k), numpy.arange(k)] = True
    for row, (one, other) in enumerate(zip(pairings.first, pairings.second, strict=True)):
        tied = counts[:, row, TIE] > 0
        beats[:, one, other] |= (counts[:, row, FIRST] > 0) | tied
        beats[:, other, one] |= (counts[:, row, SECOND] > 0) | tied
    for _ in range(max(1, int(numpy.ceil(numpy.log2(max(k, 2)))))):  # each squaring doubles the length of the chains
        beats = numpy.matmul(beats.astype(numpy.float32), beats.astype(numpy.float32)) > 0
    return beats


def linked(pairings: Pairings, counts: numpy.ndarray) -> numpy.ndarray:
    """int64 [k]: the group of each arm, the largest 0; arms of one group are linked by chains of wins both ways.

    Args:
        pairings: who met whom.
        counts: float64 [m, 3].
    """
    chains = reached(pairings, counts[None])[0]
    both = chains & chains.T
    found = sorted({tuple(numpy.flatnonzero(row).tolist()) for row in both}, key=lambda arms: (-len(arms), arms))
    out = numpy.empty(pairings.arms, numpy.int64)
    for number, arms in enumerate(found):
        out[list(arms)] = number
    return out


def settled(pairings: Pairings, counts: numpy.ndarray) -> str | None:
    """Why b cannot be told from these counts, or None where it can. All arms are to be linked.

    Two things may be in the way: b and the ratings explain the same (one arm always stood first), or a direction in which the
    likelihood rises for ever (whoever stood first always won).
    """
    seen = counts.sum(axis=-1) > 0
    design = pairings.design[seen]
    if not design[:, -1].any():
        return "nobody recorded who stood first"
    if numpy.linalg.matrix_rank(design) == numpy.linalg.matrix_rank(design[:, :-1]):
        return "each pair always stood in one order, so that standing first cannot be told from being better"
    ties = counts[:, TIE].any()
    moves = []
    for row, count in zip(design, counts[seen], strict=True):
        up, none = numpy.append(row / 2, 0.0), numpy.append(numpy.zeros(len(row)), 1.0)
        sides = [up, -up, *([none] if ties else [])]
        moves += [sides[won] - other for won in range(len(sides)) if count[won] > 0 for place, other in enumerate(sides) if place != won]
    rising = optimize.linprog(
        -numpy.sum(moves, axis=0), A_ub=-numpy.array(moves), b_ub=numpy.zeros(len(moves)), bounds=(-1, 1), method="highs"
    )
    return "the better one always stood first, or the worse one always did" if not rising.success or rising.fun < -1e-7 else None


def fit(pairings: Pairings, counts: numpy.ndarray, *, placed: bool, start: Fit | None = None) -> Fit:
    """Maximum likelihood by Newton's method, all sets of counts at once.

    Args:
        pairings: who met whom.
        counts: float64 [s, m, 3]; weights, so fractions are allowed. Where no maximum exists, numbers stop near `LARGEST`.
        placed: whether b is fitted; else it is 0.
        start: a fit of one set of counts to begin from.

    Returns:
        Ratings up to a constant in each group; see `centred`.
    """
    design = pairings.design if placed else pairings.design[:, :-1]
    squares = _squares(design)
    size, ties = len(counts), bool(counts[..., TIE].any())
    width = design.shape[1]
    theta = numpy.zeros((size, width + 1))
    if start is not None:
        began = numpy.concatenate([start.ratings[0], start.first[:1] if placed else [], start.tie[:1] if ties else [0.0]])
        theta[:] = numpy.clip(began, -LARGEST, LARGEST)
    left = numpy.arange(size)  # sets that have not come to their maximum
    for _ in range(STEPS):
        here, now = counts[left], theta[left]
        totals = numpy.maximum(here.sum(axis=(1, 2)), 1.0)
        slope, curve = _derivatives(design, squares, here, now, ties)
        going = numpy.abs(slope).max(axis=1) > PRECISE * totals
        if not going.any():
            break
        left, here, now, totals = left[going], here[going], now[going], totals[going]
        slope, curve = slope[going], curve[going]
        curve[:, numpy.arange(width + 1), numpy.arange(width + 1)] += 1e-9 * totals[:, None]  # ratings are free up to a constant
        step = numpy.linalg.solve(curve, slope[..., None])[..., 0]
        step *= numpy.minimum(1.0, 5.0 / numpy.maximum(numpy.abs(step).max(axis=1, keepdims=True), 1e-300))
        value, scale = _likelihood(design, here, now, ties), numpy.ones(len(left))
        for _ in range(30):
            moved = numpy.clip(now + scale[:, None] * step, -LARGEST, LARGEST)
            worse = _likelihood(design, here, moved, ties) < value - 1e-12 * totals
            if not worse.any():
                break
            scale[worse] /= 2
        theta[left] = numpy.clip(now + scale[:, None] * step, -LARGEST, LARGEST)
    tie = theta[:, width] if ties else numpy.full(size, -numpy.inf)
    return Fit(theta[:, : pairings.arms], theta[:, pairings.arms] if placed else numpy.zeros(size), tie)


def centred(ratings: numpy.ndarray, groups: numpy.ndarray) -> numpy.ndarray:
    """Ratings [k] with mean zero in each group [k]."""
    out = ratings.copy()
    for group in numpy.unique(groups):
        out[groups == group] -= out[groups == group].mean()
    return out


def chances(difference: numpy.ndarray, tie: numpy.ndarray) -> numpy.ndarray:
    """[..., 3]: first wins, second wins, tie, for a difference of ratings (b included) and log nu."""
    sides = numpy.stack(numpy.broadcast_arrays(difference / 2, -difference / 2, tie), axis=-1)
    odds = numpy.exp(sides - sides.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def _chances(design: numpy.ndarray, theta: numpy.ndarray, ties: bool) -> numpy.ndarray:
    tie = theta[:, -1:] if ties else numpy.full((len(theta), 1), -numpy.inf)
    return chances(theta[:, :-1] @ design.T, tie)


def _likelihood(design: numpy.ndarray, counts: numpy.ndarray, theta: numpy.ndarray, ties: bool) -> numpy.ndarray:
    """float64 [s], in nats."""
    known = numpy.log(numpy.maximum(_chances(design, theta, ties), 1e-300))
    return numpy.where(counts > 0, counts * known, 0.0).sum(axis=(1, 2))


def _squares(design: numpy.ndarray) -> sparse.csr_matrix:
    """[m, width * width]: each row of the design times itself; nine numbers of it at most are not zero."""
    m, width = design.shape
    rows, columns = numpy.nonzero(design)
    by_row = [columns[rows == row] for row in range(m)]
    entries = [(row, i * width + j, design[row, i] * design[row, j]) for row, own in enumerate(by_row) for i in own for j in own]
    at, place, value = zip(*entries, strict=True)
    return sparse.csr_matrix((value, (at, place)), shape=(m, width * width))


def _derivatives(
    design: numpy.ndarray, squares: sparse.csr_matrix, counts: numpy.ndarray, theta: numpy.ndarray, ties: bool
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Gradient [s, width + 1] and negative Hessian [s, width + 1, width + 1] of the log-likelihood."""
    chance, n = _chances(design, theta, ties), counts.sum(axis=-1)
    gap = chance[..., FIRST] - chance[..., SECOND]
    slope = numpy.empty_like(theta)
    slope[:, :-1] = (counts[..., FIRST] - counts[..., SECOND] - n * gap) @ design / 2
    slope[:, -1] = (counts[..., TIE] - n * chance[..., TIE]).sum(axis=-1)
    curve = numpy.zeros((*theta.shape, theta.shape[1]))
    spread = n * (chance[..., FIRST] + chance[..., SECOND] - gap**2) / 4
    width = design.shape[1]
    curve[:, :-1, :-1] = (squares.T @ spread.T).T.reshape(-1, width, width)
    across = -(n * chance[..., TIE] * gap) @ design / 2
    curve[:, :-1, -1] = curve[:, -1, :-1] = across
    curve[:, -1, -1] = (n * chance[..., TIE] * (1 - chance[..., TIE])).sum(axis=-1)
    return slope, curve
