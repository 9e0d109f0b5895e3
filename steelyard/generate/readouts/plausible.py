"""The difference of two views of the next token, among the tokens that the better view finds plausible.

    plausible = {x: p(x) >= alpha max p};  score(x) = log p(x) - strength log q(x)
    inside the set: P(set) softmax(score);  outside: p(x), or nothing

Both papers that use it (arXiv:2210.15097, arXiv:2309.03883) leave nothing to the tokens outside. Then a text that holds a single one
of them has probability zero and cannot be scored, so by default the set keeps its own share of the probability and the rest keeps
the model's. The likeliest token is the papers' either way: the set's mean probability is at least alpha max p, so its likeliest
token is above everything outside.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Tail = Literal["kept", "excluded"]


def contrasted(own: Tensor, other: Tensor, strength: float, alpha: float, tail: Tail) -> Tensor:
    """Log-probabilities float32 [n, v] from those of the better view (`own`) and of the one it is set against (`other`).

    Sums are taken within `log_softmax` alone, which adds up every row by itself: `deterministic` wants rows that do not depend on
    how many there are. A row with NaN has no plausible token and stays undrawable.
    """
    likeliest = own.amax(-1, keepdim=True)
    implausible = ~(own >= likeliest + math.log(alpha))
    scores = torch.log_softmax((own - strength * other).masked_fill_(implausible, -math.inf), -1)
    if tail == "excluded":
        return scores
    share = likeliest - torch.log_softmax(own.masked_fill(implausible, -math.inf), -1).amax(-1, keepdim=True)
    return torch.where(implausible, own, scores + share)
