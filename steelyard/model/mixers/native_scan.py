"""Mamba's convolution and selective scan in C++, with gradients: the fast twins of `causal_convolution` and `selective_scan`.

A whole text's states would be time x state x width numbers for PyTorch to write, read and keep; here they live in registers, one in
32 is kept and the others are computed again on the way back. Float32, CPUs only; everything else takes the readable twin.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from steelyard.kernels import native, recurrent
from steelyard.model.activations import ACTIVATIONS, activate
from steelyard.model.mixers.recurrence import causal_convolution
from steelyard.model.step import Step

MOST_STATE = 1024
"""Numbers of a channel that the routines were tried with."""


def pool_for(x: Tensor, step: Step) -> native.Pool | None:
    """The threads that compute a call, or None where its readable twin does."""
    if step.readable or x.device.type != "cpu" or not x.numel():
        return None
    return _pool()  # type: ignore[call-arg]


@torch.compiler.disable
def _pool() -> native.Pool | None:
    return recurrent.pool()


def marks_of(step: Step) -> Tensor | None:
    """Where documents begin and what is padding, uint8 [b, t]; None where there is neither."""
    return step.cached("scan marks", lambda: _marks(step))


def _marks(step: Step) -> Tensor | None:
    if step.begins is None and step.real is None:
        return None
    marks = torch.zeros(step.rows, step.time, dtype=torch.uint8, device=step.device)
    real = torch.ones_like(marks, dtype=torch.bool) if step.real is None else step.real
    if step.begins is not None:
        marks |= (step.begins & real).to(torch.uint8) * recurrent.BEGINS
    return marks | (~real).to(torch.uint8) * recurrent.PADDING


def convolved(
    pool: native.Pool | None,
    x_btc: Tensor,
    weight_ck: Tensor,
    bias_c: Tensor | None,
    before_bkc: Tensor,
    step: Step,
    activation: str,
) -> Tensor:
    """A short causal convolution and the nonlinearity after it, by the fastest form there is."""
    if pool is None or activation not in ("silu", "swish"):
        y = causal_convolution(x_btc, weight_ck, bias_c, before_bkc, step)
        return activate(ACTIVATIONS[activation], y, step.deterministic)
    return convolution(pool, x_btc, weight_ck, bias_c, before_bkc, step, silu=True).to(x_btc.dtype)  # type: ignore[call-arg]


@torch.compiler.disable
def convolution(
    pool: native.Pool, x_btc: Tensor, weight_ck: Tensor, bias_c: Tensor | None, before_bkc: Tensor, step: Step, silu: bool
) -> Tensor:
    """`causal_convolution`, followed by silu where that is wanted; float32."""
    weights = weight_ck.float().t().flip(0)
    bias = None if bias_c is None else bias_c.float()
    return _Convolution.apply(x_btc.float(), weights, bias, before_bkc.float(), marks_of(step), pool, silu)  # type: ignore[return-value]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, weights, bias, before, marks, pool, silu) -> Tensor:  # type: ignore[override]
        x, weights, before = x.contiguous(), weights.contiguous(), before.contiguous()
        bias = None if bias is None else bias.contiguous()
        ctx.save_for_backward(x, before, weights, bias, marks)
        ctx.pool, ctx.silu = pool, silu
        return recurrent.convolve(pool, x, before, weights, bias, marks, silu)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, before, weights, bias, marks = ctx.saved_tensors
        dx, dweights, dbias = recurrent.convolve_back(ctx.pool, gradient.contiguous(), x, before, weights, bias, marks, ctx.silu)
        return dx, dweights, None if bias is None else dbias, None, None, None, None


@torch.compiler.disable
def scan(
    pool: native.Pool,
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
    """`selective_scan` of steps that have not been through their softplus; padding stands still."""
    given = (x_btd, time_step_btd, gate_btd, decay_sd, write_bts, read_bts, skip_d, before_bsd)
    return _Scan.apply(*[part.float() for part in given], marks_of(step), pool, torch.is_grad_enabled())  # type: ignore[return-value]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, time_step, gate, decay, write, read, skip, before, marks, pool, keep) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        tensors = [part.contiguous() for part in (x, time_step, gate, decay, write, read, skip, before)]
        y, after, ends = recurrent.scan(pool, (*tensors, marks), keep)  # type: ignore[arg-type]
        ctx.save_for_backward(*tensors, marks, ends)
        ctx.pool = pool
        ctx.set_materialize_grads(False)
        return y, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, after: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *given, ends = ctx.saved_tensors
        gradient = torch.zeros_like(given[0]) if gradient is None else gradient.contiguous()
        after = None if after is None else after.contiguous()
        return *recurrent.scan_back(ctx.pool, tuple(given), ends, gradient, after), None, None, None  # type: ignore[arg-type]
