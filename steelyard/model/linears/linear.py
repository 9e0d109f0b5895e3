"""A linear map: one storage (how the weights are kept and multiplied) plus branches added to its output.

y = storage(x) + sum of branch(x). Every architecture's maps are of this class, so a lever that changes a storage
(quantize) or adds a branch (LoRA) reaches every architecture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelyard.model.step import Step


class Network(Protocol):
    """A trunk (`trunk.py`), as those see it who change how its linears and its token table are kept."""

    inputs: Any
    heads: Any

    def modules(self) -> Iterator[nn.Module]: ...


class Branch(Protocol):
    """Something added to a linear's output; it may choose by row (`step.adapters`), and then says so by a true attribute `by_row`:
    rows of adapter -1, and all rows where there are no adapters, are left as they are."""

    def __call__(self, x: Tensor, step: Step | None) -> Tensor: ...


class DenseStorage(nn.Module):
    """Weights [out, in] as floats. Where they are narrower than the stream, x is rounded to their type and the product
    comes back in the stream's type (accumulation is in float32)."""

    kind = "dense"

    def __init__(self, inputs: int, outputs: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, std=0.02)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> DenseStorage:
        """A storage for inference that holds these very tensors."""
        with torch.device("meta"):
            storage = cls(weight.shape[1], weight.shape[0], bias=False)
        storage.weight = nn.Parameter(weight, requires_grad=False)
        storage.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        return storage

    def forward(self, x: Tensor) -> Tensor:
        # As a matrix, because PyTorch multiplies some strides of [b, 1, in] row by row: slower, and other bits.
        weight, rows = self.weight, x.reshape(-1, x.shape[-1])
        if x.dtype == weight.dtype:
            product = F.linear(rows, weight, self.bias)
        else:
            product = F.linear(rows.to(weight.dtype), weight).to(x.dtype)
            product = product if self.bias is None else product + self.bias.to(x.dtype)
        return product.view(*x.shape[:-1], len(weight))

    def dense(self) -> Tensor:
        """The weights as one float tensor [out, in]."""
        return self.weight

    def bytes(self) -> int:
        return sum(parameter.numel() * parameter.element_size() for parameter in self.parameters())


class Linear(nn.Module):
    """x [..., in] -> [..., out]."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False):
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.storage: nn.Module = DenseStorage(inputs, outputs, bias)
        self.branches = nn.ModuleDict()

    def forward(self, x: Tensor, step: Step | None = None) -> Tensor:
        return self.branched(self.storage(x), x, step)

    def branched(self, y: Tensor, x: Tensor, step: Step | None) -> Tensor:
        """The storage's product with what the branches add to it."""
        for branch in self.branches.values():
            y = y + branch(x, step)
        return y

    @property
    def weight(self) -> Tensor:
        """The weights as one float tensor [out, in] (a copy where the storage is packed)."""
        return self.storage.dense()  # type: ignore[operator]

    @property
    def bias(self) -> Tensor | None:
        return self.storage.bias  # type: ignore[return-value]

    def extra_repr(self) -> str:
        return f"{self.inputs} -> {self.outputs}, {self.storage.kind}"
