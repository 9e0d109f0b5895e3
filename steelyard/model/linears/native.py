"""Linears multiplied by the C++ routines: weights in their order, shared by whole fused steps (`model/fused.py`) and single products.

The readable twins are the storages they are made from: `DenseStorage`, `Int8Storage`, `Int4Storage`,
`BlockStorage`. A row's result does not depend on other rows.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from steelyard.core.meters.memory import trim
from steelyard.kernels.native import Matrix, Pool, matrix_blocks, matrix_channel8, matrix_float
from steelyard.model.linears.blocks import BLOCK, BlockStorage
from steelyard.model.linears.int4 import Int4Storage
from steelyard.model.linears.int8 import Int8Storage
from steelyard.model.linears.linear import DenseStorage, Linear, Network

ROWS = 4096
"""Outputs whose weights are unpacked at a time."""
TRIMMED = 8
"""Linears that are packed before what this left free goes back to the system, which takes a quarter of a millisecond."""


class NativeStorage(nn.Module):
    """Weights [out, in] in the routines' order. For inference on a CPU. Never changed, so a copy of it is itself.

    Attributes:
        blocks_of: the type of a file's blocks that it was made from, or None.
    """

    kind = "native"
    row_invariant = True

    def __init__(self, matrix: Matrix, pool: Pool, bias: Tensor | None, blocks_of: Any = None):
        super().__init__()
        self.matrix, self.pool, self.blocks_of = matrix, pool, blocks_of
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def __deepcopy__(self, _: object) -> NativeStorage:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix(x.reshape(-1, x.shape[-1]), self.pool).to(x.dtype).view(*x.shape[:-1], self.matrix.outputs)

    def rows(self, ids: Tensor) -> Tensor:
        """The weights of some outputs, float32 [n, in]: a token table, where a head shares it."""
        return self.matrix.rows(ids)

    def dense(self) -> Tensor:
        """The weights as one float tensor [out, in]."""
        return self.rows(torch.arange(self.matrix.outputs))

    def content(self) -> bytes:
        """Digest of the weights, which no parameter holds."""
        hasher = hashlib.sha256()
        for ids in torch.arange(self.matrix.outputs).split(ROWS):
            hasher.update(self.rows(ids).numpy().tobytes())
        return hasher.digest()

    @property
    def size(self) -> int:
        """Bytes of the weights as they are kept."""
        return self.matrix.bytes

    def bytes(self) -> int:
        return self.matrix.bytes


def go_native(trunk: Network, pool: Pool) -> None:
    """Brings every linear of a trunk that the routines can multiply into their order; others are left as they are.

    The head comes first: it takes most memory while it is packed, and what that leaves free serves the others.
    """
    head = trunk.heads["lm"].linear if "lm" in trunk.heads else None  # type: ignore[union-attr]
    tied = head is not None and trunk.inputs.shares(head.storage)  # type: ignore[arg-type]
    linears = [module for module in trunk.modules() if isinstance(module, Linear)]
    for number, linear in enumerate(sorted(linears, key=lambda linear: linear is not head)):
        if (storage := native_twin(linear.storage, pool)) is not None:
            linear.storage = storage
        if linear is head and tied and isinstance(storage, NativeStorage):  # one copy of what the two share
            trunk.inputs.keep_in(storage)
        if number % TRIMMED == 0:
            trim()
    trim()


def pool_of(trunk: nn.Module) -> Pool | None:
    """The threads that multiply a trunk's weights, where they are in the routines' order already."""
    return next((module.pool for module in trunk.modules() if isinstance(module, NativeStorage)), None)


def native_twin(storage: nn.Module, pool: Pool) -> NativeStorage | None:
    """The same weights in the routines' order, or None where they have no way of keeping them."""
    bias: Tensor | None = getattr(storage, "bias", None)
    if isinstance(storage, DenseStorage) and storage.weight.dtype in (torch.float32, torch.bfloat16):
        return NativeStorage(matrix_float(pool.routines, storage.weight, bias), pool, bias)
    if isinstance(storage, Int8Storage):
        return NativeStorage(matrix_channel8(pool.routines, storage.weight, storage.scale, storage.digits, bias), pool, bias)
    if isinstance(storage, Int4Storage):
        return NativeStorage(matrix_blocks(pool.routines, storage.integers(), storage.scale, None, 4, 8, bias), pool, bias)
    if isinstance(storage, BlockStorage) and storage.inputs % BLOCK == 0:
        parts = storage.blocks()
        matrix = matrix_blocks(pool.routines, parts.integers, parts.scales, parts.minima, parts.bits, parts.zero, bias)
        return NativeStorage(matrix, pool, bias, storage.blocks_of)
    return None
