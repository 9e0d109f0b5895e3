"""What all recurrent mixers share: memory of a fixed size, read before a call and kept after it, and two ways of looking back.

A recurrence says the shapes of its memory and how a stretch of tokens is run from one memory to the next; whole texts, chunks, steps,
rewinding and snapshots follow from that (`recurrent_state.py`). Three rules hold for `run`:
padding (`step.real`) and rows without tokens leave the memory as it was; a document that begins in the middle of a line
(`step.begins`) starts from an empty one; everything that is remembered is float32.

Shapes: b rows, t time, c channels, k taps.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelyard.model.recurrent_state import Memory, RecurrentPool
from steelyard.model.state import Storage
from steelyard.model.step import Step


class Recurrence(nn.Module, abc.ABC):
    """x [b, t, width] -> [b, t, width]. Subclasses implement `memory` and `run`."""

    grid = 1
    causal = True

    @abc.abstractmethod
    def memory(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each tensor that is remembered of one text."""

    @abc.abstractmethod
    def run(self, x_btd: Tensor, step: Step, memory: Memory) -> tuple[Tensor, Memory]:
        """y [b, t, width], and the memory after each row's last real token."""

    def new_pool(self, slots: int, tokens: int, storage: Storage) -> RecurrentPool:
        # A part whose maps are all packed has no parameters left; packed ones are for CPUs.
        held = next(itertools.chain(self.parameters(), self.buffers()), torch.empty(0))
        return RecurrentPool(self.memory(), slots, storage.horizon, held.device)

    def forward(self, x_btd: Tensor, step: Step, state: RecurrentPool | None = None) -> Tensor:
        if state is not None:
            return state.through(x_btd, step, self.run)
        empty = {name: x_btd.new_zeros(x_btd.shape[0], *shape, dtype=torch.float32) for name, shape in self.memory().items()}
        return self.run(x_btd, step, empty)[0]

    def memory_bytes(self) -> int:
        """Bytes remembered of one text, whatever its length."""
        return sum(4 * torch.Size(shape).numel() for shape in self.memory().values())


def last_inputs(before_bkc: Tensor, x_btc: Tensor, step: Step) -> Tensor:
    """The last k inputs of every row's text [b, k, c]: those of this call, and earlier ones where it has fewer."""
    kept = before_bkc.shape[1]
    both = torch.cat((before_bkc, x_btc.to(before_bkc.dtype)), 1)
    if step.real is None:
        return both[:, -kept:] if kept else both[:, :0]
    ends = step.real.sum(1)  # padding is at the end of a line
    index = ends[:, None] + torch.arange(kept, device=x_btc.device)
    return both.gather(1, index[:, :, None].expand(-1, -1, both.shape[2]))


def last_states(before_b: Tensor, states_bt: Tensor, step: Step) -> Tensor:
    """The state after the last token of every row [b, *], of those after each token [b, t, *]; where a row has none, the one before.

    A scan that only ran on over padding would give the same state in another order of sums, so other bits beside longer rows.
    """
    if step.real is None:
        return states_bt[:, -1]
    ends = step.real.sum(1)  # padding is at the end of a line
    last = states_bt[torch.arange(len(ends), device=ends.device), (ends - 1).clamp(min=0)]
    return torch.where((ends > 0).view(-1, *[1] * (last.dim() - 1)), last, before_b.to(last.dtype))


def earlier(x_btc: Tensor, before_bkc: Tensor, back: int, step: Step) -> Tensor:
    """The inputs `back` tokens before each token, 0 where its document had none: [b, t, c]."""
    time, kept = x_btc.shape[1], before_bkc.shape[1]
    both = torch.cat((before_bkc.to(x_btc.dtype), x_btc), 1)
    shifted = both[:, kept - back : kept - back + time]
    if step.begins is None:
        return shifted
    document = step.begins.cumsum(1)
    same = F.pad(document, (back, 0))[:, :time] == document  # what precedes the call belongs to its first document
    return shifted * same[:, :, None].to(shifted.dtype)


def causal_convolution(x_btc: Tensor, weight_ck: Tensor, bias_c: Tensor | None, before_bkc: Tensor, step: Step) -> Tensor:
    """A short convolution along time, channel by channel: y_t = sum_j weight[:, k-1-j] x_{t-j} + bias, within each document.

    Args:
        x_btc: inputs.
        weight_ck: taps, the last of them for the token itself (PyTorch's order).
        bias_c: added, or None.
        before_bkc: the k - 1 inputs before the call, zeros where there were none.
        step: the call.
    """
    taps = weight_ck.shape[1]
    if step.begins is None and not step.deterministic:  # a library's sums need not be the same for every length
        both = torch.cat((before_bkc.to(x_btc.dtype), x_btc), 1).transpose(1, 2)
        y = F.conv1d(
            both, weight_ck[:, None].to(x_btc.dtype), None if bias_c is None else bias_c.to(x_btc.dtype), groups=weight_ck.shape[0]
        )
        return y.transpose(1, 2)
    weight = weight_ck.to(x_btc.dtype)
    y = x_btc * weight[:, -1]
    for back in range(1, taps):
        y = y + earlier(x_btc, before_bkc, back, step) * weight[:, taps - 1 - back]
    return y if bias_c is None else y + bias_c.to(x_btc.dtype)
