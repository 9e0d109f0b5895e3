"""The scan of linear recurrences, in parallel: what Mamba and other gated recurrences compute for a whole text at once.

h_t = a_t h_{t-1} + u_t, number by number. Two steps of it are one of the same form, (a, u) then (a', u') = (a a', a' u + u'), so within
a chunk all prefixes come from log2(chunk) doublings (Hillis and Steele, 1986), and chunks follow each other by their ends.
The gradient is the same scan from the end: g_t = dh_t + a_{t+1} g_{t+1}, du_t = g_t, da_t = g_t h_{t-1}; only a and h are kept for it.
Cost: O(t log chunk) operations; what moves through memory is why Mamba has a fused twin in C++.

Shapes: b rows, t time, n chunks, c tokens of a chunk, * anything.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 32
"""Tokens whose prefixes come from doublings; more cost doublings, fewer cost chunks that wait for each other."""


def linear_scan(decay_bt: Tensor, inputs_bt: Tensor, before_b: Tensor) -> Tensor:
    """The states after every token [b, t, *].

    Args:
        decay_bt: a [b, t, *]; 0 where a document begins.
        inputs_bt: u [b, t, *].
        before_b: the state before the first token [b, *].
    """
    return _LinearScan.apply(decay_bt, inputs_bt, before_b)  # type: ignore[return-value]


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay_bt: Tensor, inputs_bt: Tensor, before_b: Tensor) -> Tensor:  # type: ignore[override]
        states = prefixes(decay_bt, inputs_bt, before_b)
        ctx.save_for_backward(decay_bt, states, before_b)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_bt: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        decay_bt, states, before_b = ctx.saved_tensors
        later = torch.cat((decay_bt[:, 1:], torch.zeros_like(decay_bt[:, :1])), 1)
        back = prefixes(later.flip(1), gradient_bt.flip(1), torch.zeros_like(before_b)).flip(1)
        earlier = torch.cat((before_b[:, None], states[:, :-1]), 1)
        return back * earlier, back, decay_bt[:, 0] * back[:, 0]


def prefixes(decay_bt: Tensor, inputs_bt: Tensor, before_b: Tensor) -> Tensor:
    """`linear_scan` without a gradient."""
    time = inputs_bt.shape[1]
    if time == 1:
        return inputs_bt + decay_bt * before_b[:, None]
    chunk = min(CHUNK, time)
    padding = [0, 0] * (inputs_bt.dim() - 2) + [0, -time % chunk]
    a = F.pad(decay_bt, padding).unflatten(1, (-1, chunk)).clone()  # [b, n, c, *]
    h = F.pad(inputs_bt, padding).unflatten(1, (-1, chunk)).clone()
    back = 1
    while back < chunk:
        h[:, :, back:] += a[:, :, back:] * h[:, :, :-back]
        a[:, :, back:] = a[:, :, back:] * a[:, :, :-back]
        back *= 2
    before = before_b[:, None]
    for number in range(h.shape[1]):
        h[:, number] += a[:, number] * before
        before = h[:, number, -1:]
    return h.flatten(1, 2)[:, :time]
