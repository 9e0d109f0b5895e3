"""How the learning rate moves: a linear warm-up, then one of the shapes below, by the share of the budget that is used.

With w the warm-up, n the whole budget, u what is used before a step and s what the step itself uses:
share = (u + s) / w                                             for u < w
share = floor + (1 - floor) * left(x), x = (u - w) / (n - w)    after

cosine     left = (1 + cos(pi x)) / 2                           (arXiv:1608.03983)
linear     left = 1 - x
constant   left = 1, whatever the floor
wsd        left = 1 until a last share d of the budget, then 1 - sqrt(y), y = (u - (1 - d) n) / (d n)
           (warm-up, stable, decay: arXiv:2404.06395; its decay as in arXiv:2405.18392)
"""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["cosine", "linear", "constant", "wsd"]


def rate_share(
    used: float, total: float, warmup: float, shape: Shape = "cosine", floor: float = 0.0, *, size: float = 1.0, decay: float = 0.2
) -> float:
    """The share of the peak learning rate at a step.

    Args:
        used: of the budget before the step (steps taken, tokens read, ...), from 0.
        total: the whole budget.
        warmup: part of it in which the rate rises; the first step already moves.
        shape: what follows, see the module's docstring.
        floor: share of the peak that is left at the end.
        size: what the step itself uses.
        decay: share of the budget in which `wsd` falls.
    """
    if used < warmup:
        return min(1.0, (used + size) / warmup)
    if shape == "constant":
        return 1.0
    if shape == "wsd":
        start = max(warmup, (1 - decay) * total)
        left = 1.0 if used < start else 1 - math.sqrt(min(1.0, (used - start) / max(size, total - start)))
    else:
        done = min(1.0, (used - warmup) / max(size, total - warmup))
        left = (1 + math.cos(math.pi * done)) / 2 if shape == "cosine" else 1 - done
    return floor + (1 - floor) * left
