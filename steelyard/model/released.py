"""Letting go of weights that something else has its own copy of: an engine packs a model's matrices, and needs them once."""

from __future__ import annotations

from torch import nn

from steelyard.model.linears.blocks import BlockStorage
from steelyard.model.linears.int4 import Int4Storage
from steelyard.model.linears.int8 import Int8Storage
from steelyard.model.linears.linear import DenseStorage, Linear
from steelyard.model.model import Model
from steelyard.model.trunk import Trunk


def release(model: Model, running: Trunk) -> None:
    """Empties the linears of a model that only answers through `running` from now on; its token table becomes that one's.

    Plan, numerics and fingerprint stay known; logits can no longer be computed from the model itself, nor can it be saved.

    Args:
        model: nobody else's.
        running: the trunk an engine made of it.
    """
    assert model.fingerprint  # it is told from the weights, once
    kept, table = model.trunk.inputs.kept, model.trunk.inputs.weight
    for module in model.trunk.modules():
        storage = module.storage if isinstance(module, Linear) else None
        if isinstance(storage, DenseStorage) and storage.weight is not table:
            storage.weight = nn.Parameter(storage.weight.to("meta"), requires_grad=False)
        if isinstance(storage, Int8Storage):
            storage.weight = storage.weight.to("meta")
        if isinstance(storage, Int4Storage):
            storage.packed = storage.packed.to("meta")
        if isinstance(storage, BlockStorage):
            storage.data = storage.data.to("meta")
    if isinstance(kept, BlockStorage) and kept is not running.inputs.kept:
        kept.data = kept.data.to("meta")
    head = model.trunk.heads["lm"].linear.storage if "lm" in model.trunk.heads else None  # type: ignore[union-attr]
    model.trunk.inputs.weight, model.trunk.inputs.kept = running.inputs.weight, running.inputs.kept
    if isinstance(head, DenseStorage) and head.weight is table:
        head.weight = running.inputs.weight
