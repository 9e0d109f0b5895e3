"""Entries from a table of names: every parameter our trunk really has, under their name for it.

A table's keys are our modules (`mixer.query`, inside a block) or single parameters (`inputs.positions`); its values are theirs.
Fused tensors and permuted rows are named beside the table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steelyard.model.families.family import Entry
from steelyard.model.norms import RMSNorm
from steelyard.model.trunk import TrunkPlan

Rows = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Fused:
    """One of their modules that holds the rows of several of ours. `rows(block_plan)` gives their order."""

    theirs: str
    ours: tuple[str, ...]
    rows: Callable[[Any], Rows]


def renamed(
    plan: TrunkPlan,
    names: Mapping[str, str],
    block: str,
    *,
    fused: Sequence[Fused] = (),
    permuted: Mapping[str, Callable[[Any], Rows]] | None = None,
    transposed: Collection[str] = (),
    whole_norms: bool = False,
) -> list[Entry]:
    """The entries of a trunk.

    Args:
        plan: what the trunk is built from.
        names: our module or parameter -> theirs; inside blocks without the block's prefix.
        block: their prefix of a block, with `{}` for its index.
        fused: modules that hold several of ours.
        permuted: our module -> order of their rows, from the block's plan.
        transposed: our modules (or their fused ones) whose matrices are kept [in, out].
        whole_norms: norms are kept with the offset our plan adds when it uses them.
    """
    with torch.device("meta"):
        trunk = plan.build()
    tied = getattr(plan.heads.get("lm"), "tied", False)
    ours = [name.replace(".storage.", ".") for name, _ in trunk.named_parameters(remove_duplicate=False)]
    present, out = set(ours), []
    for name in ours:
        if name == "heads.lm.linear.weight" and tied:
            out.append(Entry(f"{names['heads.lm.linear']}.weight", ("inputs.weight",), repeated=True))
            continue
        prefix, inner, index = _inside(name)
        module, _, kind = inner.rpartition(".")
        member = next((group for group in fused if module in group.ours), None)
        their_prefix = block.format(index) if index is not None else ""
        if member is not None:
            if module == member.ours[0]:
                parts = tuple(f"{prefix}{part}.{kind}" for part in member.ours)
                assert all(part in present for part in parts), parts
                rows = member.rows(plan.depth.blocks[index])  # type: ignore[index]
                out.append(Entry(f"{their_prefix}{member.theirs}.{kind}", parts, rows, transposed=member.theirs in transposed))
            continue
        theirs = names[inner] if inner in names else f"{names[module]}.{kind}"
        order = (permuted or {}).get(module)
        rows = order(plan.depth.blocks[index]) if order else None  # type: ignore[index]
        holder = trunk.get_submodule(prefix + module)
        shift = holder.plan.offset if whole_norms and isinstance(holder, RMSNorm) else 0.0
        out.append(Entry(their_prefix + theirs, (name,), rows, transposed=module in transposed, shift=shift))
    return out


def _inside(name: str) -> tuple[str, str, int | None]:
    """`blocks.3.mixer.query.weight` -> (`blocks.3.`, `mixer.query.weight`, 3); other names stay whole."""
    if not name.startswith("blocks."):
        return "", name, None
    _, index, inner = name.split(".", 2)
    return f"blocks.{index}.", inner, int(index)


def stacked_rows(*sizes: int) -> Rows:
    """Rows of several maps, one map after the other."""
    return lambda: list(torch.arange(sum(sizes)).split(list(sizes)))


def halves_from_pairs(heads: int, head_width: int) -> Rows:
    """The order that turns neighbouring rotary pairs (0,1),(2,3),... into halves (0,2,...),(1,3,...) within each head."""

    def rows() -> list[Tensor]:
        within = torch.arange(head_width).view(-1, 2).t().reshape(-1)
        return [(torch.arange(heads)[:, None] * head_width + within).reshape(-1)]

    return rows
