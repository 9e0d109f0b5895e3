"""Where named tensors come from, whatever the format: the seam between files and model families.

A family asks a source for tensors by name and never learns which format they were in. Everything a source says about
itself (names, shapes, types) has been checked against the bytes that are really there before the first tensor is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Protocol, runtime_checkable

import torch

MOST_DIMENSIONS = 32  # torch's own kernels stop at 64
MOST_ELEMENTS = 2**48  # far beyond any model; keeps products of declared sizes inside 64 bits


@runtime_checkable
class TensorSource(Protocol):
    """Named tensors that can be read one at a time."""

    def names(self) -> list[str]:
        """Every tensor's name, in the order of the file."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape in PyTorch's order (slowest dimension first), without reading the tensor.

        Raises:
            ModelFileError: when there is no tensor of this name.
        """
        ...

    def read(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The tensor in memory of its own (a private map of the file, where it is large), contiguous, on the CPU.

        Args:
            name: one of `names()`.
            dtype: floating type to convert to while reading; None keeps the stored one. Quantized blocks come as
                float32 unless told otherwise. Integer and boolean tensors keep their type whatever is asked.

        Raises:
            ModelFileError: when there is no tensor of this name, or the file has shrunk since it was opened.
            UnsupportedError: when its storage type is not read here.
        """
        ...

    def close(self) -> None:
        """Lets go of the files; tensors already read stay valid."""
        ...


def quoted(name: object) -> str:
    """A name from an untrusted file, fit for one line of an error message: control characters escaped, never long."""
    text = name if isinstance(name, str) else repr(name)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text[:200])
    return f"`{text[:77]}...`" if len(text) > 80 else f"`{text}`"


def shape_problem(shape: Sequence[int]) -> str | None:
    """Why a declared shape cannot be a tensor's, or None. The product itself is checked, so it is safe to compute after."""
    if len(shape) > MOST_DIMENSIONS:
        return f"{len(shape)} dimensions (at most {MOST_DIMENSIONS} are read)"
    if any(type(size) is not int or size < 0 for size in shape):
        return "a size that is not a natural number"
    # Zeros are left out of the product: a tensor without elements must still have strides that fit.
    if prod(max(size, 1) for size in shape) > MOST_ELEMENTS:
        return f"more elements than any model has ({'x'.join(str(size)[:24] for size in shape)})"
    return None


def converted(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """The tensor in another floating type; integers and booleans stay what they are."""
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
