"""What a trunk costs, counted from its plan: operations of a text, and bytes remembered of it.

An operation is one multiplication or addition of a matrix product (2 a multiply-add); norms, nonlinearities and tables are left out, as
in the counts of scaling laws (arXiv:2001.08361, arXiv:2203.15556). Training costs three times the forward operations.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from steelyard.model.linears.linear import Linear
from steelyard.model.state import Dense
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


def training_flops(trunk: Trunk, time: int) -> int:
    """Operations of one text of `time` tokens in training, forward and backward."""
    return (1 + BACKWARD) * flops(trunk, time)


def state_bytes(trunk: Trunk, tokens: int) -> int:
    """Bytes remembered of one text of `tokens` tokens while it is generated, in float32."""
    return trunk.new_state(1, tokens, Dense()).bytes()
