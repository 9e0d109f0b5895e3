"""Float linears whose weights lie in the order the matrix library reads them: the same product, about twice as fast for few rows.

A plain [out, in] matrix is brought into oneDNN's blocked order at every product; here it is done once. Only for inference on a
CPU. The readable twin is `DenseStorage.forward`; benchmarks: docs/benchmarks.md, decoding.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from steelyard.model.linears.joined import join
from steelyard.model.linears.linear import DenseStorage, Linear

FEWEST = 64
"""Matrices narrower than this gain nothing."""


class PackedStorage(nn.Module):
    """Weights [out, in] of float32 or bfloat16, opaque to everything but the product. Never changed, so a copy of it is itself."""

    kind = "packed"

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.dtype, self.size = weight.dtype, weight.numel() * weight.element_size()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def __deepcopy__(self, _: object) -> PackedStorage:
        return self

    def forward(self, x: Tensor) -> Tensor:
        product = torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.packed, None, "none", [], "").to(x.dtype)
        return product if self.bias is None else product + self.bias.to(x.dtype)

    def dense(self) -> Tensor:
        """The weights as one float tensor [out, in]."""
        return self.packed.to_dense()

    def content(self) -> bytes:
        """Digest of the weights, which no parameter holds."""
        return hashlib.sha256(self.dense().contiguous().view(torch.uint8).numpy().tobytes()).digest()

    def bytes(self) -> int:
        return self.size + (0 if self.bias is None else self.bias.numel() * self.bias.element_size())


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this machine's matrix library multiplies packed weights of a type."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(trunk: nn.Module) -> None:
    """Makes a trunk's linears ready for inference: joins those of the same input, then packs every float matrix.

    Parts name what may be joined in `same_input`. A table shared with the input stays there as it is.
    """
    for part in trunk.modules():
        for group in getattr(part, "same_input", ()):
            join([getattr(part, name) for name in group], packed)
    for module in trunk.modules():
        if isinstance(module, Linear) and isinstance(module.storage, DenseStorage):
            module.storage = packed(module.storage)


def packed(storage: DenseStorage) -> nn.Module:
    """The packed twin of a dense storage, or the storage itself where this machine gains nothing by it."""
    weight = storage.weight
    worth = min(weight.shape) >= FEWEST and can_pack(weight.dtype, weight.device)
    return PackedStorage(weight, storage.bias) if worth else storage
