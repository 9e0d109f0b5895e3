"""The pooling head: one vector for a whole text, the mean of its tokens' hidden states, scaled to unit length.

v = mean over tokens of h;  v / |v|   (Sentence-BERT, arXiv:1908.10084).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelyard.model.step import Step


@dataclass(frozen=True)
class PoolPlan:
    """`mode`: the mean over tokens, the first or the last token; `normalize`: to unit length."""

    mode: Literal["mean", "first", "last"] = "mean"
    normalize: bool = True

    def build(self, width: int, table: nn.Parameter | None = None) -> Pool:
        """The token table is not looked at: there is nothing to predict."""
        return Pool(self)


class Pool(nn.Module):
    """h [b, t, width] -> [b, width]; padding (beyond `step.lengths`) does not count."""

    def __init__(self, plan: PoolPlan):
        super().__init__()
        self.plan = plan

    def forward(self, h_btd: Tensor, step: Step) -> Tensor:
        lengths = torch.tensor(step.lengths, device=h_btd.device)
        if self.plan.mode == "first":
            v = h_btd[:, 0]
        elif self.plan.mode == "last":
            v = h_btd[torch.arange(len(lengths)), lengths - 1]
        else:
            real = (torch.arange(step.time, device=h_btd.device) < lengths[:, None]).to(h_btd.dtype)
            v = (h_btd * real[..., None]).sum(1) / lengths[:, None]
        return F.normalize(v, dim=-1) if self.plan.normalize else v
