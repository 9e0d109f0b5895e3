"""A low-rank branch (LoRA): a linear map's change, learned as the product of two thin matrices.

y = W x + (alpha / r) * B A x, with A [r, in] drawn at random and B [out, r] zero, so that it begins as no change at all.
Rank-stabilised (arXiv:2312.03732): alpha / sqrt(r). Paper: arXiv:2106.09685. Cost: r * (in + out) weights a map.
"""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelyard.model.linears.linear import DenseStorage, Linear
from steelyard.model.step import Step

M = TypeVar("M", bound=nn.Module)

BRANCH = "lora"
"""What the branch is called on its linear."""


class LowRank(nn.Module):
    """x [..., in] -> the change of y [..., out].

    Args:
        inputs, outputs: of the linear it stands on.
        rank: r.
        alpha: numerator of the scale.
        dropout: share of inputs zeroed, in training mode only.
        stabilised: scale by alpha / sqrt(r) instead of alpha / r.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float, dropout: float = 0.0, stabilised: bool = False):
        super().__init__()
        self.rank, self.alpha, self.dropout, self.stabilised = rank, alpha, dropout, stabilised
        self.a = nn.Parameter(torch.zeros(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.stabilised else self.rank)

    def draw(self, generator: torch.Generator) -> None:
        """Uniform A within 1 / sqrt(in), zero B: no change yet, but one that can be learned."""
        bound = 1 / math.sqrt(self.a.shape[1])
        with torch.no_grad():
            self.a.copy_(torch.rand(self.a.shape, generator=generator) * (2 * bound) - bound)
            self.b.zero_()

    def forward(self, x: Tensor, step: Step | None = None) -> Tensor:
        narrow = F.dropout(x, self.dropout, self.training).to(self.a.dtype).reshape(-1, x.shape[-1])  # as in DenseStorage.forward
        narrow = F.linear(narrow, self.a) * self.scale  # scaled where it has few columns
        return F.linear(narrow, self.b).to(x.dtype).view(*x.shape[:-1], len(self.b))

    def delta(self) -> Tensor:
        """The change of the weights, float32 [out, in]."""
        return self.scale * (self.b.float() @ self.a.float())

    def extra_repr(self) -> str:
        return f"rank {self.rank}, alpha {self.alpha}, scale {self.scale}"


def view(trunk: M) -> M:
    """The same trunk over the same weights, frozen, whose modules can be changed without touching the original's."""
    memo: dict[int, object] = {id(parameter): nn.Parameter(parameter.detach(), requires_grad=False) for parameter in trunk.parameters()}
    memo |= {id(buffer): buffer for buffer in trunk.buffers()}
    return copy.deepcopy(trunk, memo)


def branches(trunk: nn.Module) -> dict[str, tuple[Linear, LowRank]]:
    """Path of a linear -> (the linear, its low-rank branch), for those that have one."""
    return {
        name: (module, branch)
        for name, module in trunk.named_modules()
        if isinstance(module, Linear) and BRANCH in module.branches and isinstance(branch := module.branches[BRANCH], LowRank)
    }


def merge(trunk: M) -> M:
    """A trunk whose weights have taken the branches in: the same function (up to rounding), at no cost per token.

    Maps without a branch keep their tensors; merged ones get new tensors of their own type.
    """
    merged = view(trunk)
    for linear, branch in branches(merged).values():
        assert isinstance(linear.storage, DenseStorage), "branches stand on dense storages only"
        weight = linear.storage.weight
        linear.storage.weight = nn.Parameter((weight.float() + branch.delta()).to(weight.dtype), requires_grad=False)
        del linear.branches[BRANCH]
    return merged.requires_grad_(True)
