"""The C++ routines of the distribution `steelyard-kernels` (folder `native/`): loading them, and their plain arrays as objects.

Nothing here knows a model. `routines()` gives the best instruction set this machine and build share, or None with a reason to be
read from `absence()`; the environment variable STEELYARD_KERNELS chooses one (`avx512`, `avx2`, on ARM
`i8mm`, `dotprod`, `neon`; `portable`) or none (`off`).
"""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard.core.errors import SteelyardError, UnsupportedError

VERSION = 8
CHOICE = "STEELYARD_KERNELS"
SETS = ("avx512", "avx2", "i8mm", "dotprod", "neon", "portable")
"""Instruction sets by which routines are compiled, the best first."""
BLOCK = 32
"""Inputs of a block of quantized weights."""

STRETCH = 128
"""Keys that attention goes over at a time; groups of a cache in few bits divide it."""

ACTIVATIONS = {"silu": 0, "swish": 0, "gelu_new": 1, "gelu_fast": 1, "gelu_pytorch_tanh": 1, "relu": 2, "gelu": 3}
"""Nonlinearities the routines have, by the names configs give them."""
NORMS = {"rms": 1, "layer": 2}
RESIDUALS = {"sequential": 0, "parallel": 1}
"""Kinds of norms and of residual streams that they have."""


class NormFields(Structure):
    """`Norm` of native/source/api.hpp; as it is made here, none."""

    _fields_ = [
        *[(name, c_void_p) for name in ("weight", "bias")],
        ("epsilon", c_float),
        *[(name, c_int32) for name in ("width", "kind")],
    ]


class FewBitsFields(Structure):
    """`FewBits` of native/source/api.hpp."""

    _fields_ = [
        *[(name, c_void_p) for name in ("codes", "low", "scale", "recent")],
        *[(name, c_int32) for name in ("bits", "window", "group", "groups", "kept", "share")],
    ]


class LayerFields(Structure):
    """`Layer` of native/source/api.hpp."""

    _fields_ = [
        *[(name, c_void_p) for name in ("query", "key", "value", "output", "gate", "up", "down")],
        *[(name, NormFields) for name in ("mixer_norm", "channel_norm", "mixer_after", "channel_after", "query_norm", "key_norm")],
        *[(name, c_void_p) for name in ("keys", "values")],
        *[(name, c_float) for name in ("scale", "softcap")],
        *[(name, c_int32) for name in ("window", "angles", "residual")],
    ]


class ModelFields(Structure):
    """`Model` of native/source/api.hpp."""

    _fields_ = [
        *[
            (name, c_int32)
            for name in ("layers", "width", "heads", "key_value_heads", "head_width", "hidden", "rotary", "activation", "cache")
        ],
        ("capacity", c_int64),
        ("final_norm", NormFields),
        ("layer", POINTER(LayerFields)),
    ]


class TokenFields(Structure):
    """`Tokens` of native/source/api.hpp."""

    _fields_ = [
        ("count", c_int32),
        ("slot", c_void_p),
        ("position", c_void_p),
        ("cos", POINTER(c_void_p)),
        ("sin", POINTER(c_void_p)),
        ("range", POINTER(c_float)),
    ]


@dataclass(frozen=True)
class Routines:
    """The routines for one instruction set."""

    name: str
    library: ctypes.CDLL
    address: int


class Pool:
    """Threads that share each call's work; whoever calls is one of them, and callers take turns."""

    def __init__(self, routines: Routines, threads: int):
        self.routines, self.threads = routines, threads
        self.address = routines.library.sy_pool(threads)
        if not self.address:
            raise SteelyardError(f"{threads} threads could not be started", do="Use fewer threads.")
        weakref.finalize(self, routines.library.sy_pool_end, self.address)


class Matrix:
    """Weights [outputs, inputs] in the routines' order: y = x W^T + b. Made by one of the functions below."""

    def __init__(self, routines: Routines, address: int | None, shape: tuple[int, int], bias: Tensor | None):
        if not address:
            raise MemoryError(f"{shape[0]} x {shape[1]} weights")
        self.routines, self.address, (self.outputs, self.inputs) = routines, address, shape
        weakref.finalize(self, routines.library.sy_matrix_end, address)
        if bias is not None:
            bias = bias.detach().float().contiguous()
            if bias.shape != (self.outputs,):
                raise ValueError(f"a bias of shape {tuple(bias.shape)} for {self.outputs} outputs")
            if not routines.library.sy_matrix_bias(address, bias.data_ptr()):
                raise MemoryError(f"{self.outputs} biases")

    @property
    def bytes(self) -> int:
        return self.routines.library.sy_matrix_bytes(self.address)

    def rows(self, ids: Tensor) -> Tensor:
        """The weights of some outputs, float32 [n, inputs]: exactly the numbers that are kept.

        Args:
            ids: whole numbers [n], each at least 0 and below `outputs`.
        """
        ids = ids.detach().to(torch.int32).contiguous()
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.outputs:
            raise ValueError(f"rows {int(ids.min())} to {int(ids.max())} of {self.outputs}")
        out = torch.empty(len(ids), self.inputs)
        self.routines.library.sy_matrix_rows(self.address, ids.data_ptr(), len(ids), out.data_ptr())
        return out

    def __call__(self, x: Tensor, pool: Pool) -> Tensor:
        """Float32 [n, inputs] -> float32 [n, outputs]."""
        x = x.detach().float().contiguous()
        if x.dim() != 2 or x.shape[1] != self.inputs:
            raise ValueError(f"rows of shape {tuple(x.shape)} for {self.inputs} inputs")
        y = torch.empty(len(x), self.outputs)
        if len(x) and not self.routines.library.sy_linear(
            self.routines.address, pool.address, self.address, x.data_ptr(), len(x), y.data_ptr()
        ):
            raise MemoryError(f"{len(x)} rows of {self.inputs}")
        return y


def matrix_float(routines: Routines, weight: Tensor, bias: Tensor | None = None) -> Matrix:
    """From float32 or bfloat16 [outputs, inputs]; the products round activations to the weights' type and sum in float32."""
    weight = weight.detach().contiguous()
    make = {torch.float32: routines.library.sy_matrix_float32, torch.bfloat16: routines.library.sy_matrix_bfloat16}.get(weight.dtype)
    if make is None:
        raise UnsupportedError(f"weights of {weight.dtype}", do="Use float32 or bfloat16.")
    return Matrix(routines, make(weight.data_ptr(), *weight.shape), _shape(weight), bias)


def matrix_channel8(routines: Routines, weight: Tensor, scale: Tensor, digits: int, bias: Tensor | None = None) -> Matrix:
    """From int8 [outputs, inputs] and a scale for each output; activations in one or two digits of 8 bits
    (`steelyard.model.linears.int8`)."""
    weight, scale = weight.detach().contiguous(), scale.detach().float().reshape(-1).contiguous()
    if weight.dtype != torch.int8 or len(scale) != len(weight) or digits not in (1, 2):
        raise ValueError(f"{weight.dtype} weights of shape {tuple(weight.shape)}, {len(scale)} scales, {digits} digits")
    address = routines.library.sy_matrix_channel8(weight.data_ptr(), scale.data_ptr(), *weight.shape, digits)
    return Matrix(routines, address, _shape(weight), bias)


def matrix_blocks(
    routines: Routines, integers: Tensor, scales: Tensor, minima: Tensor | None, bits: int, zero: int, bias: Tensor | None = None
) -> Matrix:
    """w = (integer - zero) * scale + minimum; activations in 8 bits for each 32 of them.

    Args:
        routines: the instruction set.
        integers: uint8 [outputs, inputs], below 2^bits; inputs are a multiple of 32. With 8 bits and a zero up to 32, below 64.
        scales: float16 or float32 [outputs, inputs / 32] or [outputs, inputs / 16].
        minima: of the same shape and type, or None.
        bits: 4 or 8.
        zero: the integer that stands for 0; where there are minima it is 0.
        bias: float [outputs], or None.
    """
    integers, scales = integers.detach().contiguous(), scales.detach().contiguous()
    minima = None if minima is None else minima.detach().contiguous()
    outputs, inputs = _shape(integers)
    per_scale = inputs // max(scales.shape[1], 1)
    fits = (
        integers.dtype == torch.uint8 and inputs % BLOCK == 0 and per_scale in (16, 32) and scales.shape == (outputs, inputs // per_scale)
    )
    same = minima is None or (minima.shape == scales.shape and minima.dtype == scales.dtype and zero == 0)
    if not fits or not same or bits not in (4, 8) or scales.dtype not in (torch.float16, torch.float32):
        raise ValueError(f"{integers.dtype} of shape {tuple(integers.shape)} in {bits} bits with scales {tuple(scales.shape)}")
    address = routines.library.sy_matrix_blocks(
        integers.data_ptr(),
        scales.data_ptr(),
        None if minima is None else minima.data_ptr(),
        *(outputs, inputs, bits, zero, per_scale, scales.dtype == torch.float32),
    )
    return Matrix(routines, address, (outputs, inputs), bias)


def _shape(weight: Tensor) -> tuple[int, int]:
    if weight.dim() != 2 or min(weight.shape) < 1 or max(weight.shape) >= 2**31:
        raise ValueError(f"weights of shape {tuple(weight.shape)}")
    return weight.shape[0], weight.shape[1]


def step(
    pool: Pool, model: ModelFields, stream: Tensor, slots: Tensor, positions: Tensor, cos: Sequence[Tensor], sin: Sequence[Tensor]
) -> None:
    """All blocks and the final norm, in place.

    Args:
        pool: threads.
        model: with the matrices, norms and caches it points to kept alive by the caller.
        stream: float32 [n, width], contiguous.
        slots, positions: int32 [n]; the tokens of a slot stand together and in order.
        cos, sin: for each kind of angles float32 [n, rotary], contiguous.

    Raises:
        SteelyardError: keys or values that a cache in few bits cannot hold.
    """
    count = len(stream)
    tables = [(c_void_p * max(len(part), 1))(*[table.data_ptr() for table in part]) for part in (cos, sin)]
    bounds = (c_float * 2)()
    tokens = TokenFields(count, slots.data_ptr(), positions.data_ptr(), *tables, bounds)
    routines = pool.routines
    done = routines.library.sy_step(routines.address, pool.address, ctypes.byref(model), ctypes.byref(tokens), stream.data_ptr())
    if not done:
        raise MemoryError(f"a step of {count} tokens")
    if done == TOO_WIDE:
        raise beyond_few_bits(*bounds)


TOO_WIDE = 2
"""What `sy_step` gives for keys or values that few bits cannot hold."""


def beyond_few_bits(least: float, most: float) -> SteelyardError:
    """The error where 16-bit floats cannot bound numbers between these."""
    return SteelyardError(
        f"keys or values from {least:.3g} to {most:.3g}",
        where="kv_cache",
        do="They cannot be kept in few bits; answer without `kv_cache`.",
    )


def routines() -> Routines | None:
    """The routines to use, or None where there are none (see `absence`).

    Raises:
        SteelyardError: STEELYARD_KERNELS asks for what is not there.
    """
    choice = os.environ.get(CHOICE, "")
    if choice == "off":
        return None
    if choice and choice not in SETS:
        raise SteelyardError(f"{CHOICE} is {choice!r}", do=f"Known: {', '.join(SETS)}, off.")
    found = [one for name in ([choice] if choice else SETS) if (one := routines_for(name)) is not None]
    if choice and not found:
        raise SteelyardError(f"{CHOICE} is {choice}, but {absence() or 'this machine or build lacks it'}", do=f"Unset {CHOICE}.")
    return found[0] if found else None


@functools.cache
def routines_for(name: str) -> Routines | None:
    """The routines for one instruction set, or None where this machine or build lacks it."""
    library = _library()
    if isinstance(library, str):
        return None
    address = library.sy_routines(name.encode())
    return Routines(name, library, address) if address else None


def absence() -> str | None:
    """Why there are no C++ routines, or None where there are."""
    library = _library()
    return library if isinstance(library, str) else None


@functools.cache
def _library() -> ctypes.CDLL | str:
    try:
        import steelyard_kernels
    except ImportError:
        return "the distribution `steelyard-kernels` is not installed (pip install ./native, with a C++ compiler)"
    try:
        library = ctypes.CDLL(str(steelyard_kernels.library()))
    except OSError as error:
        return f"the library of `steelyard-kernels` cannot be loaded: {error}"
    if (version := library.sy_version()) != VERSION:
        return f"`steelyard-kernels` has interface {version}, this Steelyard wants {VERSION}: pip install --upgrade ./native"
    p, i = c_void_p, c_int32
    for name, result, arguments in (
        ("sy_routines", p, [c_char_p]),
        ("sy_pool", p, [i]),
        ("sy_pool_end", None, [p]),
        ("sy_matrix_float32", p, [p, i, i]),
        ("sy_matrix_bfloat16", p, [p, i, i]),
        ("sy_matrix_channel8", p, [p, p, i, i, i]),
        ("sy_matrix_blocks", p, [p, p, p, i, i, i, i, i, i]),
        ("sy_matrix_bias", i, [p, p]),
        ("sy_matrix_bytes", c_int64, [p]),
        ("sy_matrix_rows", None, [p, p, c_int32, p]),
        ("sy_matrix_end", None, [p]),
        ("sy_linear", i, [p, p, p, p, i, p]),
        ("sy_step", i, [p, p, p, p, p]),
        ("sy_head", i, [p, p, p, p, p]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
