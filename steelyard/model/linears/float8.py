"""Float8 linears: weights in 8-bit floats with one scale per output channel, activations as they come or in 8-bit floats per token.

W8 = e4m3(W / s_w), s_w = max|W_row| / 448;   x8 = e4m3(x / s_x), s_x = max|x_token| / 448;   y = (x8 W8^T) * s_x * s_w + b.
e4m3: 4 bits of exponent, 3 of mantissa, largest number 448 (arXiv:2209.05433). A number keeps 4 significant bits however small it is
beside its row's largest, where 8-bit integers have one step for all: fewer bits for the large, more for the small.

One scale a row, not one a matrix, because it costs nothing: the product is taken of the 8-bit numbers and scaled afterwards, so a GPU is
asked for the plainest kind of 8-bit product there is (`torch._scaled_mm` with scales of 1, compute capability 8.9 and up), whatever it can
do with scales. A token's scale is its own, so no row of a batch depends on another. Everywhere else, and for sizes that a GPU's product
does not take, the 8-bit numbers are multiplied as float32, in which each product is exact: the same but for the order of summation.
Cost there: weights are unpacked anew at every product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelyard.core.errors import UnsupportedError
from steelyard.kernels.gpu import multiplies_float8

_scaled_mm = torch._scaled_mm  # pyright: ignore[reportPrivateImportUsage]
KIND = torch.float8_e4m3fn
LARGEST = torch.finfo(KIND).max
SMALLEST = torch.finfo(torch.float32).tiny
"""Least scale: rows of zeros have one too."""
MULTIPLE = 16
"""GPUs multiply 8-bit floats of inputs and outputs that are multiples of this."""


def float8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each row to 8-bit floats: float [n, d] -> float8 [n, d], float32 scale [n, 1]."""
    x = x.float()
    scale = (x.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=SMALLEST)
    return (x / scale).clamp(-LARGEST, LARGEST).to(KIND), scale


def widened(weight: Tensor) -> Tensor:
    """float8 -> float32, the same numbers, of which none is NaN. A half float whose exponent takes up the four bits is the number over
    256; PyTorch's own way takes 17 times as long on a CPU (3.1 against 0.2 ns a weight)."""
    bits = (weight.view(torch.int8).to(torch.int16) << 7) & ~(1 << 14)  # the sign came along into two bits, of which the first is its own
    return bits.view(torch.float16).float().mul_(256)


class Float8Storage(nn.Module):
    """`weight` float8 [out, in], `scale` float32 [out, 1]; `rounds`: whether activations are rounded too."""

    kind = "float8"
    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None, rounds: bool = True):
        super().__init__()
        if weight.dtype != KIND or scale.shape != (weight.shape[0], 1):
            raise UnsupportedError(
                f"float8 weights {tuple(weight.shape)} of {weight.dtype} with scales {tuple(scale.shape)}",
                do="Give one scale per output row.",
            )
        self.rounds = rounds
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("scale", scale.float().contiguous())
        self.bias = nn.Parameter(bias, requires_grad=False) if bias is not None else None

    @property
    def learned(self) -> int:
        """Numbers that were learned and are kept here in few bits; a bias, a parameter of its own, not among them."""
        return self.weight.numel()

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None = None, rounds: bool = True) -> Float8Storage:
        """Rounds float weights [out, in].

        Raises:
            UnsupportedError: for NaN or infinity.
        """
        if not bool(torch.isfinite(weight).all()):
            raise UnsupportedError("weights hold NaN or infinity, which 8 bits cannot", do="Check the model: steelyard inspect DIR --check")
        with torch.no_grad():
            return cls(*float8_rows(weight.detach()), None if bias is None else bias.detach().clone(), rounds)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if self.rounds:
            x8, scale = float8_rows(rows)
            y = self._product(x8, multiplies_float8(x.device)) * scale
        else:
            y = F.linear(rows.float(), widened(self.weight))
        y = y * self.scale.t()
        if self.bias is not None:
            y = y + self.bias.float()
        return y.to(x.dtype).reshape(*x.shape[:-1], len(self.weight))

    def _product(self, x8: Tensor, here: bool) -> Tensor:
        """x8 W8^T, float32 [n, out]; `here`: whether this device multiplies 8-bit floats."""
        if not here or not len(x8) or self.weight.shape[0] % MULTIPLE or self.weight.shape[1] % MULTIPLE:
            return F.linear(x8.float(), widened(self.weight))
        one = torch.ones((), device=x8.device)
        return _scaled_mm(x8, self.weight.t(), scale_a=one, scale_b=one, out_dtype=torch.float32)

    def forward_readably(self, x: Tensor) -> Tensor:
        """The equation in float64, with the same rounding: the twin `forward` is tested against."""
        rows = x.reshape(-1, x.shape[-1])
        x8, scale = float8_rows(rows)
        read = x8.double() * scale.double() if self.rounds else rows.double()
        y = read @ self.dense().double().t()
        if self.bias is not None:
            y = y + self.bias.double()
        return y.to(x.dtype).reshape(*x.shape[:-1], len(self.weight))

    def extra_repr(self) -> str:
        return f"activations in {8 if self.rounds else 16} bits"

    def dense(self) -> Tensor:
        """Float32 [out, in]."""
        return self.weight.float() * self.scale

    def bytes(self) -> int:
        tensors = [self.weight, self.scale] + ([self.bias] if self.bias is not None else [])
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
