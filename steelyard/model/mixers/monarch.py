"""Monarch Mixer along time: gated long convolutions whose Fourier transforms are products of two block-diagonal matrices.

x' = short * x;   z = (W_k x') (W_v x');   y = W_o [ (W_q x') (K * z + D z) ]        (arXiv:2310.12109, section 3; gates arXiv:2302.10866)
K * z = first t places of M^-1 (M K  M z), both filled with zeros to n1 n2 >= 2 t;  M = F_n2 T F_n1: n1 x n1 blocks, a permutation
with twiddle factors, n2 x n2 blocks: a Monarch matrix that is the Fourier transform.

Without the filling a product of Monarch matrices reaches round the end of the text: it is not causal (section 4 of the paper). The
filter K is a level and a small network of the place, faded out exponentially by channel, and as long as the context.
Cost: O(t^1.5) a channel, all of it products of matrices; 2 width numbers are remembered of every token, and a new one reads them all.

Shapes: b rows, t time, s remembered tokens, h width, l filter, n1 and n2 sizes of blocks, k taps, e features of a place, f inner width.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from steelyard.model.linears.joined import together
from steelyard.model.linears.linear import Linear
from steelyard.model.mixers.apart import PiecewisePool, one_by_one
from steelyard.model.mixers.documents import each_document
from steelyard.model.mixers.kept import Keeping, bucket
from steelyard.model.mixers.recurrence import causal_convolution
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.recurrent_state import Memory
from steelyard.model.state import KeyValuePool, Storage
from steelyard.model.step import Step

FREQUENCY = 10.0
"""Of the filter network's sines at the start; without it filters begin smooth and stay so (arXiv:2302.10866, appendix)."""
FASTEST, SLOWEST = 0.1, 1.5
"""Shares of the longest text after which channels' filters have faded to a hundredth."""


@dataclass(frozen=True)
class MonarchPlan:
    """Filters of `longest` places from a network of `inner` units over `features` sines of the place; `taps` of the short one."""

    longest: int
    taps: int = 3
    features: int = 16
    inner: int = 64

    def build(self, width: int) -> Monarch:
        return Monarch(width, self)


class Monarch(Keeping):
    """x [b, t, width] -> [b, t, width]. Its state is a `PiecewisePool`: inputs in place of keys, z in place of values."""

    grid = 1
    causal = True
    same_input = (("query", "key", "value"),)
    vector_parameters = ("short",)

    def __init__(self, width: int, plan: MonarchPlan):
        super().__init__()
        self.plan, self.width = plan, width
        self.query, self.key, self.value = (Linear(width, width, False) for _ in range(3))
        self.output = Linear(width, width, False)
        self.short = nn.Parameter(torch.empty(width, plan.taps))
        self.skip = nn.Parameter(torch.ones(width))  # D
        # The filter's network is kept flat: it is never narrowed, as vectors are not, because its sines would turn rounding into noise.
        self.filter_in = nn.Parameter(torch.empty(plan.inner * (2 * plan.features + 1)))
        self.filter_mid = nn.Parameter(torch.empty(plan.inner * plan.inner))
        self.filter_out = nn.Parameter(torch.empty(width * plan.inner))
        self.filter_level = nn.Parameter(torch.ones(width))
        if not self.short.is_meta:
            self.reset(torch.Generator().manual_seed(0))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> list[nn.Parameter]:
        """Filters begin as fading means of the past with some ripple, the short one as the token itself with some of those before."""
        for parameter in (self.short, self.filter_in, self.filter_mid, self.filter_out):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.short *= self.plan.taps**-0.5
        self.short[:, -1] += 1
        for matrix, gain in zip(self._network(), (1, 1, 0.5), strict=True):
            matrix *= gain * matrix.shape[1] ** -0.5
        self.filter_level.fill_(1)
        return [self.short]

    def _network(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three matrices of the filter's network, float32."""
        inner = self.plan.inner
        return self.filter_in.float().view(inner, -1), self.filter_mid.float().view(inner, inner), self.filter_out.float().view(-1, inner)

    def new_pool(self, slots: int, tokens: int, storage: Storage) -> PiecewisePool:
        return PiecewisePool.of(storage, slots, 1, tokens, self.width)

    def forward(self, x_btd: Tensor, step: Step, state: KeyValuePool | None = None) -> Tensor:
        if state is None:
            before = x_btd.new_zeros(x_btd.shape[0], self.plan.taps - 1, self.width)
            q, z = self._gated(causal_convolution(x_btd, self.short, None, before, step), step)
            with torch.autocast(x_btd.device.type, enabled=False):
                mixed, _ = each_document(z, step, {}, self._filtered)
        else:
            state.keys.write(step, x_btd[:, None])
            q, z = self._gated(self._shortly(x_btd, step, state), step)
            state.values.write(step, z[:, None])
            state.wrote(step)
            mixed = self._remembering(z, step, state)
        return self.output(q * (mixed + z * self.skip.float()).to(q.dtype), step)

    def _gated(self, x_btd: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        q, k, v = together(x_btd, step, (self.query, self.key, self.value))
        return q, k.float() * v.float()

    def _filtered(self, z_bth: Tensor, lengths: tuple[int, ...], memory: Memory) -> tuple[Tensor, Memory]:
        return monarch_convolution(z_bth, self.kernel(z_bth.shape[1])), memory

    def _shortly(self, x_btd: Tensor, step: Step, state: KeyValuePool) -> Tensor:
        """The short filter over what is remembered of the inputs."""
        out = torch.zeros_like(x_btd)
        places = _places(step)
        back = torch.arange(self.plan.taps - 1, -1, -1, device=step.device)
        for rows, extent in step.extents:
            pick = slice(None) if isinstance(rows, slice) else list(rows)
            for times, inputs in state.keys.views(step, rows, extent):
                index = places[pick][:, times, None] - back  # [b, t, k]
                gather = index.clamp(0, inputs.shape[2] - 1).flatten(1)[..., None].expand(-1, -1, self.width)
                near = inputs[:, 0].gather(1, gather).unflatten(1, index.shape[1:]).to(x_btd.dtype) * (index >= 0)[..., None]
                products = (near * self.short.T.to(x_btd.dtype)).unbind(2)
                out[pick, times] = functools.reduce(torch.add, products)  # term after term, in the same order for any shape
        return out

    def _remembering(self, z_bth: Tensor, step: Step, state: KeyValuePool) -> Tensor:
        """The long filter over all that is remembered of z."""
        out, places = torch.zeros_like(z_bth), _places(step)
        for rows, extent, time in one_by_one(step):
            numbers = range(step.rows)[rows] if isinstance(rows, slice) else rows
            kernel = self.kernel(min(self.plan.longest, max(step.starts[row] for row in numbers) + time))
            for times, seen in state.values.views(step, rows, extent):
                own = range(time)[times]
                if not own:
                    continue
                times = slice(own.start, own.stop)
                for row, z_sh in zip(numbers, seen[:, 0].float(), strict=True):
                    place = places[row, times]
                    end = min(int(place[-1]) + 1, len(z_sh))
                    if len(place) == 1:
                        first = max(0, end - kernel.shape[1])
                        out[row, times] = torch.einsum("sh,hs->h", z_sh[first:end], kernel[:, : end - first].flip(1))
                    else:
                        y_sh = monarch_convolution(z_sh[None, :end], kernel)[0]
                        out[row, times] = y_sh[place.clamp(max=end - 1)]
        return out

    def kernel(self, length: int) -> Tensor:
        """K of the first places, float32 [h, l]: at most `longest`, beyond which it is 0. Kept between calls that learn nothing."""
        length = min(length, self.plan.longest)
        if torch.is_grad_enabled():
            return self._kernel(length)
        parameters = (self.filter_in, self.filter_mid, self.filter_out, self.filter_level)
        made = min(bucket(length), self.plan.longest)
        return self._kept.of(parameters, made, lambda: self._kernel(made))[:, :length]

    def _kernel(self, length: int) -> Tensor:
        device, longest = self.filter_in.device, self.plan.longest
        place = torch.arange(length, device=device)[:, None] / longest
        waves = 2 * torch.pi * place * torch.arange(1, self.plan.features + 1, device=device)
        features = torch.cat((place, waves.cos(), waves.sin()), -1)  # [l, e]
        first, second, last = self._network()
        inner = (FREQUENCY * (features @ first.T)).sin()
        inner = (FREQUENCY * (inner @ second.T)).sin()
        fading = math.log(100) / (longest * torch.linspace(FASTEST, SLOWEST, self.width, device=device))
        gain = (1 - (-2 * fading).exp()).sqrt()  # the sum of squares of a fading filter is then 1
        return (self.filter_level.float()[:, None] + last @ inner.T) * (
            gain[:, None] * torch.exp(-fading[:, None] * torch.arange(length, device=device))
        )

    def mixing_flops(self, time: int) -> int:
        """Forward operations of a text's transforms (the filter's, made once a step for all rows, are not counted)."""
        n1, n2 = block_sizes(time)
        used, half = -(-time // n2), n1 // 2 + 1
        return self.width * (8 * n2 * half * used + 16 * half * n2 * n2 + 2 * self.plan.taps * time)


def block_sizes(time: int) -> tuple[int, int]:
    """n1 and n2, as alike as can be, with n1 n2 >= 2 time - 1: no product then reaches round."""
    n1 = math.isqrt(max(0, 2 * time - 2)) + 1
    return n1, -(-(2 * time - 1) // n1)


def factors(n1: int, n2: int, device: torch.device | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """F_n1, twiddles and F_n2, complex64 [n1, n1], [n1, n2], [n2, n2].

    With an input of n1 n2 places as x[j1, j2]: sum_j2 F2[j2, k2] T[k1, j2] sum_j1 F1[k1, j1] x[j1, j2] is its Fourier transform at
    k1 + n1 k2.
    """

    def roots(products: Tensor, order: int) -> Tensor:
        angles = -2 * torch.pi * (products % order).double() / order
        return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)

    a, b = torch.arange(n1, device=device), torch.arange(n2, device=device)
    return roots(a[:, None] * a, n1), roots(a[:, None] * b, n1 * n2), roots(b[:, None] * b, n2)


def monarch_convolution(z_bth: Tensor, kernel_hl: Tensor) -> Tensor:
    """y_t = sum_{l <= t} K_l z_{t-l}: [b, t, h] in float32.

    Of rows k1 and n1 - k1, which are conjugates where the input is real, one is computed; of rows of filling, none.
    """
    time = z_bth.shape[1]
    n1, n2 = block_sizes(time)
    f1, twiddle, f2 = factors(n1, n2, z_bth.device)
    used, half = -(-time // n2), n1 // 2 + 1
    f1, twiddle = f1[:half, :used], twiddle[:half]

    def transformed(x_ct: Tensor) -> Tensor:
        """[c.., time] -> [c.., half, n2], in the order the blocks leave it."""
        x = F.pad(x_ct, (0, used * n2 - x_ct.shape[-1])).unflatten(-1, (used, n2)).mT.contiguous()  # [c.., n2, used]
        first = torch.complex(x @ f1.real.T, x @ f1.imag.T) * twiddle.T
        return first.mT.contiguous() @ f2

    spectrum = transformed(z_bth.float().transpose(1, 2)) * transformed(kernel_hl[:, :time].float())
    second = (spectrum @ f2.conj().resolve_conj()) * twiddle.conj()
    own = torch.arange(half, device=z_bth.device) * 2 % n1 == 0  # rows that are their own conjugates
    weights = torch.view_as_real(f1.contiguous()) * torch.where(own, 1, 2)[:, None, None] / (n1 * n2)  # [half, used, 2]
    parts = torch.view_as_real(second).transpose(-3, -2).flatten(-2)  # [c.., n2, half 2]
    y = parts @ weights.transpose(1, 2).flatten(0, 1)  # [c.., n2, used]
    return y.mT.flatten(-2)[..., :time].transpose(1, 2)


def _places(step: Step) -> Tensor:
    """Each token's place in its slot: int64 [b, t]."""
    return torch.tensor(step.starts, device=step.device)[:, None] + torch.arange(step.time, device=step.device)


class MonarchLever(PartLever):
    """Monarch Mixer's mixing along time as a new decoder's mixer."""

    name: ClassVar[str] = "monarch"
    idea: ClassVar[str] = (
        "Tokens are mixed by gated convolutions as long as the text, whose transforms are products of two block-diagonal matrices: "
        "less than attention's square, and nothing but products of matrices. What is recalled must be found by place, through gates."
    )
    equation: ClassVar[str] = "y = W_o [q (K * (k v) + D k v)],  K * z = M^-1 (M K  M z),  M = F_n2 T F_n1"
    paper: ClassVar[str] = "arXiv:2310.12109; gated long filters arXiv:2302.10866"
    cost: ClassVar[str] = "about 20 sqrt(2 t) operations a token and channel besides its maps; memory 2 width numbers a token"
    identity: ClassVar[Any] = "there is none: another mixer"
    place: ClassVar[Any] = "mixer"

    taps: int = Field(3, ge=1, le=64, description="tokens of the short filter before the gates")
    features: int = Field(16, ge=1, le=1024, description="sines of the place that the filters are made of")
    inner: int = Field(64, ge=1, le=4096, description="units of the network that makes the filters")

    def plan(self, decoder: Decoder, layer: int) -> MonarchPlan:
        return MonarchPlan(decoder.context, self.taps, self.features, self.inner)
