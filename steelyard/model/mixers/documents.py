"""Lines of several documents taken apart, for mixers that can only run a line from its beginning: a row for each document.

Documents are run together with others of about their length (the same power of two), so what is added as padding at most doubles
the work, and a line with one long document and many short ones does not become many long rows.

Shapes: b rows, t time, d width, n documents, l tokens of the longest of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from steelyard.model.recurrent_state import Memory
from steelyard.model.step import Step

Rows = Callable[[Tensor, tuple[int, ...], Memory], tuple[Tensor, Memory]]
"""(x [n, l, d], tokens of each row, memory before) -> (y [n, l, *], memory after each row's last token)."""


class Document(NamedTuple):
    """Tokens start..stop of a row; `first` and `last` say whether it is the row's first and last one."""

    row: int
    start: int
    stop: int
    first: bool
    last: bool


def each_document(x_btd: Tensor, step: Step, memory: Memory, run: Rows) -> tuple[Tensor, Memory]:
    """Runs every document of every line: the first goes on from the line's memory, the others begin with an empty one.

    Args:
        x_btd: of the call.
        step: says where documents begin and what is padding.
        memory: of each line before the call.
        run: runs rows from their beginning; padding is at their end. It is never given a row without tokens.

    Returns:
        y [b, t, *], 0 at padding, and the memory after each line's last token.
    """
    real = step.real
    if step.begins is None and real is None:
        return run(x_btd, (x_btd.shape[1],) * x_btd.shape[0], memory)
    documents = step.cached("documents", lambda: _documents(step))
    if not documents:
        y, _ = run(x_btd[:, :1], (1,) * x_btd.shape[0], memory)
        return torch.zeros_like(y).repeat_interleave(x_btd.shape[1], 1), memory
    alike: dict[int, list[Document]] = {}
    for document in documents:
        alike.setdefault((document.stop - document.start - 1).bit_length(), []).append(document)
    y_btd: Tensor | None = None
    after = {name: value.clone() for name, value in memory.items()}
    for group in alike.values():
        lengths = tuple(document.stop - document.start for document in group)
        rows = torch.tensor([document.row for document in group], device=x_btd.device)
        starts = torch.tensor([document.start for document in group], device=x_btd.device)
        offsets = torch.arange(max(lengths), device=x_btd.device)
        there = offsets < torch.tensor(lengths, device=x_btd.device)[:, None]  # [n, l]
        places = (starts[:, None] + offsets).clamp(max=x_btd.shape[1] - 1)
        going_on = torch.tensor([document.first for document in group], device=x_btd.device)
        before = {name: value[rows] * _beside(going_on, value) for name, value in memory.items()}
        y, ended = run(x_btd[rows[:, None], places] * there[:, :, None].to(x_btd.dtype), lengths, before)
        if y_btd is None:
            y_btd = y.new_zeros(*x_btd.shape[:2], *y.shape[2:])
        y_btd = y_btd.index_put((rows[:, None].expand_as(places)[there], places[there]), y[there])
        last = torch.tensor([document.last for document in group], device=x_btd.device)
        after = {name: value.index_put((rows[last],), ended[name][last].to(value.dtype)) for name, value in after.items()}
    assert y_btd is not None
    return y_btd, after


def _beside(flags_n: Tensor, value: Tensor) -> Tensor:
    return flags_n.view(-1, *[1] * (value.dim() - 1)).to(value.dtype)


def _documents(step: Step) -> list[Document]:
    """Every document of the call; padding belongs to none."""
    lengths = list(step.lengths) if step.real is None else step.real.sum(1).tolist()
    begins: list[list[int]] = [[] for _ in lengths]
    if step.begins is not None:
        for row, time in step.begins.nonzero().tolist():
            begins[row].append(time)
    out = []
    for row, length in enumerate(lengths):
        cuts = [0, *(time for time in begins[row] if time < length), length]
        out += [Document(row, a, b, a == 0, b == length) for a, b in zip(cuts, cuts[1:], strict=False) if b > a]
    return out
