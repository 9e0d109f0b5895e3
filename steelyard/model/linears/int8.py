"""Int8 linears: weights in 8 bits per output channel, activations in one or two digits of 8 bits per token as they arrive.

W8 = round(W / s_w), s_w = max|W_row| / 127;  x8 = round(x / s_x), s_x = max|x_token| / 127;
y = (x8 W8^T) * s_x * s_w + b.   Products are summed in int32, so they are exact and do not depend on the batch.
(LLM.int8's vector-wise scheme without its outlier columns, arXiv:2208.07339, section 2; kernel: torch._int_mm.)

A second digit holds what the first left over: x = x8 s_x + r8 s_x / 254, so that a few large activations no longer swallow the
others. Both digits go through one product of twice the rows: weights are read once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelyard.core.errors import UnsupportedError
from steelyard.kernels.gpu import multiplies_int8

_int_mm = torch._int_mm  # pyright: ignore[reportPrivateImportUsage]
LARGEST = 127
SMALLEST = torch.finfo(torch.float32).tiny
"""Least scale: rows of zeros have one too, and no division overflows."""
STEP = 2 * LARGEST
"""By how much the second digit is finer: what rounding to the first leaves is at most half its scale."""
LONGEST = (2**31 - 1) // LARGEST**2
"""Most inputs whose sum of products fits into 32 bits: 133,144."""
CUDA_ROWS = 17
CUDA_MULTIPLE = 8
"""torch._int_mm on CUDA wants more than 16 rows, and inputs and outputs that are multiples of 8."""


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each row to 8 bits: float [n, d] -> int8 [n, d], float32 scale [n, 1]."""
    x = x.float()
    scale = (x.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=SMALLEST)
    return torch.round(x / scale).to(torch.int8), scale


def digits_of(x: Tensor, digits: int) -> tuple[Tensor, list[Tensor]]:
    """Float [n, d] as one or two int8 digits: int8 [digits * n, d], and the float32 scale [n, 1] of each digit."""
    first, scale = quantize_rows(x)
    if digits == 1:
        return first, [scale]
    finer = (scale / STEP).clamp(min=SMALLEST)
    rest = torch.round((x.float() - first.float() * scale) / finer).clamp(-LARGEST, LARGEST)
    return torch.cat((first, rest.to(torch.int8))), [scale, finer]


def integer_product(x: Tensor, weight: Tensor) -> Tensor:
    """Exact sums of products of int8 [n, in] and int8 [out, in]: int32 [n, out], or float64 where the device has no such products."""
    if not multiplies_int8(x.device):
        return x.double() @ weight.t().double()
    return padded_product(x, weight) if x.is_cuda else _int_mm(x, weight.t())


def padded_product(x: Tensor, weight: Tensor) -> Tensor:
    """The same of numbers with zeros around them, up to sizes that a GPU takes."""
    rows, (outputs, inputs) = len(x), weight.shape
    if beside := -inputs % CUDA_MULTIPLE:
        x, weight = F.pad(x, (0, beside)), F.pad(weight, (0, beside))
    x = F.pad(x, (0, 0, 0, max(0, CUDA_ROWS - rows)))
    weight = F.pad(weight, (0, 0, 0, -outputs % CUDA_MULTIPLE))
    return _int_mm(x, weight.t())[:rows, :outputs]


class Int8Storage(nn.Module):
    """`weight` int8 [out, in], `scale` float32 [out, 1]; `digits` of 8 bits hold an activation."""

    kind = "int8"
    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None, digits: int = 1):
        super().__init__()
        if weight.dtype != torch.int8 or scale.shape != (weight.shape[0], 1):
            raise UnsupportedError(
                f"int8 weights {tuple(weight.shape)} of {weight.dtype} with scales {tuple(scale.shape)}",
                do="Give one scale per output row.",
            )
        self.digits = digits
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("scale", scale.float().contiguous())
        self.bias = nn.Parameter(bias, requires_grad=False) if bias is not None else None

    @property
    def learned(self) -> int:
        """Numbers that were learned and are kept here in few bits; a bias, a parameter of its own, not among them."""
        return self.weight.numel()

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None = None, digits: int = 1) -> Int8Storage:
        """Rounds float weights [out, in] to the nearest of 255 levels per row.

        Raises:
            UnsupportedError: for NaN or infinity, and for more inputs than 32-bit sums can hold.
        """
        if weight.shape[1] > LONGEST:
            raise UnsupportedError(f"{weight.shape[1]} inputs", do=f"Products of 8 bits are summed in 32: at most {LONGEST} inputs.")
        if not bool(torch.isfinite(weight).all()):
            raise UnsupportedError("weights hold NaN or infinity, which 8 bits cannot", do="Check the model: steelyard inspect DIR --check")
        with torch.no_grad():
            packed, scale = quantize_rows(weight.detach())
            return cls(packed, scale, None if bias is None else bias.detach().clone(), digits)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        packed, scales = digits_of(rows, self.digits)
        product = integer_product(packed, self.weight)  # [digits * n, out]
        y = product[: len(rows)].float() * scales[0]
        for digit, scale in enumerate(scales[1:], 1):
            y = y + product[digit * len(rows) : (digit + 1) * len(rows)].float() * scale
        y = y * self.scale.t()
        if self.bias is not None:
            y = y + self.bias.float()
        return y.to(x.dtype).reshape(*x.shape[:-1], len(self.weight))

    def forward_readably(self, x: Tensor) -> Tensor:
        """The equation in float64, with the same rounding: the twin `forward` is tested against."""
        packed, scales = digits_of(x.reshape(-1, x.shape[-1]), self.digits)
        digits = [digit.double() * scale.double() for digit, scale in zip(packed.chunk(self.digits), scales, strict=True)]
        y = (torch.stack(digits).sum(0) @ self.weight.double().t()) * self.scale.double().t()
        if self.bias is not None:
            y = y + self.bias.double()
        return y.to(x.dtype).reshape(*x.shape[:-1], len(self.weight))

    def extra_repr(self) -> str:
        return f"activations in {self.digits} digits"

    def dense(self) -> Tensor:
        """Float32 [out, in]."""
        return self.weight.float() * self.scale

    def bytes(self) -> int:
        tensors = [self.weight, self.scale] + ([self.bias] if self.bias is not None else [])
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
