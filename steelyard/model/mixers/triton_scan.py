"""The scans of Mamba, RWKV and RWKV-7 in Triton, with gradients: the GPU's twins of `selective_scan`, `weighted_mean` and `delta_rule`.

They take what their readable twins take and give what these give, in float32, on CUDA tensors where Triton is installed; everything else
takes the readable twin or, on a CPU, the C++ one. Checked under Triton's interpreter; not yet run or timed on a GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from steelyard.kernels import gpu
from steelyard.model.mixers.native_scan import marks_of
from steelyard.model.step import Step


def fits(x: Tensor, step: Step) -> bool:
    """Whether Triton computes a call."""
    return not step.readable and x.numel() > 0 and gpu.runs_on(x.device)


@torch.compiler.disable
def selective_scan(
    x_btd: Tensor,
    time_step_btd: Tensor,
    decay_sd: Tensor,
    write_bts: Tensor,
    read_bts: Tensor,
    skip_d: Tensor,
    gate_btd: Tensor,
    before_bsd: Tensor,
    step: Step,
) -> tuple[Tensor, Tensor]:
    """`mamba.selective_scan`; padding stands still."""
    given = (x_btd, time_step_btd, gate_btd, decay_sd, write_bts, read_bts, skip_d, before_bsd)
    return _Scan.apply(*_plain(given), marks_of(step), torch.is_grad_enabled())  # type: ignore[return-value]


@torch.compiler.disable
def weighted_mean(
    key_btd: Tensor, value_btd: Tensor, fade_d: Tensor, bonus_d: Tensor, before_b2d: Tensor, level_bd: Tensor, step: Step
) -> tuple[Tensor, Tensor, Tensor]:
    """`rwkv.weighted_mean`; padding stands still, and the level has no gradient."""
    given = (key_btd, value_btd, fade_d, bonus_d, before_b2d, level_bd)
    return _Mean.apply(*_plain(given), marks_of(step), torch.is_grad_enabled())  # type: ignore[return-value]


@torch.compiler.disable
def delta_rule(
    asked_bthd: Tensor,
    fall_bthd: Tensor,
    removed_bthd: Tensor,
    rate_bthd: Tensor,
    written_bthd: Tensor,
    told_bthd: Tensor,
    before_bhvd: Tensor,
    step: Step,
) -> tuple[Tensor, Tensor]:
    """`rwkv7.delta_rule`, token by token; padding stands still."""
    given = (asked_bthd, fall_bthd, removed_bthd, rate_bthd, written_bthd, told_bthd, before_bhvd)
    return _Delta.apply(*_plain(given), marks_of(step), torch.is_grad_enabled())  # type: ignore[return-value]


def _plain(given: tuple[Tensor, ...]) -> list[Tensor]:
    return [part.float().contiguous() for part in given]


def _routines() -> ModuleType:
    routines = gpu.scans()
    assert routines is not None, "whoever calls has asked `fits`"
    return routines


def _on(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _back(
    routine: Callable[..., tuple[Tensor, ...]], saved: tuple[Tensor, ...], like: int, gradient: Tensor | None, after: Tensor | None
) -> tuple[Tensor, ...]:
    """Gradients of what a forward pass was given, by its routine for the way back. `saved`: that, and what the pass kept; an output that
    nobody's loss looks at has the shape of the given tensor `like`."""
    *given, kept = saved
    gradient = torch.zeros_like(given[like]) if gradient is None else gradient.contiguous()
    with _on(gradient):
        return routine(tuple(given), kept, gradient, None if after is None else after.contiguous())


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, time_step, gate, decay, write, read, skip, before, marks, keep) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        given = (x, time_step, gate, decay, write, read, skip, before, marks)
        with _on(x):
            y, after, ends = _routines().scan(given, keep)
        ctx.save_for_backward(*given, ends)
        ctx.set_materialize_grads(False)
        return y, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, after: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return *_back(_routines().scan_back, ctx.saved_tensors, 0, gradient, after), None, None


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, key, value, fade, bonus, before, level, marks, keep) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        given = (key, value, fade, bonus, before, level, marks)
        with _on(key):
            y, after, end, pasts = _routines().mean(given, keep)
        ctx.save_for_backward(*given, pasts)
        ctx.mark_non_differentiable(end)
        ctx.set_materialize_grads(False)
        return y, after, end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, after: Tensor | None, end: None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return *_back(_routines().mean_back, ctx.saved_tensors, 0, gradient, after), None, None, None


class _Delta(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, asked, fall, removed, rate, written, told, before, marks, keep) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        given = (asked, fall, removed, rate, written, told, before, marks)
        with _on(asked):
            y, after, ends = _routines().delta(given, keep)
        ctx.save_for_backward(*given, ends)
        ctx.set_materialize_grads(False)
        return y, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, after: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return *_back(_routines().delta_back, ctx.saved_tensors, 5, gradient, after), None, None
