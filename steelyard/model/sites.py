"""Sites: the places inside a trunk where something can be read, added, skipped or stopped, driven by data.

A site is named by its block and part: `blocks.3.input`, `blocks.3.mixer`, `blocks.3.channel` (the outputs before they join
the residual stream) and `final_norm`. A program is data, so a fast kernel can say whether it supports it; arbitrary Python
at a site runs on the reference path only.

What a program does may differ by row: a fast kernel then takes the rows on which nothing is done, and the trunk the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from steelyard.core.fingerprint import digest


@dataclass(frozen=True)
class Add:
    """Adds `vectors[index[row]]` ([n, width]) to a site's output on each row; index -1 leaves the row alone."""

    vectors: Tensor
    index: Sequence[int] | None = None

    def vector(self, row: int) -> Tensor | None:
        """What is added on a row, [width], or None for nothing."""
        choice = 0 if self.index is None else self.index[row]
        return self.vectors[choice] if choice >= 0 else None

    def of_rows(self, rows: Sequence[int]) -> Add:
        """The same of some rows alone."""
        return self if self.index is None else Add(self.vectors, [self.index[row] for row in rows])

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

    def reaches(self, row: int) -> bool:
        """Whether it does anything on a row but leave out blocks that are left out on every row."""
        added = any(one.vector(row) is not None for one in self.add.values())
        return bool(self.read) or added or any(rows is not None and row in rows for rows in self.skip.values())

    def of_rows(self, rows: Sequence[int]) -> SiteProgram | None:
        """What it does in a call of some of its rows alone, or None for nothing."""
        add = {site: one.of_rows(rows) for site, one in self.add.items() if any(one.vector(row) is not None for row in rows)}
        skip: dict[int, tuple[int, ...] | None] = {}
        for block, which in self.skip.items():
            places = None if which is None else tuple(place for place, row in enumerate(rows) if row in which)
            if places != ():
                skip[block] = places
        idle = not (self.read or add or skip) and self.stop is None
        return None if idle else replace(self, add=add, skip=skip, readings={})

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


def with_own(program: SiteProgram | None, own: Sequence[SiteProgram | None], blocks: int) -> SiteProgram | None:
    """What is done in one call whose rows have programs of their own, beside what is done on all of them.

    Args:
        program: for all rows, or None.
        own: for each row what is done on it as if it were the only row, or None; it reads nothing.
        blocks: how many the trunk has.

    A block that a row's own program leaves out still writes its state there, which only that row could read and never does.
    """
    whole = program or SiteProgram()
    if all(one is None for one in own):
        return program and replace(whole, readings={})
    add = dict(whole.add)
    for site in sorted({site for one in own if one is not None for site in one.add}):
        vectors: list[Tensor] = []
        index: list[int] = []
        for row, one in enumerate(own):
            earlier = whole.add[site].vector(row) if site in whole.add else None
            fresh = one.add[site].vector(0) if one is not None and site in one.add else None
            parts = [part for part in (earlier, fresh) if part is not None]
            index.append(len(vectors) if parts else -1)
            vectors += [torch.stack(parts).sum(0)] if parts else []
        if vectors:
            add[site] = Add(torch.stack(vectors), index)
    skip = dict(whole.skip)
    for block in range(blocks):
        rows = tuple(row for row, one in enumerate(own) if one is not None and _leaves_out(one, block))
        if rows and (earlier := skip.get(block, ())) is not None:
            skip[block] = tuple(sorted({*earlier, *rows}))
    return replace(whole, add=add, skip=skip, readings={})


def _leaves_out(own: SiteProgram, block: int) -> bool:
    """Whether a program of one row leaves a block out on it."""
    return not own.computes(block) or 0 in (own.skip.get(block) or ())
