"""Activation checkpointing: a block keeps its input alone, and is computed again when its gradients are (arXiv:1604.06174).

Gradients are the same bits. Memory for activations falls to one input per block and the insides of one block; cost: one more forward
pass of every block, a third more operations. It acts from outside: blocks know nothing of it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from steelyard.model.depth.stacked import Block


@contextlib.contextmanager
def recomputed(module: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Within it, the blocks of a module keep no activations."""
    blocks = [block for block in module.modules() if isinstance(block, Block)] if wanted else []
    for block in blocks:
        block.forward = functools.partial(_recomputing, block.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own again


def _recomputing(forward: Any, x: torch.Tensor, step: Any, state: Any) -> torch.Tensor:
    if state is not None or not torch.is_grad_enabled():
        return forward(x, step, state)
    return checkpoint(forward, x, step, state, use_reentrant=False)  # type: ignore[return-value]
