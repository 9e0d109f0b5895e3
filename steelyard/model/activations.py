"""The nonlinearities channels use, by the names configs give them.

On a CPU PyTorch computes whole vectors of numbers with one formula and the few that are left over with another, which differs in
the last bit; which ones are left over depends on how many rows there are and how threads share them. Deterministic calls
therefore hand over whole vectors only, in pieces too small to be shared out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),  # Primer, arXiv:2109.08668
}
VECTOR = 64
"""A multiple of every vector loop's width (two AVX-512 registers of bfloat16)."""
UNSHARED = 16384
"""PyTorch shares out elementwise work among threads from 32,768 numbers on."""


def activate(function: Callable[[Tensor], Tensor], x: Tensor, deterministic: bool) -> Tensor:
    """The nonlinearity of every number of a tensor; `deterministic`: the same bits whatever numbers stand beside it."""
    if not deterministic or x.device.type != "cpu":
        return function(x)
    flat = x.reshape(-1)
    flat = F.pad(flat, (0, -flat.numel() % VECTOR))
    pieces = [function(piece) for piece in flat.split(UNSHARED)]
    return (pieces[0] if len(pieces) == 1 else torch.cat(pieces))[: x.numel()].view(x.shape)
