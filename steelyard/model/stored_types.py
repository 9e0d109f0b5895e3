"""In which float type each tensor was stored, so that a model saved again is no larger than the one that was opened.

In memory weights are float32 unless told otherwise, and every bfloat16 or float16 number is a float32 number. A tensor that still
holds nothing but such numbers is written in the type it came in, bit for bit; one that was changed has others, and is written as it is.
So nobody need keep account of what a lever or a training changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from steelyard.model.families.family import Entry
from steelyard.model.files.source import TensorSource

NARROW = {"BF16": torch.bfloat16, "F16": torch.float16}
"""Types that are widened when they are read, as safetensors and GGUF spell them."""


def stored_types(source: TensorSource, entries: Sequence[Entry]) -> dict[str, torch.dtype]:
    """Our parameter's name -> the narrow type its numbers are stored in; nothing for any other type, or where a source does not say."""
    kind_of = getattr(source, "stored_type", None)
    if kind_of is None:
        return {}
    names = set(source.names())
    found = {entry: NARROW.get(str(kind_of(entry.theirs))) for entry in entries if entry.theirs in names and not entry.repeated}
    return {ours: kind for entry, kind in found.items() if kind is not None for ours in entry.ours}


def type_of(stored: Mapping[str, torch.dtype], ours: Sequence[str]) -> torch.dtype | None:
    """The one narrow type that all these parameters were stored in, or None."""
    kinds = {stored.get(name) for name in ours}
    return kinds.pop() if len(kinds) == 1 else None


def as_stored(tensor: Tensor, kind: torch.dtype | None) -> Tensor:
    """A float32 tensor in a narrower type if that loses not a bit, else as it is."""
    if kind is None or tensor.dtype != torch.float32:
        return tensor
    narrow = tensor.to(kind)
    same = torch.equal(narrow.to(torch.float32).view(torch.int32), tensor.contiguous().view(torch.int32))
    return narrow if same else tensor
