"""Normalisation of the residual stream: root-mean-square and layer norm. Computed in float32 at least, whatever the stream's type.

RMS norm (arXiv:1910.07467): y = x / sqrt(mean(x^2) + eps) * w. Gemma stores w - 1 (`offset` 1).
Layer norm (arXiv:1607.06450): y = (x - mean) / sqrt(var + eps) * w + b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class NormPlan:
    """How to normalise. `offset` is added to the stored weight; `bias` is for layer norm only."""

    kind: Literal["rms", "layer"] = "rms"
    epsilon: float = 1e-5
    offset: float = 0.0
    bias: bool = False

    def build(self, width: int) -> RMSNorm | LayerNorm:
        return RMSNorm(width, self) if self.kind == "rms" else LayerNorm(width, self)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension."""

    def __init__(self, width: int, plan: NormPlan):
        super().__init__()
        self.plan = plan
        self.weight = nn.Parameter(torch.full((width,), 1.0 - plan.offset))

    def forward(self, x: Tensor) -> Tensor:
        weight = wide(self.weight, x)
        if self.plan.offset:
            weight = weight + self.plan.offset
        return F.rms_norm(wide(x, x), weight.shape, weight, self.plan.epsilon).to(x.dtype)


class LayerNorm(nn.Module):
    """Layer norm over the last dimension."""

    def __init__(self, width: int, plan: NormPlan):
        super().__init__()
        self.plan = plan
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if plan.bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else wide(self.bias, x)
        return F.layer_norm(wide(x, x), self.weight.shape, wide(self.weight, x), bias, self.plan.epsilon).to(x.dtype)


def wide(tensor: Tensor, x: Tensor) -> Tensor:
    """A tensor in the type that norms of x are computed in: float32, or float64 where x has it."""
    return tensor.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
