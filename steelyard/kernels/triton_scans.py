"""Scans on GPUs in Triton, forward and backward, on float32 tensors: Mamba's selective scan, RWKV's weighted mean and RWKV-7's delta rule.

A program goes over one row's tokens for a block of channels (of a head's values), with the state in registers; texts are long and
channels many, so the channels are what runs at once. Nothing of size time x state x width is kept: forward puts the states down once every
`STRETCH` tokens, backward computes those between again, a stretch at a time, from the end. What is summed over channels comes as a
share of every block and is added up at the end, in a fixed order, so the same input gives the same bits.

They are called by `steelyard.model.mixers.triton_scan`, which checks what they cannot know: shapes, types, that tensors are contiguous.
Held to their readable twins (`mamba.selective_scan`, `rwkv.weighted_mean`, `rwkv7.delta_rule`) under Triton's interpreter, which runs
them on CPU tensors, and compiled for GPUs of compute capability 8.0 and 9.0; they have not yet been run or timed on one.

Sources: arXiv:2312.00752, section 3.3.2 (Mamba: states in fast memory, computed again on the way back); arXiv:2305.13048, appendix D
(RWKV: sums relative to their greatest exponent); arXiv:2503.14456, eq. 16 (RWKV-7). Units: float32 numbers; logarithms are natural.

Shapes: b rows, t time, d channels (of a head, where there are heads), s states of a channel, h heads, v values of a head, n stretches.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from steelyard.kernels.recurrent import BEGINS, PADDING, Scanned

STRETCH = 32
"""Tokens between two states that are kept."""
CHANNELS = 32
"""Most channels of a program."""
NUMBERS = 1024
"""Most numbers of a program's state, beside those that make one channel's."""
WARPS = {"scan": 1, "mean": 1, "delta": 4}
"""Of a program. Sums over a state need no other warp where there is one; a head's matrix is too much for one warp's registers."""

_BEGINS, _PADDING = tl.constexpr(BEGINS), tl.constexpr(PADDING)
_NOTHING = tl.constexpr(-1e30)  # the level of no text at all: `rwkv.NO_LEVEL`


@triton.jit
def _softplus(x):
    """log(1 + e^x) = max(x, 0) + log(1 + u), u = e^-|x|; log(1 + u) = 2 artanh(u / (2 + u)), by its series to 1/3^15: as the C++ routines."""
    u = tl.exp(-tl.abs(x))
    s = u / (u + 2.0)
    q = s * s
    p = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13))))))
    return tl.maximum(x, 0.0) + 2.0 * s * p


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _mark(marks, place, MARKED: tl.constexpr):
    """What is said of a token: `BEGINS`, `PADDING`, both or neither."""
    mark = tl.full((), 0, tl.int32)
    if MARKED:
        mark = tl.load(marks + place).to(tl.int32)
    return mark


@triton.jit
def _scan(
    x, step, gate, decay, write, read, skip, before, marks, y, after, ends,
    time, width, state,
    MARKED: tl.constexpr, KEEP: tl.constexpr, T: tl.constexpr, S: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """`scan` for one row and one block of channels; h is [S, D]."""
    row, d, s = tl.program_id(0).to(tl.int64), tl.program_id(1) * D + tl.arange(0, D), tl.arange(0, S)
    here, there = d < width, s < state
    both = there[:, None] & here[None, :]
    of_state = s[:, None] * width + d[None, :]
    h = tl.load(before + row * state * width + of_state, both, 0.0)
    rates = tl.load(decay + of_state, both, 0.0)
    own = tl.load(skip + d, here, 0.0)
    for t in range(time):
        token = row * time + t
        if KEEP:  # noqa: SIM102
            if t % T == 0:  # pyright: ignore[reportOperatorIssue]
                tl.store(ends + (row * tl.cdiv(time, T) + t // T) * state * width + of_state, h, both)
        mark = _mark(marks, token, MARKED)
        inputs = tl.load(x + token * width + d, here, 0.0)
        opened = tl.load(gate + token * width + d, here, 0.0)
        moved = tl.where((mark & _PADDING) != 0, 0.0, _softplus(tl.load(step + token * width + d, here, 0.0)))
        written, asked = tl.load(write + token * state + s, there, 0.0), tl.load(read + token * state + s, there, 0.0)
        kept = tl.where((mark & _BEGINS) != 0, 0.0, tl.exp(moved[None, :] * rates))
        h = kept * h + written[:, None] * (moved * inputs)[None, :]
        out = tl.sum(asked[:, None] * h, 0) + own * inputs
        tl.store(y + token * width + d, out * opened * _sigmoid(opened), here)
    tl.store(after + row * state * width + of_state, h, both)


@triton.jit
def _scan_back(
    x, step, gate, decay, write, read, skip, marks, ends, room, dy, dafter,
    dx, dstep, dgate, ddecay, dwrite, dread, dskip, dbefore,
    rows, time, width, state,
    MARKED: tl.constexpr, ENDED: tl.constexpr, T: tl.constexpr, S: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """`scan_back` for one row and one block of channels; `room` holds the states before each token of a stretch."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    d, s = block * D + tl.arange(0, D), tl.arange(0, S)
    here, there = d < width, s < state
    both = there[:, None] & here[None, :]
    of_state = s[:, None] * width + d[None, :]
    scratch = room + (row * tl.num_programs(1) + block) * T * S * D + tl.arange(0, S)[:, None] * D + tl.arange(0, D)[None, :]
    rates = tl.load(decay + of_state, both, 0.0)
    own = tl.load(skip + d, here, 0.0)
    carry = tl.zeros((S, D), tl.float32)
    if ENDED:
        carry = tl.load(dafter + row * state * width + of_state, both, 0.0)
    rate_sum, own_sum = tl.zeros((S, D), tl.float32), tl.zeros((D,), tl.float32)
    stretches = tl.cdiv(time, T)
    for number in range(stretches):
        first = (stretches - 1 - number) * T
        last = tl.minimum(first + T, time)
        h = tl.load(ends + (row * stretches + first // T) * state * width + of_state, both, 0.0)
        for t in range(first, last):
            token = row * time + t
            tl.store(scratch + (t - first) * S * D, h)
            mark = _mark(marks, token, MARKED)
            inputs = tl.load(x + token * width + d, here, 0.0)
            moved = tl.where((mark & _PADDING) != 0, 0.0, _softplus(tl.load(step + token * width + d, here, 0.0)))
            written = tl.load(write + token * state + s, there, 0.0)
            h = tl.where((mark & _BEGINS) != 0, 0.0, tl.exp(moved[None, :] * rates)) * h + written[:, None] * (moved * inputs)[None, :]
        tl.debug_barrier()  # other threads read what these have stored
        for back in range(last - first):
            t = last - 1 - back
            token = row * time + t
            earlier = tl.load(scratch + (t - first) * S * D)
            mark = _mark(marks, token, MARKED)
            inputs = tl.load(x + token * width + d, here, 0.0)
            raw = tl.load(step + token * width + d, here, 0.0)
            opened = tl.load(gate + token * width + d, here, 0.0)
            written, asked = tl.load(write + token * state + s, there, 0.0), tl.load(read + token * state + s, there, 0.0)
            moved = tl.where((mark & _PADDING) != 0, 0.0, _softplus(raw))
            kept = tl.where((mark & _BEGINS) != 0, 0.0, tl.exp(moved[None, :] * rates))
            h = kept * earlier + written[:, None] * (moved * inputs)[None, :]
            open = _sigmoid(opened)
            told = tl.load(dy + token * width + d, here, 0.0)
            dout = told * opened * open
            out = tl.sum(asked[:, None] * h, 0) + own * inputs
            tl.store(dgate + token * width + d, told * out * open * (1.0 + opened * (1.0 - open)), here)
            shares = (block * rows * time + token) * state + s
            tl.store(dread + shares, tl.sum(h * dout[None, :], 1), there)
            carry += asked[:, None] * dout[None, :]
            tl.store(dwrite + shares, tl.sum(carry * (moved * inputs)[None, :], 1), there)
            dinput = tl.sum(carry * written[:, None], 0)
            dkept = carry * earlier * kept
            dmoved = dinput * inputs + tl.sum(dkept * rates, 0)
            tl.store(dx + token * width + d, dout * own + dinput * moved, here)
            tl.store(dstep + token * width + d, tl.where((mark & _PADDING) != 0, 0.0, dmoved * _sigmoid(raw)), here)
            rate_sum += dkept * moved[None, :]
            own_sum += dout * inputs
            carry = kept * carry
        tl.debug_barrier()  # the next stretch writes where these have read
    tl.store(ddecay + row * state * width + of_state, rate_sum, both)
    tl.store(dskip + row * width + d, own_sum, here)
    tl.store(dbefore + row * state * width + of_state, carry, both)


def _launch(kernel: Any, programs: tuple[int, ...], *given: Any, **sizes: Any) -> None:
    kernel[programs](*given, **sizes)


def _power(count: int) -> int:
    """The least power of two that is no less."""
    return 1 << (count - 1).bit_length()


def _blocks(width: int, state: int) -> tuple[int, int]:
    """Powers of two: numbers of a channel's state, and channels of a program."""
    numbers = _power(state)
    return numbers, min(CHANNELS, _power(width), max(1, NUMBERS // numbers))


def scan(given: Scanned, keep: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """y [b, t, d], the states after the last token [b, s, d], and those that the way back needs where they are to be kept."""
    (b, t, d), s = given[0].shape, len(given[3])
    numbers, channels = _blocks(d, s)
    y, after = torch.empty_like(given[0]), given[0].new_empty(b, s, d)
    ends = given[0].new_empty(b, -(-t // STRETCH), s, d) if keep else None
    sizes: dict[str, Any] = {
        "MARKED": given[8] is not None,
        "KEEP": keep,
        "T": STRETCH,
        "S": numbers,
        "D": channels,
        "num_warps": WARPS["scan"],
    }
    _launch(_scan, (b, -(-d // channels)), *given, y, after, ends, t, d, s, **sizes)
    return y, after, ends


def scan_back(given: Scanned, ends: Tensor, gradient_btd: Tensor, after_bsd: Tensor | None) -> tuple[Tensor, ...]:
    """Gradients of all of `given` but the marks, in its order."""
    (b, t, d), s = given[0].shape, len(given[3])
    numbers, channels = _blocks(d, s)
    blocks, new = -(-d // channels), given[0].new_empty
    dx, step, gate, before, decay, skip = new(b, t, d), new(b, t, d), new(b, t, d), new(b, s, d), new(b, s, d), new(b, d)
    write, read = new(blocks, b, t, s), new(blocks, b, t, s)
    room = new(b * blocks * STRETCH * numbers * channels)
    sizes: dict[str, Any] = {
        "MARKED": given[8] is not None,
        "ENDED": after_bsd is not None,
        "T": STRETCH,
        "S": numbers,
        "D": channels,
        "num_warps": WARPS["scan"],
    }
    parts = (*given[:7], given[8], ends, room, gradient_btd, after_bsd)
    _launch(_scan_back, (b, blocks), *parts, dx, step, gate, decay, write, read, skip, before, b, t, d, s, **sizes)
    return dx, step, gate, decay.sum(0), write.sum(0), read.sum(0), skip.sum(0), before


@triton.jit
def _mean(
    key, value, fade, bonus, before, level, marks, y, after, end, pasts,
    rows, time, width,
    MARKED: tl.constexpr, KEEP: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """`mean` for one row and one block of channels."""
    row, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * D + tl.arange(0, D)
    here = d < width
    w, u = tl.load(fade + d, here, 0.0), tl.load(bonus + d, here, 0.0)
    above = tl.load(before + row * 2 * width + d, here, 0.0)
    below = tl.load(before + (row * 2 + 1) * width + d, here, 0.0)
    given = tl.load(level + row * width + d, here, 0.0)
    high = tl.where(below == 0.0, _NOTHING, given)
    told = given  # the level to give back: what came in, where the row has no token
    for t in range(time):
        token = row * time + t
        mark = _mark(marks, token, MARKED)
        high = tl.where((mark & _BEGINS) != 0, _NOTHING, high)
        if KEEP:
            tl.store(pasts + token * width + d, above, here)
            tl.store(pasts + (rows * time + token) * width + d, below, here)
            tl.store(pasts + (2 * rows * time + token) * width + d, high, here)
        k, v = tl.load(key + token * width + d, here, 0.0), tl.load(value + token * width + d, here, 0.0)
        top = tl.maximum(high, k + u)
        past, own = tl.exp(high - top), tl.exp(k + u - top)
        tl.store(y + token * width + d, (past * above + own * v) / (past * below + own), here)
        new = tl.maximum(high - w, k)
        kept, weight = tl.exp(high - w - new), tl.exp(k - new)
        real = (mark & _PADDING) == 0
        above = tl.where(real, kept * above + weight * v, above)
        below = tl.where(real, kept * below + weight, below)
        high = tl.where(real, new, high)
        told = tl.where(real, new, told)
    tl.store(after + row * 2 * width + d, above, here)
    tl.store(after + (row * 2 + 1) * width + d, below, here)
    tl.store(end + row * width + d, told, here)


@triton.jit
def _mean_back(
    key, value, fade, bonus, marks, pasts, dy, dafter,
    dkey, dvalue, dfade, dbonus, dbefore,
    rows, time, width,
    MARKED: tl.constexpr, ENDED: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """`mean_back` for one row and one block of channels. Levels are constants: nothing depends on them."""
    row, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * D + tl.arange(0, D)
    here = d < width
    w, u = tl.load(fade + d, here, 0.0), tl.load(bonus + d, here, 0.0)
    dabove, dbelow = tl.zeros((D,), tl.float32), tl.zeros((D,), tl.float32)
    if ENDED:
        dabove = tl.load(dafter + row * 2 * width + d, here, 0.0)
        dbelow = tl.load(dafter + (row * 2 + 1) * width + d, here, 0.0)
    w_sum, u_sum = tl.zeros((D,), tl.float32), tl.zeros((D,), tl.float32)
    for back in range(time):
        token = row * time + time - 1 - back
        real = (_mark(marks, token, MARKED) & _PADDING) == 0
        above = tl.load(pasts + token * width + d, here, 0.0)
        below = tl.load(pasts + (rows * time + token) * width + d, here, 0.0)
        high = tl.load(pasts + (2 * rows * time + token) * width + d, here, 0.0)
        k, v = tl.load(key + token * width + d, here, 0.0), tl.load(value + token * width + d, here, 0.0)
        top = tl.maximum(high, k + u)
        past, own = tl.exp(high - top), tl.exp(k + u - top)
        under = past * below + own
        over = tl.load(dy + token * width + d, here, 0.0) / under
        dunder = -over * (past * above + own * v) / under
        down = (over * v + dunder) * own
        new = tl.maximum(high - w, k)
        kept, weight = tl.where(real, tl.exp(high - w - new), 1.0), tl.where(real, tl.exp(k - new), 0.0)
        tl.store(dvalue + token * width + d, over * own + dabove * weight, here)
        tl.store(dkey + token * width + d, down + (dabove * v + dbelow) * weight, here)
        u_sum += down
        w_sum -= tl.where(real, (dabove * above + dbelow * below) * kept, 0.0)
        dabove, dbelow = dabove * kept + over * past, dbelow * kept + dunder * past
    tl.store(dfade + row * width + d, w_sum, here)
    tl.store(dbonus + row * width + d, u_sum, here)
    tl.store(dbefore + row * 2 * width + d, dabove, here)
    tl.store(dbefore + (row * 2 + 1) * width + d, dbelow, here)


Averaged = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]
"""Key and value [b, t, d], fade and bonus [d], before [b, 2, d], level [b, d], marks uint8 [b, t] or None."""


def mean(given: Averaged, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """wkv [b, t, d], sums [b, 2, d] and level [b, d] after the last token, and where they are to be kept both sums and the level
    before every token [3, b, t, d]."""
    b, t, d = given[0].shape
    channels = min(CHANNELS, _power(d))
    y, after, end = torch.empty_like(given[0]), torch.empty_like(given[4]), torch.empty_like(given[5])
    pasts = given[0].new_empty(3, b, t, d) if keep else None
    sizes: dict[str, Any] = {"MARKED": given[6] is not None, "KEEP": keep, "D": channels, "num_warps": WARPS["mean"]}
    _launch(_mean, (b, -(-d // channels)), *given, y, after, end, pasts, b, t, d, **sizes)
    return y, after, end, pasts


def mean_back(given: Averaged, pasts: Tensor, gradient_btd: Tensor, after_b2d: Tensor | None) -> tuple[Tensor, ...]:
    """Gradients of key, value, fade, bonus and of the sums before."""
    b, t, d = given[0].shape
    channels = min(CHANNELS, _power(d))
    new = given[0].new_empty
    key, value, fade, bonus, before = new(b, t, d), new(b, t, d), new(b, d), new(b, d), new(b, 2, d)
    sizes: dict[str, Any] = {"MARKED": given[6] is not None, "ENDED": after_b2d is not None, "D": channels, "num_warps": WARPS["mean"]}
    parts = (*given[:4], given[6], pasts, gradient_btd, after_b2d)
    _launch(_mean_back, (b, -(-d // channels)), *parts, key, value, fade, bonus, before, b, t, d, **sizes)
    return key, value, fade.sum(0), bonus.sum(0), before


@triton.jit
def _delta(
    asked, fall, removed, rate, written, told, before, marks, y, after, ends,
    time, heads, width, values,
    MARKED: tl.constexpr, KEEP: tl.constexpr, T: tl.constexpr, V: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """`delta` for one row's head and one block of its values; S is [V, D]."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    v, d = tl.program_id(2) * V + tl.arange(0, V), tl.arange(0, D)
    here, there = d < width, v < values
    both = there[:, None] & here[None, :]
    of_state = v[:, None] * width + d[None, :]
    state = tl.load(before + (row * heads + head) * values * width + of_state, both, 0.0)
    for t in range(time):
        token = row * time + t
        place, said = (token * heads + head) * width + d, (token * heads + head) * values + v
        if KEEP:  # noqa: SIM102
            if t % T == 0:  # pyright: ignore[reportOperatorIssue]
                kept = ((row * heads + head) * tl.cdiv(time, T) + t // T) * values * width
                tl.store(ends + kept + of_state, state, both)
        mark = _mark(marks, token, MARKED)
        real = (mark & _PADDING) == 0
        state = tl.where((mark & _BEGINS) != 0, 0.0, state)
        key_out = tl.load(removed + place, here, 0.0)
        gone = tl.sum(state * key_out[None, :], 1)  # what stands under the key that is taken out
        new = state * tl.exp(tl.load(fall + place, here, 0.0))[None, :]
        new -= gone[:, None] * (key_out * tl.load(rate + place, here, 0.0))[None, :]
        new += tl.load(told + said, there, 0.0)[:, None] * tl.load(written + place, here, 0.0)[None, :]
        state = tl.where(real, new, state)
        tl.store(y + said, tl.sum(state * tl.load(asked + place, here, 0.0)[None, :], 1), there)
    tl.store(after + (row * heads + head) * values * width + of_state, state, both)


@triton.jit
def _delta_back(
    asked, fall, removed, rate, written, told, marks, ends, room, dy, dafter,
    dasked, dfall, dremoved, drate, dwritten, dtold, dbefore,
    rows, time, heads, width, values,
    MARKED: tl.constexpr, ENDED: tl.constexpr, T: tl.constexpr, V: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """`delta_back` for one row's head and one block of its values; `room` holds the states before each token of a stretch."""
    row, head, block = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2).to(tl.int64)
    v, d = block * V + tl.arange(0, V), tl.arange(0, D)
    here, there = d < width, v < values
    both = there[:, None] & here[None, :]
    of_state = v[:, None] * width + d[None, :]
    program = (row * heads + head) * tl.num_programs(2) + block
    scratch = room + program * T * V * D + tl.arange(0, V)[:, None] * D + tl.arange(0, D)[None, :]
    carry = tl.zeros((V, D), tl.float32)
    if ENDED:
        carry = tl.load(dafter + (row * heads + head) * values * width + of_state, both, 0.0)
    stretches = tl.cdiv(time, T)
    for number in range(stretches):
        first = (stretches - 1 - number) * T
        last = tl.minimum(first + T, time)
        state = tl.load(ends + ((row * heads + head) * stretches + first // T) * values * width + of_state, both, 0.0)
        for t in range(first, last):
            token = row * time + t
            place, said = (token * heads + head) * width + d, (token * heads + head) * values + v
            mark = _mark(marks, token, MARKED)
            state = tl.where((mark & _BEGINS) != 0, 0.0, state)
            tl.store(scratch + (t - first) * V * D, state)
            key_out = tl.load(removed + place, here, 0.0)
            gone = tl.sum(state * key_out[None, :], 1)
            new = state * tl.exp(tl.load(fall + place, here, 0.0))[None, :]
            new -= gone[:, None] * (key_out * tl.load(rate + place, here, 0.0))[None, :]
            new += tl.load(told + said, there, 0.0)[:, None] * tl.load(written + place, here, 0.0)[None, :]
            state = tl.where((mark & _PADDING) == 0, new, state)
        tl.debug_barrier()  # other threads read what these have stored
        for back in range(last - first):
            t = last - 1 - back
            token = row * time + t
            place, said = (token * heads + head) * width + d, (token * heads + head) * values + v
            mark = _mark(marks, token, MARKED)
            real = ((mark & _PADDING) == 0).to(tl.float32)
            earlier = tl.load(scratch + (t - first) * V * D)
            query, value = tl.load(asked + place, here, 0.0), tl.load(told + said, there, 0.0)
            # Padding takes nothing out, writes nothing and forgets nothing.
            key_out, key_in = tl.load(removed + place, here, 0.0) * real, tl.load(written + place, here, 0.0) * real
            learned, left = tl.load(rate + place, here, 0.0), tl.exp(tl.load(fall + place, here, 0.0) * real)
            gone, taken = tl.sum(earlier * key_out[None, :], 1), key_out * learned
            state = earlier * left[None, :] - gone[:, None] * taken[None, :] + value[:, None] * key_in[None, :]
            out = tl.load(dy + said, there, 0.0)
            carry += out[:, None] * query[None, :]
            tl.store(dtold + said, tl.sum(carry * key_in[None, :], 1), there)
            dgone, dtaken = -tl.sum(carry * taken[None, :], 1), -tl.sum(carry * gone[:, None], 0)
            share = (block * rows * time * heads) * width + place
            tl.store(dasked + share, tl.sum(state * out[:, None], 0), here)
            tl.store(dfall + share, tl.sum(carry * earlier, 0) * left * real, here)
            tl.store(dremoved + share, (dtaken * learned + tl.sum(dgone[:, None] * earlier, 0)) * real, here)
            tl.store(drate + share, dtaken * key_out, here)
            tl.store(dwritten + share, tl.sum(carry * value[:, None], 0) * real, here)
            carry = carry * left[None, :] + dgone[:, None] * key_out[None, :]
            carry = tl.where((mark & _BEGINS) != 0, 0.0, carry)
        tl.debug_barrier()  # the next stretch writes where these have read
    tl.store(dbefore + (row * heads + head) * values * width + of_state, carry, both)


Ruled = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]
"""Asked, fall, removed, rate and written [b, t, h, d], told [b, t, h, v], before [b, h, v, d], marks uint8 [b, t] or None."""


def delta(given: Ruled, keep: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """y [b, t, h, v], the states after the last token [b, h, v, d], and those that the way back needs where they are to be kept."""
    (b, t, h, d), v = given[0].shape, given[5].shape[3]
    width, values = _heads(d, v)
    y, after = torch.empty_like(given[5]), torch.empty_like(given[6])
    ends = given[0].new_empty(b, h, -(-t // STRETCH), v, d) if keep else None
    sizes: dict[str, Any] = {
        "MARKED": given[7] is not None,
        "KEEP": keep,
        "T": STRETCH,
        "V": values,
        "D": width,
        "num_warps": WARPS["delta"],
    }
    _launch(_delta, (b, h, -(-v // values)), *given, y, after, ends, t, h, d, v, **sizes)
    return y, after, ends


def delta_back(given: Ruled, ends: Tensor, gradient_bthv: Tensor, after_bhvd: Tensor | None) -> tuple[Tensor, ...]:
    """Gradients of all of `given` but the marks, in its order."""
    (b, t, h, d), v = given[0].shape, given[5].shape[3]
    width, values = _heads(d, v)
    blocks, new = -(-v // values), given[0].new_empty
    shares = [new(blocks, b, t, h, d) for _ in range(5)]
    told, before = torch.empty_like(given[5]), torch.empty_like(given[6])
    room = new(b * h * blocks * STRETCH * values * width)
    sizes: dict[str, Any] = {
        "MARKED": given[7] is not None,
        "ENDED": after_bhvd is not None,
        "T": STRETCH,
        "V": values,
        "D": width,
        "num_warps": WARPS["delta"],
    }
    parts = (*given[:6], given[7], ends, room, gradient_bthv, after_bhvd)
    _launch(_delta_back, (b, h, blocks), *parts, *shares, told, before, b, t, h, d, v, **sizes)
    return *[share.sum(0) for share in shares], told, before


def _heads(width: int, values: int) -> tuple[int, int]:
    """Powers of two: a head's channels, and its values of a program."""
    channels = _power(width)
    return channels, min(CHANNELS, _power(values), max(1, 2 * NUMBERS // channels))
