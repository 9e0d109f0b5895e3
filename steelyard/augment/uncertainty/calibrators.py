"""From a measure's number to a chance of being right: two monotone maps, fitted on judged answers.

    isotonic: the nondecreasing step function with least sum_i (y_i - f(s_i))^2, straight lines between its steps' ends
    platt:    f(s) = sigmoid(a logit(s) + b);  of token probabilities this is a temperature 1/a and a shift

Which of them is kept is decided by log loss on the folds that were not fitted on; few answers favour Platt, many let isotonic follow any
shape. Platt's targets are drawn in from 0 and 1 as in his paper, so that no finite set of answers makes anything certain.
Sources: J. Platt 1999; B. Zadrozny & C. Elkan, KDD 2002 (isotonic); C. Guo et al., arXiv:1706.04599 (temperature).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from steelyard.core.errors import DataError, ModelFileError
from steelyard.generate.steering.directions import logistic

FOLDS = 5
FEWEST = 20
"""Judged answers from which a map is fitted at least."""
EDGE = 1e-4
"""Scores are taken as at least so far from 0 and 1 before their logit."""


@dataclass(frozen=True)
class Isotonic:
    """A step function with straight lines between the steps: `scores` ascend, `chances` do not fall."""

    scores: tuple[float, ...]
    chances: tuple[float, ...]

    def __call__(self, score: float) -> float:
        return float(numpy.interp(score, self.scores, self.chances))

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "isotonic", "scores": list(self.scores), "chances": list(self.chances)}


@dataclass(frozen=True)
class Platt:
    """A line through logits."""

    slope: float
    shift: float

    def __call__(self, score: float) -> float:
        total = self.slope * _logit(score) + self.shift
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, total))))

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "platt", "slope": self.slope, "shift": self.shift}


Calibrator = Isotonic | Platt


def read(value: object, where: str) -> Calibrator:
    """A map from JSON.

    Raises:
        ModelFileError: it is none.
    """
    wrong = ModelFileError("not a calibrator", where=where, do="Make the calibration again.")
    if not isinstance(value, Mapping):
        raise wrong
    if value.get("kind") == "platt" and set(value) == {"kind", "slope", "shift"} and _finite([value["slope"], value["shift"]]):
        if value["slope"] < 0:
            raise ModelFileError("a calibrator that calls sure answers doubtful", where=where, do="Make the calibration again.")
        return Platt(float(value["slope"]), float(value["shift"]))
    if value.get("kind") == "isotonic" and set(value) == {"kind", "scores", "chances"}:
        scores, chances = value["scores"], value["chances"]
        if _finite(scores) and _finite(chances) and len(scores) == len(chances) > 0:
            rising = all(a < b for a, b in zip(scores, scores[1:], strict=False))
            if rising and all(0 <= a <= b <= 1 for a, b in zip(chances, [*chances[1:], 1.0], strict=True)):
                return Isotonic(tuple(map(float, scores)), tuple(map(float, chances)))
    raise wrong


def fit(scores: Sequence[float], right: Sequence[bool]) -> tuple[Calibrator, dict[str, float]]:
    """The map that predicts answers it was not fitted on best, fitted on all of them.

    Args:
        scores: [n], in [0, 1].
        right: [n].

    Returns:
        The map; and for each kind its log loss (nats) over `FOLDS` folds, with that of the scores as they are under `raw`.

    Raises:
        DataError: too few answers, or all of one kind.
    """
    s, y = numpy.asarray(scores, numpy.float64), numpy.asarray(right, numpy.float64)
    if len(s) < FEWEST or not 0 < y.sum() < len(y):
        what = f"{int(y.sum())} of {len(y)} answers are right"
        raise DataError(what, where="calibration", do=f"A calibration needs {FEWEST} judged answers, right and wrong ones among them.")
    losses = {"raw": _loss(s, y)}
    for name, made in (("platt", fit_platt), ("isotonic", fit_isotonic)):
        losses[name] = _loss(held_out(made, s, y), y)
    kept = fit_isotonic if losses["isotonic"] < losses["platt"] else fit_platt
    return kept(s, y), losses


def held_out(made: Any, scores: numpy.ndarray, right: numpy.ndarray) -> numpy.ndarray:
    """For each answer its chance by a map that was fitted on the other folds."""
    out, fold = numpy.zeros(len(scores)), numpy.arange(len(scores)) % FOLDS
    for number in range(FOLDS):
        one = made(scores[fold != number], right[fold != number])
        out[fold == number] = [one(score) for score in scores[fold == number]]
    return out


def fit_isotonic(scores: numpy.ndarray, right: numpy.ndarray) -> Isotonic:
    """Pool adjacent violators; where a step is flat only its ends are kept."""
    levels, group, sizes = numpy.unique(scores, return_inverse=True, return_counts=True)
    means = numpy.bincount(group.reshape(-1), right) / sizes
    from scipy.optimize import isotonic_regression  # only fitting needs it: a server reads what was fitted, and starts without SciPy

    fitted = isotonic_regression(means, weights=sizes).x
    ends = numpy.ones(len(levels), bool)
    ends[1:-1] = (fitted[1:-1] != fitted[:-2]) | (fitted[1:-1] != fitted[2:])
    return Isotonic(tuple(map(float, levels[ends])), tuple(float(min(1.0, max(0.0, one))) for one in fitted[ends]))


def fit_platt(scores: numpy.ndarray, right: numpy.ndarray) -> Platt:
    """Logistic regression on the scores' logits, with Platt's targets; a slope below 0 is taken as 0: the score then tells nothing."""
    positives, negatives = right.sum(), (1 - right).sum()
    targets = numpy.where(right > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    logits = numpy.array([_logit(score) for score in scores])
    if numpy.ptp(logits) < 1e-9:
        return Platt(0.0, math.log(targets.mean() / (1 - targets.mean())))
    weight, bias = logistic(torch.tensor(logits)[:, None], torch.tensor(targets), 0.0)
    if float(weight[0]) < 0:
        return Platt(0.0, math.log(targets.mean() / (1 - targets.mean())))
    return Platt(float(weight[0]), float(bias))


def _logit(score: float) -> float:
    inside = min(1 - EDGE, max(EDGE, score))
    return math.log(inside / (1 - inside))


def _loss(chances: numpy.ndarray, right: numpy.ndarray) -> float:
    told = numpy.clip(numpy.where(right > 0.5, chances, 1 - chances), EDGE, 1)
    return float(-numpy.log(told).mean())


def _finite(values: object) -> bool:
    return isinstance(values, list) and all(
        isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in values
    )
