"""How sure a model was of its answer, and how well that fits with being right.

Confidence is what the arm itself says of its answer (lever `confidence`); where it says nothing, the probability of the judged words: exp(sum of the log-probabilities of the tokens that spell the answer's
first statement), under the model's own distribution before any sampling filter. Brier is (confidence - right)^2, log loss
is -log of the probability given to what turned out true (clipped at 1e-4, so one sure error costs at most 9.2 nats).
`auroc` and `aurc` ask only for the order: whether surer answers are right more often (`weigh/statistics/selective.py`). Calibration needs both.
`ece`, the gap between stated confidence and share right in bins of equal mass, is biased upward below a thousand answers, so it comes last.
Answers that abstain claim nothing and are not scored; invented answers count as wrong, so sure invention shows here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from steelyard.core.protocols import Token
from steelyard.weigh.samples import Metric, Output, Value

LEAST = 1e-4
BRIER = Metric("brier", "calibration", "squared error", False, margin=0.02, reach=(0.0, 1.0))
LOG_LOSS = Metric("log_loss", "calibration", "nats", False, margin=0.05, reach=(0.0, -math.log(LEAST)))
AUROC = Metric("auroc", "calibration", "share", True, margin=0.03, kind="auroc", floor=0.5)
AURC = Metric("aurc", "calibration", "share", False, margin=0.03, kind="aurc")
ECE = Metric("ece", "calibration", "share", False, margin=0.03, kind="ece")
METRICS = (BRIER, LOG_LOSS, AUROC, AURC, ECE)


def sure_of(output: Output, statement: str) -> float | None:
    """How sure an arm was of the judged statement: its own word where it gave one, else the statement's probability."""
    if output.confidence is not None:
        value = output.confidence.value
        return min(max(value, 0.0), 1.0) if math.isfinite(value) else None
    return confidence(output.tokens, output.text, statement)


def confidence(tokens: Sequence[Token], text: str, statement: str) -> float | None:
    """Probability of the tokens up to the end of the judged statement; None where the arm reports no tokens.

    Args:
        tokens: generated tokens, in order.
        text: the whole answer.
        statement: the judged part of it, as found in `text`; the whole answer where it is not found.
    """
    if not tokens:
        return None
    at = text.find(statement)
    end = at + len(statement) if at >= 0 else len(text)
    total, position = 0.0, 0
    for token in tokens:
        if position >= end:
            break
        total += token.logprob
        position += len(token.text)
    if math.isnan(total):
        return None
    return min(1.0, math.exp(total))


def values(sure: float | None, right: bool, answered: bool = True) -> dict[str, Value]:
    """Brier score, log loss, and what AUROC and AURC are made from; None where there is no confidence, or no answer."""
    if sure is None or not answered:
        return dict.fromkeys(metric.name for metric in METRICS)
    pair = (sure, float(right))
    return {
        "brier": (sure - right) ** 2,
        "log_loss": -math.log(max(LEAST, sure if right else 1 - sure)),
        "auroc": pair,
        "aurc": pair,
        "ece": pair,
    }
