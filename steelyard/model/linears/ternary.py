"""Ternary linears: weights of -1, 0 and 1 and one scale for a matrix, activations of 8 bits per token (BitNet b1.58, arXiv:2402.17764).

m = mean |W|;  T = clip(round(W / m), -1, 1);  s = max |x_token| / 127;  x8 = clip(round(x / s), -128, 127);  y = (x8 T^T) s m + b

Floats W are trained: the forward pass rounds, the backward pass acts as if it had not (straight through), dW = dy^T (x8 s) and
dx = dy (T m). Products of integers are exact in float32, so a row's result does not depend on the batch. Saved, a weight takes 2 bits,
in the order of transformers' BitNet: four rows of the matrix share a row of bytes, a quarter of the matrix apart.

Cost: rounding a matrix at every training step; on a CPU no faster than floats (the product runs on widened numbers), 1/16 of the memory of
float32 once packed. Needs a higher learning rate than floats do (section 3 of the paper).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from steelyard.core.errors import ModelFileError
from steelyard.model.parts import Decoder, PartLever

SMALLEST = 1e-5
"""Least mean of weights and greatest activation that scales are made of, so that zeros have one too."""
IN_A_BYTE = 4


def ternarize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Floats [out, in] -> int8 of -1, 0, 1, and the scale, float32 []."""
    inverse = 1.0 / weight.float().abs().mean().clamp(min=SMALLEST)
    return (weight.float() * inverse).round().clamp(-1, 1).to(torch.int8), 1.0 / inverse


def round_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Floats [..., in] -> int8 and the scale of each token, float32 [..., 1]."""
    inverse = 127 / x.float().abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
    return (x.float() * inverse).round().clamp(-128, 127).to(torch.int8), 1.0 / inverse


def pack(ternary: Tensor) -> Tensor:
    """int8 of -1, 0, 1 [out, in] -> uint8 [out / 4 rounded up, in]; bits 2i and 2i + 1 of row r hold row i * rows + r, plus 1."""
    rows = -(-len(ternary) // IN_A_BYTE)
    codes = F.pad(ternary + 1, (0, 0, 0, rows * IN_A_BYTE - len(ternary))).to(torch.uint8).view(IN_A_BYTE, rows, -1)
    return codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6


def unpack(packed: Tensor, outputs: int, where: str = "") -> Tensor:
    """The inverse of `pack`: int8 [outputs, in].

    Raises:
        ModelFileError: a code is none of the three, so these bytes are no ternary weights.
    """
    codes = torch.cat([(packed >> shift) & 3 for shift in (0, 2, 4, 6)])[:outputs]
    if bool((codes == 3).any()):
        raise ModelFileError("2-bit codes that are no ternary weights", where=where, do="Get the model again.")
    return codes.to(torch.int8) - 1


class _Rounded(torch.autograd.Function):
    """y = (x8 T^T) s m, and gradients as if nothing had been rounded; kept for going back are 8-bit numbers."""

    @staticmethod
    def forward(ctx: Any, x_nd: Tensor, weight: Tensor) -> Tensor:
        (ternary, scale), (rounded, scales) = ternarize(weight), round_activations(x_nd)
        ctx.save_for_backward(ternary, scale, rounded, scales)
        ctx.types = x_nd.dtype, weight.dtype
        return _product(rounded, scales, ternary, scale)

    @staticmethod
    def backward(ctx: Any, gradient_no: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        ternary, scale, rounded, scales = ctx.saved_tensors
        kind = gradient_no.dtype
        to_x = (gradient_no * scale.to(kind)) @ ternary.to(kind)
        to_weight = gradient_no.t() @ (rounded * scales).to(kind)
        return to_x.to(ctx.types[0]), to_weight.to(ctx.types[1])


def _product(rounded: Tensor, scales: Tensor, ternary: Tensor, scale: Tensor) -> Tensor:
    """float32 [n, out], or the narrower type of automatic casting."""
    return F.linear(rounded.float(), ternary.float()) * (scales * scale)


class TernaryStorage(nn.Module):
    """`weight` floats [out, in], rounded anew at every use: what is trained. `packed`: whether it is saved in 2 bits or as it is."""

    kind = "ternary"
    row_invariant = True
    rounds = True

    def __init__(self, inputs: int, outputs: int, bias: bool, packed: bool):
        super().__init__()
        self.packed = packed
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        product: Any = _Rounded.apply(x.reshape(-1, x.shape[-1]), self.weight)
        return _shaped(product, self.bias, x)

    def forward_readably(self, x: Tensor) -> Tensor:
        """Rounded numbers as floats with a detour around the rounding: the twin `forward` and its gradients are tested against."""
        (ternary, scale), (rounded, scales) = ternarize(self.weight), round_activations(x)
        weight = self.weight + (ternary * scale - self.weight).detach()
        return F.linear(x + (rounded * scales - x).detach(), weight, self.bias)

    def dense(self) -> Tensor:
        """The weights that are multiplied, as floats [out, in]."""
        ternary, scale = ternarize(self.weight)
        return ternary * scale

    def bytes(self) -> int:
        return sum(parameter.numel() * parameter.element_size() for parameter in self.parameters())


class PackedTernaryStorage(nn.Module):
    """`weight` uint8 [out / 4 rounded up, in] as `pack` gives it, `scale` float32 [1]. For answering; the same products, bit for bit."""

    kind = "ternary, packed"
    row_invariant = True
    rounds = True
    weight: Tensor
    scale: Tensor

    def __init__(self, packed: Tensor, scale: Tensor, outputs: int, bias: Tensor | None):
        super().__init__()
        self.outputs = outputs
        self.register_buffer("weight", packed)
        self.register_buffer("scale", scale.float().reshape(1))
        self.bias = nn.Parameter(bias, requires_grad=False) if bias is not None else None

    @property
    def learned(self) -> int:
        """Numbers that were learned and are kept here in few bits; a bias, a parameter of its own, not among them."""
        return self.outputs * self.weight.shape[1]

    @classmethod
    def of(cls, storage: TernaryStorage) -> PackedTernaryStorage:
        """What a trained storage multiplies."""
        ternary, scale = ternarize(storage.weight.detach())
        return cls(pack(ternary), scale, len(ternary), None if storage.bias is None else storage.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        rounded, scales = round_activations(x.reshape(-1, x.shape[-1]))
        return _shaped(_product(rounded, scales, unpack(self.weight, self.outputs), self.scale), self.bias, x)

    def dense(self) -> Tensor:
        """The weights as floats [out, in]."""
        return unpack(self.weight, self.outputs) * self.scale

    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.weight, self.scale, *self.parameters()))


def _shaped(product: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    y = product if bias is None else product + bias.to(product.dtype)
    return y.to(x.dtype).view(*x.shape[:-1], y.shape[-1])


@dataclass(frozen=True)
class TernaryPlan:
    """`packed`: saved in 2 bits a weight, or as the floats that are trained."""

    packed: bool = True

    def storage(self, inputs: int, outputs: int, bias: bool) -> TernaryStorage:
        return TernaryStorage(inputs, outputs, bias, self.packed)


class TernaryLever(PartLever):
    """Ternary maps in the blocks of a new decoder."""

    name: ClassVar[str] = "ternary"
    idea: ClassVar[str] = (
        "Weights inside blocks are trained to be -1, 0 or 1 times one number, so they take 2 bits and products are sums. "
        "Trained that way from the start a model loses little; rounded afterwards it loses nearly everything."
    )
    equation: ClassVar[str] = "y = x8 clip(round(W / m), -1, 1)^T s m;  m = mean |W|, s = max |x| / 127"
    paper: ClassVar[str] = "arXiv:2402.17764"
    cost: ClassVar[str] = "rounds every matrix at every training step; 2 bits a weight once saved; a higher learning rate"
    identity: ClassVar[Any] = "there is none: every setting rounds to three values"
    place: ClassVar[Any] = "linears"

    stored: Literal["2 bits", "floats"] = Field(
        "2 bits", description="what is saved: what answers need, or the floats that a later training can go on from"
    )

    def plan(self, decoder: Decoder, layer: int) -> TernaryPlan:
        return TernaryPlan(self.stored == "2 bits")


def rows_of(outputs: int) -> int:
    """Rows of bytes that hold a matrix of so many rows."""
    return math.ceil(outputs / IN_A_BYTE)
