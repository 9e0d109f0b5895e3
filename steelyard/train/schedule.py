"""How the learning rate moves: a linear warm-up, then half a cosine down (arXiv:1608.03983).

share(s) = (s + 1) / w                                              for s < w
share(s) = floor + (1 - floor) * (1 + cos(pi * (s - w) / (n - w))) / 2   after, with w warm-up steps of n
"""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["cosine", "linear", "constant"]


def rate_share(step: int, steps: int, warmup: int, shape: Shape = "cosine", floor: float = 0.0) -> float:
    """The share of the peak learning rate at a step.

    Args:
        step: from 0.
        steps: of the whole training.
        warmup: steps of the linear rise; the first step already moves.
        shape: what follows: half a cosine, a line down, or nothing.
        floor: share of the peak that is left at the end.
    """
    if step < warmup:
        return (step + 1) / warmup
    if shape == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    left = (1 + math.cos(math.pi * done)) / 2 if shape == "cosine" else 1 - done
    return floor + (1 - floor) * left
