"""Letting go of weights that something else has its own copy of: an engine packs a model's matrices, and needs them once."""

from __future__ import annotations

import torch
from torch import nn

from steelyard.model.linears.linear import DenseStorage, Linear
from steelyard.model.model import Model
from steelyard.model.trunk import Trunk


def release(model: Model, running: Trunk) -> None:
    """Empties the linears of a model that only answers through `running` from now on; its token table becomes that one's.

    Sizes, plan, numerics and fingerprint stay known; logits can no longer be computed from the model itself, nor can it be saved.

    Args:
        model: nobody else's.
        running: the trunk an engine made of it.
    """
    assert model.fingerprint  # it is told from the weights, once
    table = model.trunk.inputs.weight
    for module in model.trunk.modules():
        if isinstance(module, Linear) and isinstance(module.storage, DenseStorage) and module.storage.weight is not table:
            module.storage.weight = nn.Parameter(torch.empty_like(module.storage.weight, device="meta"), requires_grad=False)
    model.trunk.inputs.weight = running.inputs.weight
    head = model.trunk.heads["lm"].linear.storage if "lm" in model.trunk.heads else None  # type: ignore[union-attr]
    if isinstance(head, DenseStorage) and head.weight is table:
        head.weight = running.inputs.weight
