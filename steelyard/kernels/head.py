"""The C++ routine of a language model's head: logits of a few rows, and what draws and confidence ask of each of them.

The readable twin of what it finds is `steelyard.generate.candidates.found_in`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import Structure, c_int32, c_void_p
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from steelyard.kernels.native import Matrix, Pool


class HeadFields(Structure):
    """`Head` of native/source/api.hpp."""

    _fields_ = [
        *[(name, c_int32) for name in ("rows", "count", "room")],
        *[(name, c_void_p) for name in ("best", "sums", "inverse", "logits", "found", "ids", "values")],
        *[(name, c_void_p) for name in ("largest", "log_sums", "entropies", "masses")],
    ]


@dataclass(frozen=True)
class Found:
    """What was asked of n rows of logits [n, vocabulary].

    Attributes:
        ids, values: int32 and float32 [n, room]: the likeliest tokens and their logits, likeliest first, of equal ones the lower id.
        count: int32 [n]: how many of them there are; those of -infinity are none.
        largest: float32 [n]; not a number where a logit is none, or infinite.
        log_sums, entropies: float32 [n], in nats; where asked for.
        masses: float64 [n], sum of e^((logit - largest) / temperature); where asked for.
    """

    rows: int
    room: int
    ids: np.ndarray = field(init=False)
    values: np.ndarray = field(init=False)
    count: np.ndarray = field(init=False)
    largest: np.ndarray = field(init=False)
    log_sums: np.ndarray = field(init=False)
    entropies: np.ndarray = field(init=False)
    masses: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        for name, shape, kind in (
            ("ids", (self.rows, self.room), np.int32),
            ("values", (self.rows, self.room), np.float32),
            ("count", self.rows, np.int32),
            *[(name, self.rows, np.float32) for name in ("largest", "log_sums", "entropies")],
            ("masses", self.rows, np.float64),
        ):
            object.__setattr__(self, name, np.empty(shape, kind))


def read(pool: Pool, logits: Tensor, best: Sequence[int], sums: Sequence[bool], temperatures: Sequence[float]) -> Found:
    """Reads float32 logits [n, vocabulary], contiguous.

    Args:
        best: for each row how many of the likeliest tokens are wanted.
        sums: for each row whether the log of the sum of exponentials and the entropy are.
        temperatures: for each row that of the mass that is wanted, or 0 for none.
    """
    return _head(pool, logits, best, sums, temperatures, None, None)


def compute(
    pool: Pool, matrix: Matrix, hidden: Tensor, best: Sequence[int], sums: Sequence[bool], temperatures: Sequence[float]
) -> tuple[Tensor, Found]:
    """Logits float32 [n, outputs] of float32 hidden states [n, inputs], and what is asked of them (see `read`)."""
    hidden = hidden.detach().float().contiguous()
    if hidden.dim() != 2 or hidden.shape[1] != matrix.inputs:
        raise ValueError(f"rows of shape {tuple(hidden.shape)} for {matrix.inputs} inputs")
    logits = torch.empty(len(hidden), matrix.outputs)
    return logits, _head(pool, logits, best, sums, temperatures, matrix.address, hidden.data_ptr())


def _head(
    pool: Pool,
    logits: Tensor,
    best: Sequence[int],
    sums: Sequence[bool],
    temperatures: Sequence[float],
    matrix: int | None,
    hidden: int | None,
) -> Found:
    if logits.dtype != torch.float32 or logits.dim() != 2 or not logits.is_contiguous():
        raise ValueError(f"{logits.dtype} logits of shape {tuple(logits.shape)}")
    rows, count = logits.shape
    if not len(best) == len(sums) == len(temperatures) == rows:
        raise ValueError(f"{len(best)}, {len(sums)} and {len(temperatures)} wishes for {rows} rows")
    wanted = np.array([min(most, count) for most in best], np.int32)
    flags = np.array(sums, np.int32)
    inverse = np.array([1 / temperature if temperature else 0 for temperature in temperatures], np.float32)
    found = Found(rows, int(wanted.max(initial=0)))
    if not rows or not count:
        return found
    arrays = [array.ctypes.data for array in (found.count, found.ids, found.values, found.largest, found.log_sums, found.entropies)]
    fields = HeadFields(
        *(rows, count, found.room, wanted.ctypes.data, flags.ctypes.data, inverse.ctypes.data, logits.data_ptr()),
        *(*arrays, found.masses.ctypes.data),
    )
    if not pool.routines.library.sy_head(pool.routines.address, pool.address, ctypes.byref(fields), matrix, hidden):
        raise MemoryError(f"{rows} rows of {count} logits")
    return found
