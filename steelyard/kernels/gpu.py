"""The Triton routines for GPUs: whether this machine has what runs them. Triton comes with PyTorch's builds for CUDA (extra `gpu`)."""

from __future__ import annotations

import functools
import importlib.util
from types import ModuleType

import torch


@functools.cache
def scans() -> ModuleType | None:
    """`triton_scans`, or None where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    from steelyard.kernels import triton_scans  # needs Triton at its import

    return triton_scans


def runs_on(device: torch.device) -> bool:
    """Whether the routines compute tensors of a device."""
    return device.type == "cuda" and scans() is not None
