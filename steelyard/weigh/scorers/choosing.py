"""Which of several given texts a model finds likeliest, and whether that is the right one.

`acc` takes the highest sum of log-probabilities. A sum is lower for longer texts whatever they say, so the others divide it by a
length: `acc_norm` by characters (as lm-eval's `acc_norm`), `acc_bytes` by bytes of UTF-8, `acc_tokens` by the model's own tokens. Of
equal values the first counts, as there. Beside these counts stand continuous figures, which need far fewer samples to tell two
arms apart: `right_logprob` is the log-probability of the right choice among the choices (softmax over their sums), 0 at best; `brier`
is the sum over choices of (probability - truth)^2. `auroc`, `aurc` and `ece` take the likeliest choice's probability among the choices
for the model's confidence that `acc` is right. `kappa` is agreement with the truth beyond chance, where all samples have the same choices,
so that these are labels: who always says the commonest label has an accuracy, and no kappa. `cut` is the share of samples whose prompt lost its beginning because it did not
fit, which only tasks that ask for it allow.

Chance is the mean of (right choices / choices), and the floor of the counts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from steelyard.core.protocols import Score
from steelyard.weigh.samples import Metric, Value
from steelyard.weigh.scorers.calibration import AURC, AUROC, ECE

ACC = Metric("acc", "quality", "share", True, margin=0.03, binary=True)
ACC_NORM = Metric("acc_norm", "quality", "share", True, margin=0.03, binary=True)
ACC_BYTES = Metric("acc_bytes", "quality", "share", True, margin=0.03, binary=True)
ACC_TOKENS = Metric("acc_tokens", "quality", "share", True, margin=0.03, binary=True)
RIGHT_LOGPROB = Metric("right_logprob", "quality", "nats", True, margin=0.05, reach=(-math.inf, 0.0))
BRIER = Metric("brier", "calibration", "squared error", False, margin=0.02, reach=(0.0, 2.0))
CUT = Metric("cut", "format", "share", False, margin=0.01, binary=True)
KAPPA = Metric("kappa", "quality", "score", True, margin=0.06, kind="kappa", reach=(-1.0, 1.0), floor=0.0)
COUNTS = (ACC, ACC_NORM, ACC_BYTES, ACC_TOKENS)
METRICS = (*COUNTS, RIGHT_LOGPROB, BRIER, AUROC, AURC, ECE)


def metrics(chance: float | None, cut: bool = False, labels: bool = False) -> tuple[Metric, ...]:
    """The metrics with their floor; `cut` where prompts may lose their beginning, `labels` where all samples have the same choices."""
    counts = tuple(replace(metric, floor=chance) for metric in COUNTS)
    kappa = (KAPPA,) if labels else ()
    return (*counts, RIGHT_LOGPROB, *kappa, BRIER, AUROC, AURC, ECE, *((CUT,) if cut else ()))


def are_labels(choices: Collection[tuple[str, ...]]) -> bool:
    """Whether the choices of several samples are one and the same labels, in one order."""
    return len(choices) > 1 and len(set(choices)) == 1


def values(scores: Sequence[Score], choices: Sequence[str], right: Collection[int]) -> dict[str, Value]:
    """Every metric for one sample; None everywhere where a choice has no probability.

    Args:
        scores: of each choice.
        choices: the texts whose lengths count, without what joins them to the prompt.
        right: numbers of the right choices, at least one.
    """
    sums = [score.logprob for score in scores]
    if len(sums) != len(choices) or not all(map(math.isfinite, sums)):
        return dict.fromkeys((*(metric.name for metric in METRICS), "kappa", "cut"))
    lengths = {
        "acc": [1.0] * len(sums),
        "acc_norm": [float(len(choice)) for choice in choices],
        "acc_bytes": [float(len(choice.encode())) for choice in choices],
        "acc_tokens": [float(score.tokens) for score in scores],
    }
    found: dict[str, Value] = {name: float(_likeliest(sums, each) in right) for name, each in lengths.items()}
    most = max(sums)
    shares = [math.exp(one - most) for one in sums]
    total = sum(shares)
    # A right choice so unlikely that its share is nothing in floating point still has a log-probability.
    best = max(sums[number] for number in right)
    among = math.log(sum(math.exp(sums[number] - best) for number in right)) + best - most
    found["right_logprob"] = among - math.log(total)
    found["brier"] = sum((share / total - (number in right) / len(right)) ** 2 for number, share in enumerate(shares))
    picked = sums.index(most)
    found["auroc"] = found["aurc"] = found["ece"] = (1 / total, float(picked in right))
    found["kappa"] = (float(picked), float(picked if picked in right else min(right)))
    found["cut"] = float(any(score.cut for score in scores))
    return found


def _likeliest(sums: Sequence[float], lengths: Sequence[float]) -> int:
    each = [one / length if length else -math.inf for one, length in zip(sums, lengths, strict=True)]
    return each.index(max(each))
