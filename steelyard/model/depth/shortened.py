"""A trunk without some of its blocks: the same weights, less depth.

Middle blocks of a trained stack are the least missed (ShortGPT, arXiv:2403.03853): what they add to the residual stream is small
beside what it already holds. The result is a trunk like any other, so every fast path knows it.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace

from steelyard.core.errors import UnsupportedError
from steelyard.model.depth.stacked import Stacked, StackedPlan
from steelyard.model.trunk import Trunk


def shortened(trunk: Trunk, missing: Collection[int]) -> Trunk:
    """The trunk without the blocks of these numbers. Weights are shared with the original, which stays as it is.

    Raises:
        UnsupportedError: no block would be left, or there is none of such a number.
    """
    if not isinstance(trunk.plan.depth, StackedPlan):
        raise UnsupportedError("blocks can be left out of a plain stack alone", where="shortened")
    count = len(trunk.plan.depth.blocks)
    if unknown := sorted(set(missing) - set(range(count))):
        raise UnsupportedError(f"there is no block {unknown[0]} among {count}", where="shortened")
    kept = [number for number in range(count) if number not in missing]
    if not kept:
        raise UnsupportedError("no block would be left", where="shortened")
    shared = {id(tensor): tensor for tensor in [*trunk.parameters(), *trunk.buffers()]}
    out = copy.deepcopy(trunk, shared)  # type: ignore[arg-type]
    plan = StackedPlan(tuple(trunk.plan.depth.blocks[number] for number in kept))
    blocks = Stacked(trunk.plan.width, StackedPlan(()))
    blocks.plan = plan
    for place, number in enumerate(kept):
        block = out.blocks[number]
        block.name = f"blocks.{place}"  # type: ignore[assignment]
        blocks.append(block)
    out.plan, out.blocks = replace(trunk.plan, depth=plan), blocks
    return out
