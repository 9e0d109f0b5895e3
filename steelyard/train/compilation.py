"""torch.compile for training: blocks and the loss become fused loops, the same function up to rounding.

Each block is compiled by itself, and blocks of one plan share what was compiled, so that time does not grow with the depth. Of what
a block would keep for the way back, the part that costs least is computed again (`KEPT`). Cost: tens of seconds on a CPU, which needs a
C++ compiler; they are told apart from the seconds of training.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from steelyard.core.errors import UnsupportedError
from steelyard.model.depth.stacked import Block

COMPILERS = ("c++", "g++", "clang++")
BACKEND = "inductor"
KEPT = 0.9
"""Share of what the compiler would keep of a block for the way back. Short of all it computes again, first, what lies between products: on a
CPU a third less memory for 3% more time (docs/benchmarks.md); half of all would be a tenth less again, for 3% more."""


def check_compiler(device: torch.device) -> None:
    """Refuses to compile for a CPU where nothing here turns C++ into machine code."""
    if device.type == "cpu" and not any(shutil.which(name) for name in COMPILERS):
        raise UnsupportedError(
            "torch.compile needs a C++ compiler",
            do=f"Install one ({', '.join(COMPILERS)}), or leave `compile` out: the result is the same.",
        )


@contextlib.contextmanager
def compiled_blocks(module: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Within it, the blocks of a module run compiled."""
    blocks: list[Any] = [block for block in module.modules() if isinstance(block, Block)] if wanted else []
    rotaries = {rotary for block in blocks if (rotary := getattr(getattr(block.mixer, "plan", None), "rotary", None))}

    def turn_before(depth: nn.Module, arguments: tuple[Any, ...]) -> None:
        # Left to the blocks, each would compute cosines and sines anew for every head of every text.
        for rotary in rotaries:
            rotary.angles(arguments[1])

    parents: Any = [part for part in module.modules() if any(child in blocks for child in part.children())]
    hooks = [parent.register_forward_pre_hook(turn_before) for parent in parents]
    for block in blocks:
        block.compile(backend=BACKEND, dynamic=False)
    try:
        with _keeping_less() if blocks else contextlib.nullcontext():
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for block in blocks:
            block._compiled_call_impl = None


def _keeping_less() -> contextlib.AbstractContextManager[Any]:
    from torch._functorch import config  # where nothing is compiled, nothing of the compiler is loaded

    return config.patch(activation_memory_budget=KEPT)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function, compiled for each shape it meets."""
    return torch.compile(function, backend=BACKEND, dynamic=False)
