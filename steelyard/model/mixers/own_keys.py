"""Attention from the memory where each query sees few keys of its own: these are gathered, and nothing else is read.

Shapes: b rows, h heads, t time, s tokens in the memory, m keys of a query, d head width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from steelyard.model.mixers.apart import one_by_one
from steelyard.model.state import KeyValuePool
from steelyard.model.step import Step

TILE = 32
"""Queries whose keys are gathered at once."""

Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(queries [b, h, t, d], their places [b, t], keys and values of the memory [b, h, s, d]) -> [b, h, t, d]."""


def from_memory(q_bhtd: Tensor, step: Step, state: KeyValuePool, attend: Attend) -> Tensor:
    """What `attend` makes of a call's queries, a tile after the other: [b, h, t, d]."""
    mixed = torch.zeros_like(q_bhtd)
    starts = torch.tensor(step.starts, device=step.device)[:, None] + torch.arange(step.time, device=step.device)
    for rows, extent, time in one_by_one(step):
        pick = slice(None) if isinstance(rows, slice) else list(rows)
        for times, keys, values in state.views(step, rows, extent):
            times = range(time)[times]
            if times:
                own = slice(times.start, times.stop)
                tiles = zip(q_bhtd[pick][:, :, own].contiguous().split(TILE, 2), starts[pick][:, own].split(TILE, 1), strict=True)
                mixed[pick, :, own] = torch.cat([attend(q, places, keys, values) for q, places in tiles], 2).to(mixed.dtype)
    return mixed


def gathered(index_btm: Tensor, x_bhsd: Tensor, dtype: torch.dtype) -> Tensor:
    """Each query's own tokens [b, h, t, m, d]. Padding may stand beyond what the memory holds; its result is never read."""
    b, h, s, d = x_bhsd.shape
    index = index_btm.clamp(0, s - 1).flatten(1)[:, None, :, None].expand(b, h, -1, d)
    return x_bhsd.gather(2, index).unflatten(2, index_btm.shape[1:]).to(dtype)
