"""A trunk filled with the tensors of a file: built without memory, checked by shape, filled tensor by tensor."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from steelyard.core.errors import ModelFileError
from steelyard.model.families.family import Entry, Family
from steelyard.model.files.check import FiniteSource, check_tensors
from steelyard.model.files.source import TensorSource
from steelyard.model.linears.int8 import Int8Storage
from steelyard.model.linears.linear import Linear
from steelyard.model.trunk import Trunk, TrunkPlan

SHOWN = 8
"""Most problems listed in one error."""


class Renamed:
    """A source without what a family's checkpoints may or may not have: a prefix before every name, other
    names, tensors that are no weights."""

    def __init__(self, source: TensorSource, family: Family):
        self.source = source
        ignored = re.compile("|".join(f"(?:{pattern})" for pattern in family.ignored) or r"\Z.")
        self.full = {}
        for name in source.names():
            short = name
            for prefix in family.prefixes:
                short = short.removeprefix(prefix)
            if not ignored.fullmatch(short):
                self.full[family.aliases.get(short, short)] = name

    def names(self) -> list[str]:
        return list(self.full)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(self.full[name])

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        return self.source.read(self.full[name], dtype) if dtype else self.source.read(self.full[name])

    def close(self) -> None:
        self.source.close()


def build(plan: TrunkPlan, entries: list[Entry], source: TensorSource, where: str, dtype: torch.dtype, packed: str | None) -> Trunk:
    """A trunk with the source's weights: built without memory, checked by shape, filled tensor by tensor."""
    with torch.device("meta"):
        trunk = plan.build()
    names = set(source.names())
    expected = {}
    for entry in entries:
        if entry.optional and entry.theirs not in names:
            continue
        expected[entry.theirs] = their_shape(trunk, entry)
    scales = {f"{name}_scale" for name in expected if f"{name}_scale" in names} if packed else set()
    shapes = expected | {scale: (expected[scale.removesuffix("_scale")][0], 1) for scale in scales}
    if problems := check_tensors(source, shapes, where, finite=False):
        shown = "; ".join(problems[:SHOWN]) + (f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else "")
        raise ModelFileError(shown, where=where, do="Get the model again, or correct its config.")
    source = FiniteSource(source, where)
    for entry in entries:
        if entry.theirs not in expected:
            continue
        if f"{entry.theirs}_scale" in scales:
            weights, scale = source.read(entry.theirs), source.read(f"{entry.theirs}_scale").float()
            for ours, rows, row_scales in zip(entry.ours, entry.split(weights), replace_rows(entry, scale), strict=True):
                set_packed(trunk, ours, rows, row_scales)
            continue
        for ours, tensor in zip(entry.ours, entry.split(source.read(entry.theirs)), strict=True):
            set_parameter(trunk, ours, tensor.to(dtype if tensor.dim() >= 2 else torch.float32))
    tie(trunk)
    return trunk.requires_grad_(True)


def replace_rows(entry: Entry, scale: Tensor) -> list[Tensor]:
    """The per-row scales of each of ours: split as the weights are, never transposed."""
    return [scale] if entry.rows is None else [scale.index_select(0, index) for index in entry.rows()]


def their_shape(trunk: Trunk, entry: Entry) -> tuple[int, ...]:
    """The shape a tensor must have for the plan."""
    ours = [tuple(find_parameter(trunk, name)[0].get_parameter(find_parameter(trunk, name)[1]).shape) for name in entry.ours]
    shape = (sum(shape[0] for shape in ours), *ours[0][1:])
    return shape[::-1] if entry.transposed else shape


def find_parameter(trunk: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a parameter, and its name there. A linear's parameters are its storage's."""
    path, _, last = name.rpartition(".")
    module = trunk.get_submodule(path)
    return (module.storage, last) if isinstance(module, Linear) else (module, last)


def set_parameter(trunk: nn.Module, name: str, tensor: Tensor) -> None:
    module, last = find_parameter(trunk, name)
    setattr(module, last, nn.Parameter(tensor.contiguous()))


def set_packed(trunk: nn.Module, name: str, weight: Tensor, scale: Tensor) -> None:
    """Puts packed int8 rows into a linear."""
    linear = trunk.get_submodule(name.removesuffix(".weight"))
    assert isinstance(linear, Linear)
    bias: Tensor | None = linear.storage.bias  # type: ignore[assignment]
    linear.storage = Int8Storage(weight, scale, None if bias is None else torch.zeros_like(bias, device=weight.device))


def tie(trunk: Trunk) -> None:
    """One parameter under two names again, where the head shares the token table."""
    head = trunk.plan.heads.get("lm")
    if head is not None and head.tied:  # type: ignore[union-attr]
        trunk.heads["lm"].linear.storage.weight = trunk.inputs.weight  # type: ignore[union-attr]
