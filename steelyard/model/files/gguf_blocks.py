"""GGUF's storage types, and floats from their blocks.

A quantized tensor is a row of blocks; each holds 32 or 256 small integers q and the half-precision scales that turn them
back into weights. Legacy types: w = d * (q - offset) or w = d * q + m, one d and m for 32 weights. K types: 256 weights in
sub-blocks of 16 or 32, whose own scales are small integers under one d (and one dmin for the offsets), so that
w = (d * s) * q - (dmin * m). Products and sums are taken in float32 in the order of ggml's reference, and come out
bit for bit as the `gguf` library's. Layouts: https://github.com/ggml-org/ggml, `ggml-common.h`.

Shapes: n blocks; uint8 [n, bytes of a block] -> `Blocks` of [n, elements of a block].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard.core.errors import UnsupportedError

CHUNK = 2**19
"""Weights dequantized at once: the float32 chunk and its integer intermediates stay within a core's cache."""


@dataclass(frozen=True, slots=True)
class StorageType:
    """One of GGUF's types: `bytes` hold `elements` weights. `plain` is the torch type where a block is one number."""

    id: int
    name: str
    elements: int
    bytes: int
    plain: torch.dtype | None = None


_PLAIN = {
    0: ("F32", torch.float32),
    1: ("F16", torch.float16),
    24: ("I8", torch.int8),
    25: ("I16", torch.int16),
    26: ("I32", torch.int32),
    27: ("I64", torch.int64),
    28: ("F64", torch.float64),
    30: ("BF16", torch.bfloat16),
}
_BLOCKS = (  # those without a routine below are known by size only, so that a file with them can at least be listed
    *((2, "Q4_0", 32, 18), (3, "Q4_1", 32, 20), (6, "Q5_0", 32, 22), (7, "Q5_1", 32, 24), (8, "Q8_0", 32, 34), (9, "Q8_1", 32, 40)),
    *((10, "Q2_K", 256, 84), (11, "Q3_K", 256, 110), (12, "Q4_K", 256, 144), (13, "Q5_K", 256, 176), (14, "Q6_K", 256, 210)),
    *((15, "Q8_K", 256, 292), (16, "IQ2_XXS", 256, 66), (17, "IQ2_XS", 256, 74), (18, "IQ3_XXS", 256, 98), (19, "IQ1_S", 256, 50)),
    *((20, "IQ4_NL", 32, 18), (21, "IQ3_S", 256, 110), (22, "IQ2_S", 256, 82), (23, "IQ4_XS", 256, 136), (29, "IQ1_M", 256, 56)),
    *((34, "TQ1_0", 256, 54), (35, "TQ2_0", 256, 66), (39, "MXFP4", 32, 17), (40, "NVFP4", 64, 36)),
)
TYPES = {id: StorageType(id, name, 1, dtype.itemsize, dtype) for id, (name, dtype) in _PLAIN.items()}
TYPES |= {id: StorageType(id, name, elements, size) for id, name, elements, size in _BLOCKS}
BY_NAME = {kind.name: kind for kind in TYPES.values()}


@dataclass(frozen=True)
class Blocks:
    """What blocks hold: weight = (integer - zero) * scale + minimum, each scale for `per_scale` weights in a row.

    Attributes:
        integers: uint8 [n, elements], below 2^bits.
        scales: float16 or float32 [n, elements / per_scale].
        minima: of the same shape and type, or None.
        zero: the integer that stands for 0.
        bits: of an integer.
    """

    integers: Tensor
    scales: Tensor
    minima: Tensor | None = None
    zero: int = 0
    bits: int = 4

    def floats(self) -> Tensor:
        """The weights, float32 [n, elements]."""
        scales = self.scales.float().unsqueeze(2)
        signed = self.integers.to(torch.int16) - self.zero if self.zero else self.integers
        weights = signed.unflatten(1, (scales.shape[1], -1)) * scales
        return (weights if self.minima is None else weights.add_(self.minima.float().unsqueeze(2))).flatten(1)


def dequantize(data: Tensor, kind: StorageType, dtype: torch.dtype = torch.float32) -> Tensor:
    """Floats from a quantized tensor's bytes.

    Args:
        data: uint8 [blocks * kind.bytes].
        kind: a quantized storage type.
        dtype: float type of the result; computed in float32 and rounded once.

    Returns:
        [blocks * kind.elements].

    Raises:
        UnsupportedError: when there is no routine for the type; it is named.
    """
    blocks = data.view(-1, kind.bytes)
    routine = routine_for(kind)
    out = torch.empty(len(blocks), kind.elements, dtype=dtype, device=data.device)
    step = CHUNK // kind.elements
    for start in range(0, len(blocks), step):
        out[start : start + step] = routine(blocks[start : start + step]).floats()
    return out.view(-1)


def routine_for(kind: StorageType) -> Callable[[Tensor], Blocks]:
    """What takes the blocks uint8 [n, kind.bytes] of a type apart.

    Raises:
        UnsupportedError: when there is no routine for the type; it is named.
    """
    if kind.name not in ROUTINES:
        raise UnsupportedError(
            f"GGUF type {kind.name} is not read here", do=f"Quantize the model to one of {', '.join(ROUTINES)}, or to F16, BF16 or F32."
        )
    return ROUTINES[kind.name]


def _halves(blocks: Tensor, start: int) -> Tensor:
    """The half-precision number at byte `start` of each block: float16 [n, 1]."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16)


def _nibbles(packed: Tensor, run: int) -> Tensor:
    """4-bit integers uint8 [n, 2 * bytes]: of each run of bytes first all low halves, then all high halves."""
    runs = packed.unflatten(1, (-1, run))
    return torch.stack((runs & 15, runs >> 4), 2).flatten(1)


def _bits(packed: Tensor) -> Tensor:
    """Single bits uint8 [n, 8 * bytes], lowest first within each byte."""
    return (packed.unsqueeze(2) >> torch.arange(8, dtype=torch.uint8, device=packed.device) & 1).flatten(1)


def _q8_0(b: Tensor) -> Blocks:
    return Blocks(b[:, 2:] ^ 128, _halves(b, 0), zero=128, bits=8)


def _q4_0(b: Tensor) -> Blocks:
    return Blocks(_nibbles(b[:, 2:], 16), _halves(b, 0), zero=8)


def _q4_1(b: Tensor) -> Blocks:
    return Blocks(_nibbles(b[:, 4:], 16), _halves(b, 0), _halves(b, 2))


def _q5_0(b: Tensor) -> Blocks:
    return Blocks(_nibbles(b[:, 6:], 16) | _bits(b[:, 2:6]) << 4, _halves(b, 0), zero=16, bits=8)


def _q5_1(b: Tensor) -> Blocks:
    return Blocks(_nibbles(b[:, 8:], 16) | _bits(b[:, 4:8]) << 4, _halves(b, 0), _halves(b, 2), bits=8)


def _scales_and_offsets(b: Tensor) -> tuple[Tensor, Tensor]:
    """Of Q4_K and Q5_K: d * s and -dmin * m of the eight sub-blocks, each float32 [n, 8].

    Twelve bytes hold eight 6-bit s and eight 6-bit m: bytes 0-3 and 4-7 the first four of each in their low six bits,
    bytes 8-11 the low four bits of the others, whose high two bits are the top bits of bytes 0-7.
    """
    first, second, rest = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    s = torch.cat((first & 63, rest & 15 | first >> 2 & 48), 1)
    m = torch.cat((second & 63, rest >> 4 | second >> 2 & 48), 1)
    return s * _halves(b, 0).float(), -(m * _halves(b, 2).float())


def _q4_k(b: Tensor) -> Blocks:
    return Blocks(_nibbles(b[:, 16:], 32), *_scales_and_offsets(b))


def _q5_k(b: Tensor) -> Blocks:
    # Bit i of byte j is the fifth bit of weight j of sub-block i.
    high = b[:, None, 16:48] >> torch.arange(8, dtype=torch.uint8, device=b.device)[:, None] & 1
    q = _nibbles(b[:, 48:], 32).unflatten(1, (8, 32)) | high << 4
    return Blocks(q.flatten(1), *_scales_and_offsets(b), bits=8)


def _q6_k(b: Tensor) -> Blocks:
    # Two halves of 128 weights: 64 bytes of low nibbles and 32 bytes of high pairs, one pair for every 32 weights.
    low = _nibbles(b[:, :128], 64).unflatten(1, (2, 4, 32))
    high = b[:, 128:192].unflatten(1, (2, 1, 32)) >> torch.arange(0, 8, 2, dtype=torch.uint8, device=b.device)[:, None] & 3
    scales = b[:, 192:208].contiguous().view(torch.int8) * _halves(b, 208).float()
    return Blocks((low | high << 4).flatten(1), scales, zero=32, bits=8)


ROUTINES: dict[str, Callable[[Tensor], Blocks]] = {
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
