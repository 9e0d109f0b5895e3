"""4-bit linears: 16 levels for each 32 inputs of an output, one scale each; activations in 8 bits for each 32 of a token.

W4 = clip(round(W / s), -8, 7),  s float16 for each group of 32;   x8 = round(x / s_x), s_x = max|x| / 127 for each 32;
y = (x8 s_x) (W4 s)^T + b.   The scale is the one of a few candidates that leaves the least squared error (a group's largest number may
lie on -8, or be cut off a little so that the others are closer). Source of the grid: GPTQ's round-to-nearest baseline in groups
(arXiv:2210.17323, section 5); of clipping by error: arXiv:2308.13137.

Here weights are unpacked anew at every product, which is slow and says the same as the fast twin (`native.py`), to rounding of sums.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steelyard.core.errors import UnsupportedError
from steelyard.model.linears.blocks import BLOCK, eight_bits

GROUP = BLOCK
LEVELS = (-8, 7)
CUTS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Shares of a group's largest number that are tried as the end of its grid."""
SMALLEST = 6e-8
"""Least scale: the smallest float16 above 0, nearly."""


class Int4Storage(nn.Module):
    """`packed` uint8 [out, in / 2], two weights a byte, the first in the low half, each plus 8; `scale` float16 [out, in / 32]."""

    kind = "int4"
    packed: Tensor
    scale: Tensor

    def __init__(self, packed: Tensor, scale: Tensor, bias: Tensor | None):
        super().__init__()
        outputs, halves = packed.shape
        if packed.dtype != torch.uint8 or 2 * halves % GROUP or scale.shape != (outputs, 2 * halves // GROUP):
            raise UnsupportedError(
                f"int4 weights {tuple(packed.shape)} of {packed.dtype} with scales {tuple(scale.shape)}",
                do=f"Give one scale for each {GROUP} inputs of an output.",
            )
        self.register_buffer("packed", packed.contiguous())
        self.register_buffer("scale", scale.half().contiguous())
        self.bias = nn.Parameter(bias, requires_grad=False) if bias is not None else None

    @property
    def learned(self) -> int:
        """Numbers that were learned and are kept here in few bits; a bias, a parameter of its own, not among them."""
        return 2 * self.packed.numel()

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None = None) -> Int4Storage:
        """Rounds float weights [out, in].

        Raises:
            UnsupportedError: for NaN, infinity or what float16 scales cannot hold, and for inputs that are no multiple of 32.
        """
        if weight.shape[1] % GROUP:
            raise UnsupportedError(f"{weight.shape[1]} inputs", do=f"4 bits go by groups of {GROUP} inputs; use 8 bits.")
        if not bool(torch.isfinite(weight).all()):
            raise UnsupportedError("weights hold NaN or infinity, which 4 bits cannot", do="Check the model: steelyard inspect DIR --check")
        if float(weight.detach().abs().max()) > 7 * torch.finfo(torch.float16).max:
            raise UnsupportedError("weights are larger than float16 scales reach", do="Use 8 bits.")
        with torch.no_grad():
            integers, scale = rounded(weight.detach())
            return cls(packed(integers), scale, None if bias is None else bias.detach().clone())

    @property
    def outputs(self) -> int:
        return len(self.packed)

    def integers(self) -> Tensor:
        """uint8 [out, in], from 0 to 15; 8 stands for 0."""
        return torch.stack((self.packed & 15, self.packed >> 4), -1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        y = eight_bits(x.reshape(-1, x.shape[-1])) @ self.dense().t()
        y = y if self.bias is None else y + self.bias.float()
        return y.to(x.dtype).reshape(*x.shape[:-1], self.outputs)

    def dense(self) -> Tensor:
        """Float32 [out, in]."""
        groups = (self.integers().float() - 8).unflatten(1, (-1, GROUP))
        return (groups * self.scale.float()[:, :, None]).flatten(1)

    def bytes(self) -> int:
        return self.packed.numel() + 2 * self.scale.numel() + (0 if self.bias is None else 4 * self.bias.numel())

    def extra_repr(self) -> str:
        return f"groups of {GROUP}"


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(integers from -8 to 7 [out, in], float16 scales [out, in / 32]) with the least squared error among the candidates."""
    groups = weight.float().unflatten(1, (-1, GROUP))
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))  # with its sign
    best = torch.full_like(largest, torch.inf)
    kept, scale = torch.zeros_like(groups), torch.zeros_like(largest)
    ends = [(cut, low) for low in LEVELS for cut in CUTS]
    for cut, end in ends:  # the largest number lies on one end of the grid
        tried = (largest * cut / end).half().float()
        tried = torch.where(tried.abs() < SMALLEST, SMALLEST, tried)
        integers = (groups / tried).round().clamp(*LEVELS)
        error = (integers * tried - groups).square().sum(-1, keepdim=True)
        better = error < best
        best, scale, kept = torch.where(better, error, best), torch.where(better, tried, scale), torch.where(better, integers, kept)
    return kept.flatten(1), scale.squeeze(-1).half()


def packed(integers: Tensor) -> Tensor:
    """Integers from -8 to 7 [out, in] as bytes [out, in / 2]."""
    shifted = (integers + 8).to(torch.uint8)
    return shifted[:, ::2] | (shifted[:, 1::2] << 4)
