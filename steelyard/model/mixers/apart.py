"""Rows of a deterministic call taken one by one, for mixing that works on matrices.

What libraries make of a product, a transform or a vector loop depends in its last bit on how many rows stand together and on how long
they were filled up, so on the company. A row that is computed by itself, as long as its own tokens and in memory of its own, meets the same
operations on the same shapes whoever else asks. Maps of whole calls stay together (`generate/invariance.py` sees to those); what is
apart is what mixes tokens. Cost: as many calls of small operations as there are rows, in deterministic calls only.

Shapes: b rows, t time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from steelyard.model.recurrent_state import SNAPSHOT, Memory
from steelyard.model.state import KeyValuePool
from steelyard.model.step import Step

Mixing = Callable[[Step, Sequence[Tensor], Memory], tuple[Tensor, Memory]]
"""(step, tensors [b, t, *], memory before) -> (y [b, t, *], memory after each row's last token)."""


class PiecewisePool(KeyValuePool):
    """Keys and values of mixers that compute the tokens of a call together: how a text was cut shows in their last bits, so exact engines go on
    from it only where prompts are cut anyway."""

    grid = SNAPSHOT


def apart(step: Step, tensors_bt: Sequence[Tensor], memory: Memory, mix: Mixing) -> tuple[Tensor, Memory]:
    """What `mix` makes of a call: of all rows at once, or in deterministic calls of each by itself.

    Args:
        step: the call.
        tensors_bt: what is mixed, each [b, t, *].
        memory: of each row before the call.
        mix: gets all of these, of one row or of all.

    Returns:
        y [b, t, *], 0 at what deterministic calls have as padding, and the memory after each row's last token.
    """
    if not step.deterministic or not any(step.lengths):
        return mix(step, tensors_bt, memory)
    y_bt, after = None, {name: value.clone() for name, value in memory.items()}
    for row, length in enumerate(step.lengths):
        if length:
            own = [_own(x[row : row + 1, :length]) for x in tensors_bt]
            y, ended = mix(step.of_rows((row,)), own, {name: _own(value[row : row + 1]) for name, value in memory.items()})
            y_bt = y.new_zeros(step.rows, step.time, *y.shape[2:]) if y_bt is None else y_bt
            y_bt[row, :length] = y[0]
            for name, value in ended.items():
                after[name][row] = value[0]
    assert y_bt is not None
    return y_bt, after


def one_by_one(step: Step) -> Iterator[tuple[slice | tuple[int, ...], int, int]]:
    """Rows whose memory is read together, how many of its tokens are, and how many tokens of the call the rows have: `step.extents`,
    in deterministic calls row by row. Rows without tokens count as having one, whose result is never read."""
    for rows, extent in step.extents:
        if not step.deterministic:
            yield rows, extent, step.time
            continue
        for row in range(step.rows)[rows] if isinstance(rows, slice) else rows:
            yield (row,), extent, max(step.lengths[row], 1)


def _own(x: Tensor) -> Tensor:
    """A copy whose strides and place in memory say nothing of what it was cut from."""
    return x.clone(memory_format=torch.contiguous_format)
