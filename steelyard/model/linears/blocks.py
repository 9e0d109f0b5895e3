"""Linears whose weights stay in GGUF's blocks: 4 to 8 bits a weight, multiplied with activations of 8 bits.

w = (q - zero) * scale + minimum for each 16 or 32 inputs (`files/gguf_blocks.py`);
x8 = round(x / s), s = max|x| / 127 for each 32 inputs of a token;   y = (x8 s) W^T + b.
What rounding activations costs is measured in docs/benchmarks.md. The fast twin is `native.py`; here weights are unpacked anew at
every product, which is slow and says the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steelyard.core.errors import ModelFileError, UnsupportedError
from steelyard.model.files.gguf_blocks import CHUNK, Blocks, StorageType, dequantize, routine_for
from steelyard.model.linears.linear import DenseStorage, Linear, Network
from steelyard.model.state import zeros

BLOCK = 32
"""Activations that share a scale."""
LARGEST = 127


class BlockStorage(nn.Module):
    """`data` uint8 [out, bytes of a row] in blocks of type `type`.

    `order` int64 [out]: the row of `data` that holds each output's weights, where that is another than its own: rows which a file keeps
    in an order of its own (rotated queries and keys) stay on its mapped pages, instead of a copy in the process's own memory.
    """

    kind = "blocks"
    data: Tensor

    def __init__(self, data: Tensor, type: StorageType, bias: Tensor | None = None, order: Tensor | None = None):
        super().__init__()
        if data.dim() != 2 or data.dtype != torch.uint8 or data.shape[1] % type.bytes:
            raise UnsupportedError(
                f"rows of {tuple(data.shape)} bytes of {data.dtype}", do=f"{type.name} has blocks of {type.bytes} bytes."
            )
        self.blocks_of = type
        self.register_buffer("data", data.contiguous(), persistent=order is None)
        self.order = order
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def learned(self) -> int:
        """Numbers that were learned and are kept here in few bits; a bias, a parameter of its own, not among them."""
        return len(self.data) * self.inputs

    @property
    def inputs(self) -> int:
        return self.data.shape[1] // self.blocks_of.bytes * self.blocks_of.elements

    def ordered(self, outputs: slice | Tensor = slice(None)) -> Tensor:
        """The rows of some outputs, uint8 [n, bytes of a row]; a view of `data` where it may be one."""
        return self.data[outputs if self.order is None else self.order.to(self.data.device)[outputs]]

    def blocks(self) -> Blocks:
        """The integers [out, in] and what they are scaled by [out, in / 16 or 32].

        Raises:
            ModelFileError: scales that are no numbers.
        """
        routine, rows = routine_for(self.blocks_of), max(1, CHUNK // self.inputs)
        # Mapped memory goes back to the system at once; the C library would keep it.
        integers = zeros((len(self.data), self.inputs), torch.uint8, self.data.device)
        scales: list[Tensor] = []
        minima: list[Tensor] = []
        for start in range(0, len(self.data), rows):
            some = self.ordered(slice(start, start + rows))
            parts = routine(some.view(-1, self.blocks_of.bytes))
            integers[start : start + len(some)] = parts.integers.view(len(some), -1)
            scales.append(parts.scales.reshape(len(some), -1))
            if parts.minima is not None:
                minima.append(parts.minima.reshape(len(some), -1))
        whole = Blocks(integers, torch.cat(scales), torch.cat(minima) if minima else None, parts.zero, parts.bits)
        if not all(bool(part.isfinite().all()) for part in (whole.scales, whole.minima) if part is not None):
            raise ModelFileError(f"scales of {self.blocks_of.name} blocks are NaN or infinite", do="Get the model again.")
        return whole

    def forward(self, x: Tensor) -> Tensor:
        y = eight_bits(x.reshape(-1, x.shape[-1])) @ self.dense().t()
        y = y if self.bias is None else y + self.bias.float()
        return y.to(x.dtype).view(*x.shape[:-1], len(self.data))

    def dense(self) -> Tensor:
        """Float32 [out, in]."""
        return dequantize(self.ordered().view(-1), self.blocks_of).view(len(self.data), -1)

    def rows(self, ids: Tensor) -> Tensor:
        """The weights of some outputs, float32 [n, in]."""
        return dequantize(self.ordered(ids).view(-1), self.blocks_of).view(len(ids), -1)

    def bytes(self) -> int:
        return self.data.numel() + (0 if self.bias is None else self.bias.numel() * self.bias.element_size())

    def extra_repr(self) -> str:
        return self.blocks_of.name


def eight_bits(x: Tensor) -> Tensor:
    """Float [n, d], d a multiple of 32, rounded to 8 bits for each 32 numbers: float32 [n, d]."""
    blocks = x.float().unflatten(1, (-1, BLOCK))
    most = blocks.abs().amax(-1, keepdim=True)
    inverse = torch.where(most > 0, LARGEST / most, 0.0)
    return (torch.round(blocks * inverse) * (most / LARGEST)).flatten(1)


def unpack_blocks(trunk: Network, dtype: torch.dtype) -> None:
    """Turns every linear kept in blocks into plain floats, and the token table."""
    table = trunk.inputs.kept
    if isinstance(table, BlockStorage):
        trunk.inputs.kept, trunk.inputs.weight = None, nn.Parameter(table.dense().to(dtype), requires_grad=False)
    for module in trunk.modules():
        if isinstance(module, Linear) and isinstance(module.storage, BlockStorage):
            tied = module.storage is table
            weight = trunk.inputs.weight if tied else module.storage.dense().to(dtype)
            module.storage = DenseStorage.of(weight, module.storage.bias)
            if tied:
                module.storage.weight = trunk.inputs.weight


def block_types(trunk: nn.Module) -> list[str]:
    """The types of blocks a trunk's linears are kept in, in the file's order or in the routines', sorted."""
    types = [getattr(module, "blocks_of", None) for module in trunk.modules()]
    return sorted({kind.name for kind in types if kind is not None})
