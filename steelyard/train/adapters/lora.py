"""Training a model through low-rank branches: which maps get one, how they begin, and how they come back to the model.

The base stays frozen and shared with whoever else holds it; only the branches take gradients (arXiv:2106.09685).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from steelyard.core.errors import RecipeError, nearest
from steelyard.core.seeds import derive
from steelyard.model.adapters import maps, put
from steelyard.model.linears.linear import Linear
from steelyard.model.linears.lora import LowRank, branches, view
from steelyard.model.model import Model
from steelyard.model.trunk import Trunk


@dataclass(frozen=True)
class LoraPlan:
    """Branches to put on: rank, alpha (the change is scaled by alpha / rank), dropout of their inputs, and where.

    `targets` is "all" (every linear map of every block) or last names of maps, ours (`query`) or public ones (`q_proj`).
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: Literal["all"] | Sequence[str] = "all"


def paths(model: Model, targets: Literal["all"] | Sequence[str]) -> list[str]:
    """The linears that targets mean, in the trunk's order.

    Raises:
        RecipeError: a name that means none.
    """
    names: dict[str, set[str]] = {}
    everything = [path for path, module in model.trunk.named_modules() if isinstance(module, Linear) and path.startswith("blocks.")]
    for path in everything:
        names.setdefault(path.rpartition(".")[2], set()).add(path)
    for public in maps(model.family, model.trunk):
        if ours := {path for path in public.ours if path.startswith("blocks.")}:
            names.setdefault(public.theirs.rpartition(".")[2], set()).update(ours)
    if targets == "all":
        return everything
    chosen: set[str] = set()
    for target in targets:
        if target not in names:
            raise RecipeError(f"no map of {model.name} is called `{target}`", where="targets", do=nearest(target, names))
        chosen |= names[target]
    return [path for path in everything if path in chosen]


def attach(model: Model, trunk: Trunk, plan: LoraPlan, seed: int) -> Trunk:
    """A view of `trunk` (the model's, perhaps in another float type) with fresh branches, the only part that takes gradients."""
    adapted = view(trunk)
    for path in paths(model, plan.targets):
        linear: Any = adapted.get_submodule(path)
        branch = LowRank(linear.inputs, linear.outputs, plan.rank, plan.alpha, plan.dropout)
        branch.draw(torch.Generator().manual_seed(derive(seed, "lora", path)))
        put(adapted, path, branch)
    return adapted


def transfer(trained: Trunk, trunk: Trunk) -> Trunk:
    """A view of `trunk` with the branches of another one (trained in another float type, say)."""
    out = view(trunk)
    for path, (_, branch) in branches(trained).items():
        put(out, path, branch.requires_grad_(False))
    return out
