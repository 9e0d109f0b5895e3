"""Sites: the places inside a trunk where something can be read, added, skipped or stopped, driven by data.

A site is named by its block and part: `blocks.3.input`, `blocks.3.mixer`, `blocks.3.channel` (the outputs before they join
the residual stream) and `final_norm`. A program is data, so a fast kernel can say whether it supports it; arbitrary Python
at a site runs on the reference path only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steelyard.core.fingerprint import digest


@dataclass(frozen=True)
class Add:
    """Adds `vectors[index[row]]` ([n, width]) to a site's output on each row; index -1 leaves the row alone."""

    vectors: Tensor
    index: Sequence[int] | None = None

    def apply(self, x_btd: Tensor) -> Tensor:
        vectors = self.vectors.to(x_btd)
        if self.index is None:
            return x_btd + vectors[0]
        chosen = torch.tensor(self.index, device=x_btd.device)
        picked = vectors[chosen.clamp(min=0)] * (chosen >= 0).to(x_btd)[:, None]
        return x_btd + picked[:, None, :]


@dataclass(frozen=True)
class SiteProgram:
    """What to do at which site in one call.

    Attributes:
        read: sites whose values are kept in `readings` as [b, t, width].
        add: vectors to add, by site.
        skip: blocks that leave the residual stream alone, with the rows they are skipped on. Their state is still
            written, so that later tokens may use them. None = all rows: the block is not computed at all, so it
            does not see the call's tokens; a slot's length in it does not grow.
        stop: the block after which the trunk goes straight to the final norm, or None. Blocks above do not see
            the call's tokens; a slot's length in them does not grow.
    """

    read: frozenset[str] = frozenset()
    add: Mapping[str, Add] = field(default_factory=dict)
    skip: Mapping[int, tuple[int, ...] | None] = field(default_factory=dict)
    stop: int | None = None
    readings: dict[str, Tensor] = field(default_factory=dict, compare=False)

    @property
    def fingerprint(self) -> str:
        """Digest of all that the program changes."""
        added = {site: [digest(add.vectors.tolist()), add.index and list(add.index)] for site, add in self.add.items()}
        return digest([sorted(self.read), added, {str(block): rows for block, rows in self.skip.items()}, self.stop])

    def computes(self, block: int) -> bool:
        """Whether a block is computed for any row."""
        return (self.stop is None or block <= self.stop) and self.skip.get(block, ()) is not None

    @property
    def only_leaves_out(self) -> bool:
        """Whether all it does is leave blocks out on every row."""
        return not (self.read or self.add) and all(rows is None for rows in self.skip.values())

    def at(self, site: str, x_btd: Tensor) -> Tensor:
        """Applies what is to be done at a site to its value."""
        if site in self.add:
            x_btd = self.add[site].apply(x_btd)
        if site in self.read:
            self.readings[site] = x_btd
        return x_btd

    def after_block(self, block: int, before_btd: Tensor, after_btd: Tensor) -> Tensor:
        """The residual stream after a block that some rows may skip."""
        if block not in self.skip:
            return after_btd
        skipped = torch.zeros(before_btd.shape[0], dtype=torch.bool, device=before_btd.device)
        skipped[list(self.skip[block] or ())] = True
        return torch.where(skipped[:, None, None], before_btd, after_btd)
