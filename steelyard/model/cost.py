"""What a trunk costs, counted from its plan: operations of a text, bytes remembered of it, and bytes that a step of decoding reads.

An operation is one multiplication or addition of a matrix product (2 a multiply-add); norms, nonlinearities and tables are left out, as
in the counts of scaling laws (arXiv:2001.08361, arXiv:2203.15556). Training costs three times the forward operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from steelyard.model.linears.linear import Linear
from steelyard.model.state import Dense, KeyValuePool, State
from steelyard.model.trunk import Trunk

BACKWARD = 2
"""Operations of a backward pass for each of the forward pass: one product for the inputs' gradient, one for the weights'."""


def flops(module: nn.Module, time: int) -> int:
    """Forward operations over one text of `time` tokens.

    A module that runs its parts more or less than once a token (a shared block, experts) says so itself by `flops(time)`; one that mixes
    tokens says by `mixing_flops(time)` what that costs besides its maps.
    """
    own: Any = getattr(module, "flops", None)
    if callable(own):
        return int(own(time))  # type: ignore[arg-type]
    if isinstance(module, Linear):
        return 2 * module.inputs * module.outputs * time
    mixing: Any = getattr(module, "mixing_flops", None)
    inside = sum(flops(child, time) for child in module.children())
    return inside + (int(mixing(time)) if callable(mixing) else 0)  # type: ignore[arg-type]


def reading_flops(trunk: Trunk, time: int) -> int:
    """Operations of reading a prompt of `time` tokens up to the first token of an answer: the head looks at the last one alone."""
    return flops(trunk.blocks, time) + flops(trunk.heads["lm"], 1)


def training_flops(trunk: Trunk, time: int) -> int:
    """Operations of one text of `time` tokens in training, forward and backward."""
    return (1 + BACKWARD) * flops(trunk, time)


def state_bytes(trunk: Trunk, tokens: int) -> int:
    """Bytes remembered of one text of `tokens` tokens while it is generated, in float32."""
    return trunk.new_state(1, tokens, Dense()).bytes()


def step_bytes(trunk: Trunk, state: State, lengths: Sequence[int]) -> int:
    """Bytes that a decoding step of some texts must read: the weights of all maps once, as they are kept, and what is remembered of each.

    Vectors (norms, biases) and the rows of the token table are left out; of experts all are counted, of blocks that run several times one
    run.

    Args:
        trunk: as it runs, in an engine's numerics.
        state: its memory.
        lengths: tokens of each row's text.
    """
    parts = trunk.blocks.parts_with_memory()  # type: ignore[operator]
    weights = sum(module.storage.bytes() for module in trunk.modules() if isinstance(module, Linear))  # type: ignore[operator]
    remembered = 0.0
    for name in state:
        pool, a_slot = state[name], state[name].bytes() / state.slots
        window = getattr(getattr(parts[name], "plan", None), "window", None) or state.tokens
        grows = isinstance(pool, KeyValuePool)
        remembered += sum(a_slot * min(length, window) / state.tokens if grows else a_slot for length in lengths)
    return weights + round(remembered)
