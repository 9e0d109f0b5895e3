"""The C++ routines of recurrences: the short convolution and the selective scan of Mamba, forward and backward, on float32 arrays.

They are called by `steelyard.model.mixers.native_scan`, which checks what they cannot know: shapes, types, that arrays are contiguous.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from ctypes import Structure, c_int32, c_void_p

import torch
from torch import Tensor

from steelyard.kernels import native

BEGINS, PADDING = 1, 2
"""Marks of tokens, as `Mark` of native/source/api.hpp has them."""
PIECE, STRETCH, BLOCK = 128, 32, 64
"""Tokens of a piece of a convolution, tokens between states that a scan keeps, channels of a block of a scan."""


class ConvolutionFields(Structure):
    """`Convolution` of native/source/api.hpp."""

    _fields_ = [
        *[(name, c_int32) for name in ("rows", "time", "width", "taps", "silu")],
        *[(name, c_void_p) for name in ("x", "before", "weights", "bias", "marks", "y")],
    ]


class ConvolutionGradientFields(Structure):
    """`ConvolutionGradients` of native/source/api.hpp."""

    _fields_ = [(name, c_void_p) for name in ("y", "x", "weights")]


class ScanFields(Structure):
    """`Scan` of native/source/api.hpp."""

    _fields_ = [
        *[(name, c_int32) for name in ("rows", "time", "width", "state")],
        *[(name, c_void_p) for name in ("x", "step", "gate", "decay", "write", "read", "skip", "before", "marks", "y", "after", "ends")],
    ]


class ScanGradientFields(Structure):
    """`ScanGradients` of native/source/api.hpp."""

    _fields_ = [(name, c_void_p) for name in ("y", "after", "x", "step", "gate", "decay", "skip", "write", "read", "before")]


def pool() -> native.Pool | None:
    """Threads for the parts of a model that call routines themselves, as many as PyTorch uses here; None where there are no routines."""
    routines = native.routines()
    return None if routines is None else _pool(routines, torch.get_num_threads(), os.getpid())


@functools.lru_cache(maxsize=8)
def _pool(routines: native.Routines, threads: int, process: int) -> native.Pool:
    """A forked process has none of its parent's threads and needs a pool of its own."""
    return native.Pool(routines, threads)


def _call(pool: native.Pool, name: str, *structures: Structure) -> None:
    function = getattr(pool.routines.library, name)
    function.restype, function.argtypes = c_int32, [c_void_p] * (2 + len(structures))
    if not function(pool.routines.address, pool.address, *[ctypes.byref(structure) for structure in structures]):
        raise MemoryError(name)


def _addresses(parts: Sequence[Tensor | None]) -> list[int | None]:
    return [None if part is None else part.data_ptr() for part in parts]


def convolve(
    pool: native.Pool, x_btc: Tensor, before_bkc: Tensor, weights_kc: Tensor, bias_c: Tensor | None, marks_bt: Tensor | None, silu: bool
) -> Tensor:
    """silu(sum_j weights_j x_{t-j} + bias) or, without `silu`, the sum: [b, t, c]."""
    y = torch.empty_like(x_btc)
    _call(pool, "sy_convolution", _convolution(x_btc, before_bkc, weights_kc, bias_c, marks_bt, silu, y))
    return y


def convolve_back(
    pool: native.Pool,
    gradient_btc: Tensor,
    x_btc: Tensor,
    before_bkc: Tensor,
    weights_kc: Tensor,
    bias_c: Tensor | None,
    marks_bt: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the inputs [b, t, c], of the weights [k, c] and of the bias [c]."""
    (b, t, c), taps = x_btc.shape, len(weights_kc)
    dx, shares = torch.empty_like(x_btc), x_btc.new_empty(b * -(-t // PIECE), taps + 1, c)
    fields = _convolution(x_btc, before_bkc, weights_kc, bias_c, marks_bt, silu, None)
    _call(pool, "sy_convolution_back", fields, ConvolutionGradientFields(*_addresses((gradient_btc, dx, shares))))
    total = shares.sum(0)
    return dx, total[:taps], total[taps]


def _convolution(
    x_btc: Tensor, before_bkc: Tensor, weights_kc: Tensor, bias_c: Tensor | None, marks_bt: Tensor | None, silu: bool, y: Tensor | None
) -> ConvolutionFields:
    return ConvolutionFields(*x_btc.shape, len(weights_kc), silu, *_addresses((x_btc, before_bkc, weights_kc, bias_c, marks_bt, y)))


Scanned = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]
"""x, step and gate [b, t, d], decay [s, d], write and read [b, t, s], skip [d], before [b, s, d], marks uint8 [b, t] or None."""


def scan(pool: native.Pool, given: Scanned, keep: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """y [b, t, d], the states after the last token [b, s, d], and those that the way back needs where they are to be kept."""
    (b, t, d), s = given[0].shape, len(given[3])
    y, after = torch.empty_like(given[0]), given[0].new_empty(b, s, d)
    ends = given[0].new_empty(b, -(-t // STRETCH), s, d) if keep else None
    _call(pool, "sy_scan", ScanFields(b, t, d, s, *_addresses((*given, y, after, ends))))
    return y, after, ends


def scan_back(pool: native.Pool, given: Scanned, ends: Tensor, gradient_btd: Tensor, after_bsd: Tensor | None) -> tuple[Tensor, ...]:
    """Gradients of all of `given` but the marks, in its order."""
    (b, t, d), s = given[0].shape, len(given[3])
    new = given[0].new_empty
    dx, step, gate, before = new(b, t, d), new(b, t, d), new(b, t, d), new(b, s, d)
    decay, skip = new(b, s, d), new(b, d)
    write, read = new(2, -(-d // BLOCK), b, t, s)
    fields = ScanFields(b, t, d, s, *_addresses((*given, None, None, ends)))
    gradients = (gradient_btd, after_bsd, dx, step, gate, decay, skip, write, read, before)
    _call(pool, "sy_scan_back", fields, ScanGradientFields(*_addresses(gradients)))
    return dx, step, gate, decay.sum(0), write.sum(0), read.sum(0), skip.sum(0), before
