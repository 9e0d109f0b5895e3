"""The next-token loss, shared by all that train a model to write: summed cross-entropy over learned tokens, and what goes with it.

loss = sum_t [ - log p(x_t | x_<t) + z (log sum exp logits_t)^2 ] + learned tokens * sum of the parts' own losses

The z-loss (arXiv:2204.02311, section 5) keeps logits from drifting away together. Parts of the trunk may have losses of their own (the
balance of a mixture of experts): while training they append (name, scalar) to `step.losses`, already weighted.
Neither is part of a validation loss, which is the cross-entropy alone.

Cost: logits are most of a step's memory with long rows or a large vocabulary, so those of many tokens are taken a piece at a time,
and each piece's gradient at once; none are kept.

Shapes: b lines, t time, n learned tokens, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.data.batching import NOT_LEARNED, Batch
from steelyard.model.step import Others, Step
from steelyard.model.trunk import Trunk

PIECE = 1024
"""Learned tokens whose logits are held at once (200 MB of them for a vocabulary of 49152)."""

Objective = Callable[[Batch], tuple[Tensor, int] | tuple[Tensor, int, dict[str, Tensor]]]
"""Loss of a batch: the sum over its learned tokens (or pairs, or rewards), their number, and perhaps by name what parts of the sum are
not the loss itself but were added to it (z-loss, balance)."""

Measure = Callable[[Tensor, Tensor], Tensor]
"""(hidden states [n, d], targets [n]) -> [cross-entropy summed, z-loss summed]."""


def next_token_loss(
    trunk: Trunk,
    *,
    z_loss: float = 0.0,
    compiled: Callable[[Measure], Measure] = lambda measure: measure,
    others: Others | None = None,
) -> Callable[[Batch], tuple[Tensor, int, dict[str, Tensor]]]:
    """The objective of a trunk with an `lm` head.

    Args:
        trunk: what is trained.
        z_loss: z; the paper's is 1e-4.
        compiled: what makes the head and its loss faster (`torch.compile`).
        others: the processes that take other lines of each batch, or None. The parts' own losses are then means over all lines.
    """
    head: Any = trunk.heads["lm"]
    table: Any = getattr(head, "linear", head)

    def measured(h_nd: Tensor, t_n: Tensor) -> Tensor:
        logits = head(h_nd).float()
        loss = F.cross_entropy(logits, t_n, reduction="sum")
        if not (z_loss and trunk.training):
            return torch.stack([loss, torch.zeros_like(loss)])
        return torch.stack([loss, z_loss * logits.logsumexp(-1).square().sum()])

    measure = compiled(measured)

    def objective(batch: Batch) -> tuple[Tensor, int, dict[str, Tensor]]:
        device = trunk.device
        ids_bt, targets_bt = torch.from_numpy(batch.ids).to(device), torch.from_numpy(batch.targets).to(device)
        segments_bt = None if batch.segments is None else torch.from_numpy(batch.segments).to(device)
        step = Step.whole(ids_bt.shape[0], ids_bt.shape[1], device, segments=segments_bt)
        step = step.changed(others=others, counts=batch.tokens > 0)
        hidden_btd = trunk(ids_bt, step)
        hidden_nd, targets_n = _learned(hidden_btd.flatten(0, 1), targets_bt.flatten(), batch.learned)
        sums = in_pieces(measure, table, hidden_nd, targets_n)
        total, parts = sums.sum(), {}
        if not trunk.training:
            return sums[0], len(hidden_nd), parts
        if z_loss:
            parts["z"] = sums[1]
        if hasattr(head, "lessons"):  # heads that predict more than the next token
            for name, further_nd, wanted_n in head.lessons(hidden_btd, targets_bt, segments_bt):
                count = step.total(torch.tensor(float(len(wanted_n))))
                step.losses.append((name, in_pieces(measure, table, further_nd, wanted_n).sum() / count.clamp(min=1)))
        learned = step.total(torch.tensor(float(len(hidden_nd))))
        for name, value in step.losses:
            weighted = value * learned
            total = total + weighted
            parts[name] = parts.get(name, 0.0) + weighted
        return total, len(hidden_nd), {name: value.detach() for name, value in parts.items()}

    return objective


def _learned(hidden_nd: Tensor, targets_n: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Those tokens that are learned; no copy where that is all."""
    if count == len(targets_n):
        return hidden_nd, targets_n
    index = (targets_n != NOT_LEARNED).nonzero().squeeze(1)
    return hidden_nd.index_select(0, index), targets_n.index_select(0, index)


def in_pieces(measure: Measure, head: torch.nn.Module, hidden_nd: Tensor, targets_n: Tensor) -> Tensor:
    """`measure` of all tokens; with more than `PIECE` of them, that many at a time."""
    if len(hidden_nd) <= PIECE:
        return measure(hidden_nd, targets_n)
    weights = [parameter for parameter in head.parameters() if parameter.requires_grad]
    if not torch.is_grad_enabled() or not (hidden_nd.requires_grad or weights):
        pieces = zip(hidden_nd.split(PIECE), targets_n.split(PIECE), strict=True)
        return torch.stack([measure(h_nd, t_n) for h_nd, t_n in pieces]).sum(0)
    sums: Any = _Pieces.apply(measure, hidden_nd, targets_n, *weights)
    return sums


class _Pieces(torch.autograd.Function):
    """Sums over pieces whose gradients are taken going forward, while a piece's logits are there. All sums weigh alike going back."""

    @staticmethod
    def forward(ctx: Any, measure: Measure, hidden_nd: Tensor, targets_n: Tensor, *weights: Tensor) -> Tensor:
        sums, hidden_gradients, weight_gradients = [], [], [torch.zeros_like(weight) for weight in weights]
        for h_nd, t_n in zip(hidden_nd.split(PIECE), targets_n.split(PIECE), strict=True):
            with torch.enable_grad():
                h_nd = h_nd.detach().requires_grad_()
                piece = measure(h_nd, t_n)
                hidden_gradient, *more = torch.autograd.grad(piece.sum(), [h_nd, *weights])
            sums.append(piece.detach())
            hidden_gradients.append(hidden_gradient)
            for whole, part in zip(weight_gradients, more, strict=True):
                whole.add_(part)
        ctx.save_for_backward(torch.cat(hidden_gradients), *weight_gradients)
        return torch.stack(sums).sum(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        hidden_gradient, *weight_gradients = ctx.saved_tensors
        scale = gradient[0]
        return None, hidden_gradient * scale, None, *(part * scale for part in weight_gradients)
