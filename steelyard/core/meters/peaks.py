"""What a device can do at most, measured now: how fast it reads its memory, and how many operations its matrix products do a second.

A decoding step must read its weights, a prompt's reading must do its products; what they take beside what these would take says how much
is left to gain (the roofline of Williams, Waterman & Patterson, CACM 2009, doi:10.1145/1498765.1498785). Data sheets promise more than a
machine gives, and a shared machine gives less from one minute to the next, so both are measured in the run that is compared with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

PASSES = 5


def read_bandwidth(device: torch.device | str = "cpu", size: int = 2**30) -> float:
    """Bytes a second at which memory is read: the best of a few sums over `size` bytes, more than any cache holds."""
    data = torch.ones(max(size // 4, 1), device=device)
    return data.nbytes / _least_seconds(data.sum, torch.device(device))


def product_rate(dtype: torch.dtype, device: torch.device | str = "cpu", size: int | None = None) -> float:
    """Operations a second (2 a multiply-add) of a product of two square matrices of a float type, the best of a few.

    Args:
        dtype: of the matrices.
        device: where.
        size: rows of a matrix; None = 2048 on a CPU, 8192 elsewhere, where smaller ones do not keep everything busy.
    """
    size = size or (2048 if torch.device(device).type == "cpu" else 8192)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _least_seconds(lambda: a @ b, torch.device(device))


def _least_seconds(work: Callable[[], Any], device: torch.device) -> float:
    """The shortest time of a few, the first of which does not count."""
    took = []
    for _ in range(PASSES + 1):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append(time.perf_counter() - begun)
    return min(took[1:])
