"""Linears of the same input, multiplied at once: queries, keys and values; gates and ups.

[y_1 .. y_n] = x [W_1; ..; W_n]^T, the rows of the weights one below the other. Each output is the one it was before; the input is
read, rounded or quantized once, and a decoding step has two thirds of the products. Only for inference; where weights are trained under
autocast they stay apart, and the input is rounded, and kept for the backward pass, once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelyard.model.linears.float8 import Float8Storage
from steelyard.model.linears.int4 import Int4Storage
from steelyard.model.linears.int8 import Int8Storage
from steelyard.model.linears.linear import DenseStorage, Linear
from steelyard.model.step import Step


class JoinedPart(nn.Module):
    """What one linear has of a joined storage: its rows from `start` on. `sizes` are the outputs of all parts."""

    def __init__(self, whole: nn.Module, sizes: Sequence[int], index: int):
        super().__init__()
        self.whole, self.sizes = whole, list(sizes)
        self.start, self.stop = sum(sizes[:index]), sum(sizes[: index + 1])

    @property
    def kind(self) -> str:
        return f"{self.whole.kind}, joined in {sum(self.sizes)}"

    @property
    def bias(self) -> Tensor | None:
        bias = self.whole.bias
        return None if bias is None else bias[self.start : self.stop]  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        return self.whole(x)[..., self.start : self.stop]

    def dense(self) -> Tensor:
        """The weights as one float tensor [out, in]."""
        return self.whole.dense()[self.start : self.stop]  # type: ignore[operator]

    def bytes(self) -> int:
        """This part's share of the joined bytes."""
        return self.whole.bytes() * (self.stop - self.start) // sum(self.sizes)  # type: ignore[operator]


def together(x: Tensor, step: Step | None, linears: Sequence[Linear]) -> list[Tensor]:
    """What each linear makes of x: by one product where they have been joined, else one by one."""
    whole = getattr(linears[0].storage, "whole", None)
    if whole is None or any(getattr(linear.storage, "whole", None) is not whole for linear in linears):
        if _rounded_by_autocast(x) and all(type(linear.storage) is DenseStorage for linear in linears):
            rounded = x.to(torch.get_autocast_dtype(x.device.type))
            return [linear.branched(F.linear(rounded, linear.weight, linear.bias), x, step) for linear in linears]
        return [linear(x, step) for linear in linears]
    products = whole(x).split(linears[0].storage.sizes, -1)
    return [linear.branched(y, x, step) for linear, y in zip(linears, products, strict=True)]


def _rounded_by_autocast(x: Tensor) -> bool:
    """Whether each linear would round x by itself, and keep it so for the backward pass; compiled code does it once anyway."""
    asked = torch.is_grad_enabled() and not torch.compiler.is_compiling() and torch.is_autocast_enabled(x.device.type)
    return asked and x.dtype == torch.float32


def join(linears: Sequence[Linear], prepared: Callable[[DenseStorage], nn.Module]) -> None:
    """Gives the linears one storage between them; a dense one as `prepared` makes it. Those of unlike kinds are left alone."""
    storages = [linear.storage for linear in linears]
    biases = [linear.bias for linear in linears]
    if len({(type(storage), storage.extra_repr()) for storage in storages}) > 1 or len({bias is None for bias in biases}) > 1:
        return
    bias = torch.cat([bias.detach() for bias in biases if bias is not None]) if biases[0] is not None else None
    whole: nn.Module
    if isinstance(storages[0], Int8Storage):
        whole = Int8Storage(torch.cat([s.weight for s in storages]), torch.cat([s.scale for s in storages]), bias, storages[0].digits)  # type: ignore[misc]
    elif isinstance(storages[0], Float8Storage):
        weight = torch.cat([s.weight.view(torch.uint8) for s in storages]).view(storages[0].weight.dtype)  # type: ignore[misc,operator]
        whole = Float8Storage(weight, torch.cat([s.scale for s in storages]), bias, storages[0].rounds)  # type: ignore[misc]
    elif isinstance(storages[0], Int4Storage):
        whole = Int4Storage(torch.cat([s.packed for s in storages]), torch.cat([s.scale for s in storages]), bias)  # type: ignore[misc]
    elif isinstance(storages[0], DenseStorage):
        whole = prepared(DenseStorage.of(torch.cat([linear.weight.detach() for linear in linears]), bias))
    else:
        return
    for index, linear in enumerate(linears):
        linear.storage = JoinedPart(whole, [linear.outputs for linear in linears], index)
