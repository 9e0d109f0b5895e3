"""The measures of confidence by name, and what each is made from."""

from __future__ import annotations

from typing import Literal, get_args

from steelyard.augment.uncertainty.measure import Measure
from steelyard.augment.uncertainty.p_ik import PIK, Probe
from steelyard.augment.uncertainty.p_true import PTrue
from steelyard.augment.uncertainty.self_check import SelfCheck
from steelyard.augment.uncertainty.semantic_entropy import SemanticEntropy
from steelyard.augment.uncertainty.token_entropy import TokenEntropy, TokenMargin
from steelyard.augment.uncertainty.token_probability import TokenProbability
from steelyard.augment.uncertainty.verbalized import Verbalized
from steelyard.core.errors import RecipeError, nearest
from steelyard.core.protocols import Answerer

MeasureName = Literal[
    "joint_probability",
    "mean_probability",
    "least_probability",
    "entropy",
    "margin",
    "p_true",
    "p_ik",
    "semantic_entropy",
    "self_check",
    "verbalized",
]
NAMES: tuple[str, ...] = get_args(MeasureName)


def measure(name: str, *, count: int = 5, temperature: float = 1.0, judge: Answerer | None = None, probe: Probe | None = None) -> Measure:
    """The measure of this name.

    Args:
        name: one of `NAMES`.
        count: samples of `semantic_entropy` and `self_check`.
        temperature: they are drawn at.
        judge: tells whether two of them mean the same; None: equal words do.
        probe: of `p_ik`.

    Raises:
        RecipeError: nothing is called so, or `p_ik` without a probe.
    """
    match name:
        case "joint_probability":
            return TokenProbability("joint")
        case "mean_probability":
            return TokenProbability("mean")
        case "least_probability":
            return TokenProbability("least")
        case "entropy":
            return TokenEntropy()
        case "margin":
            return TokenMargin()
        case "p_true":
            return PTrue()
        case "p_ik":
            if probe is None:
                raise RecipeError("`p_ik` needs a probe", where="confidence", do="Fit one: `steelyard calibrate --measure p_ik`.")
            return PIK(probe)
        case "semantic_entropy":
            return SemanticEntropy(count, temperature, judge)
        case "self_check":
            return SelfCheck(count, temperature, judge)
        case "verbalized":
            return Verbalized()
    raise RecipeError(f"no measure of confidence is called `{name}`", do=nearest(name, NAMES))
