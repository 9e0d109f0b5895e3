"""Who cannot do a task at all looks fair and safe: where that is so, the cell is at floor and says why.

A metric may name another of its task as its gate. A side (base or arm) is mute where its gate is not shown to be above its floor and the
metric itself is not shown to differ from the value that knowing nothing gives. One mute side is enough: a model whose weights were ruined
is not called fairer than it was before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from steelyard.weigh.cells.drafts import Draft
from steelyard.weigh.cells.verdicts import at_floor
from steelyard.weigh.statistics.paired import FEW, Estimate
from steelyard.weigh.tasks.task import Metric


def gated(drafts: Sequence[Draft]) -> list[Draft]:
    """The same drafts, those behind a closed gate at floor.

    Args:
        drafts: of one arm on one task, one per metric.
    """
    by = {draft.metric.name: draft for draft in drafts}
    return [_gated(draft, by[draft.metric.gate]) if draft.metric.gate else draft for draft in drafts]


def _gated(draft: Draft, gate: Draft) -> Draft:
    if draft.comparison is None:
        return draft
    theirs = (gate.comparison.base, gate.comparison.value) if gate.comparison else (None, None)
    own = (draft.comparison.base, draft.comparison.value)
    mute = [
        side
        for side, mine, other in zip(("the base", "the arm"), own, theirs, strict=True)
        if is_mute(draft.metric, mine, gate.metric, other)
    ]
    return dataclasses.replace(draft, floored=True, notes=(*draft.notes, why(" and ".join(mute), gate.metric))) if mute else draft


def is_mute(metric: Metric, own: Estimate, gate: Metric, other: Estimate | None) -> bool:
    """Whether nothing can be read from a side's value."""
    if other is not None and not at_floor(gate, other.interval):
        return False
    low, high = own.interval or (own.value, own.value)
    handful = low == high and own.n < FEW  # that few samples which are all alike show nothing
    return metric.neutral is None or handful or low <= metric.neutral <= high


def why(side: str, gate: Metric) -> str:
    """The note of such a cell."""
    return f"{side}: `{gate.name}` is not shown to be above {gate.floor:.3g}, and who cannot do the task shows no difference either"
