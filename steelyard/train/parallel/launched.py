"""Who trains: what torchrun has launched, or this process alone."""

from __future__ import annotations

import os

import torch

from steelyard.train.parallel.company import Alone, Company


def company(device: torch.device) -> Company:
    """The processes that torchrun has started, or this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Alone()
    from steelyard.train.parallel.processes import joined  # takes a second to import

    return joined(device)
