"""More random features estimate the softmax's kernel better, as m^(-1/2); and sharp recall is weaker than with the softmax itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from acceptance.experiment import Bench, Claim, Experiment, Finding, compared, counted
from steelyard.core.seeds import derive
from steelyard.model.mixers.performer import PerformerLever, directions, positive_features
from steelyard.weigh.tasks.task import Metric

WIDTH = 32
LENGTH = 2.0
"""Of queries and keys in the kernel's test: exp(q . k / sqrt(32)) then lies between 0.5 and 2."""
ERROR = Metric("kernel_error", "quality", "share", False, margin=0.02)
RECALL = Metric("recalled", "quality", "share", True, margin=0.02, binary=True)
SLOPE = (-0.6, -0.4)
KEYS = 64


def repeated(features: int, width: int, seed: int) -> Tensor:
    """The control: the same sixteen directions again and again."""
    return directions(16, width, seed).repeat(-(-features // 16), 1)[:features]


def errors(draw: Callable[[int, int, int], Tensor], features: int, count: int, seed: int) -> list[float]:
    """Root mean square of the relative error over 64 random pairs, for each of `count` draws of features."""
    generator = torch.Generator().manual_seed(derive(seed, "pairs"))
    q, k = (F.normalize(torch.randn(64, WIDTH, generator=generator), dim=-1) * LENGTH for _ in range(2))
    true, out = ((q * k).sum(-1) / WIDTH**0.5).exp(), []
    for number in range(count):
        w = draw(features, WIDTH, derive(seed, "draw", features, number))
        (phi_q, level_q), (phi_k, level_k) = (positive_features(x[None, None], w) for x in (q, k))
        estimate = ((phi_q * phi_k).mean(-1) * (level_q + level_k).exp())[0, 0]
        out.append(float((estimate / true - 1).square().mean().sqrt()))
    return out


def recalled(features: int | None, trials: int, seed: int) -> list[float]:
    """Whether one of 64 keys is recalled when it is asked for exactly: sharp queries (the softmax puts nearly all weight on it)."""
    generator = torch.Generator().manual_seed(derive(seed, "recall"))
    out = []
    for number in range(trials):
        keys = F.normalize(torch.randn(KEYS, WIDTH, generator=generator), dim=-1) * 6.5
        asked = int(torch.randint(KEYS, (1,), generator=generator))
        if features is None:
            weights = keys @ keys[asked]
        else:
            w = directions(features, WIDTH, derive(seed, "recall", number))
            (phi_q, _), (phi_k, level) = (positive_features(x[None, None], w) for x in (keys[asked : asked + 1], keys))
            weights = ((phi_k * phi_q).mean(-1).log() + level)[0, 0]
        out.append(float(int(weights.argmax()) == asked))
    return out


def run(bench: Bench) -> Finding:
    sizes = (16, 64, 256, 1024, 4096)
    draws, trials = bench.pick(48, 12), bench.pick(400, 60)
    ours = {size: errors(directions, size, draws, bench.seed) for size in sizes}
    same = {size: errors(repeated, size, draws, bench.seed) for size in (16, 1024)}
    bench.say("errors " + ", ".join(f"{size}: {np.mean(ours[size]):.4f}" for size in sizes))
    slopes = []
    for start in range(0, draws, 6):
        means = [np.mean(ours[size][start : start + 6]) for size in sizes]
        slopes.append(float(np.polyfit(np.log(sizes), np.log(means), 1)[0]))
    fit = sum(SLOPE[0] <= slope <= SLOPE[1] for slope in slopes)
    bench.say(f"slopes {[round(slope, 3) for slope in slopes]}")
    softmax, few, many = (recalled(size, trials, bench.seed) for size in (None, 64, 1024))
    what = "random pairs of queries and keys"
    asked = f"one of {KEYS} keys, asked for exactly"
    return Finding(
        [
            Claim(
                f"the error falls as features^(-1/2): the slope lies in {SLOPE}",
                counted("performer", what, "slopes about -1/2", fit, len(slopes), "identical" if fit == len(slopes) else "worse"),
                ("identical",),
            ),
            Claim(
                "64 times the features estimate the kernel better", compared("performer", what, ERROR, ours[16], ours[1024]), ("better",)
            ),
            Claim("sharp recall is weaker than with the softmax", compared("64 features", asked, RECALL, softmax, few), ("worse",)),
            Claim("and less so with more features", compared("1024 features", asked, RECALL, few, many), ("better",)),
            Claim(
                "the same sixteen directions again and again are no better for being many",
                compared("repeated", what, ERROR, same[16], same[1024]),
                ("equivalent", "underpowered", "identical"),
                control=True,
            ),
        ],
        {"performer": [PerformerLever()]},
        [f"mean slope {np.mean(slopes):.3f} over {len(slopes)} groups of 6 draws of features, m from {sizes[0]} to {sizes[-1]}"],
    )


EXPERIMENT = Experiment(
    "performer",
    "performer",
    "The error of the softmax's kernel by m positive random features falls as m^(-1/2), and recall among sharp keys is weaker than with the softmax.",
    "Features that repeat sixteen directions must be no better for being many.",
    "mechanism",
    run,
)
