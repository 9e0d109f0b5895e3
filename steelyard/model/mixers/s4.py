"""S4: each channel is filtered by a linear system with a long memory; a convolution over a whole text, a recurrence in steps.

x'(t) = A x(t) + B u(t),  y(t) = Re C x(t) + D u(t), sampled with a step of Delta;  K_l = Re C A_d^l B_d,  y = K * u   (arXiv:2111.00396)
diagonal   A = diag(lambda), zero-order hold: A_d = exp(Delta A), B_d = A^-1 (A_d - 1) B           (S4D, arXiv:2206.11893)
low_rank   A = diag(lambda) - p p*, bilinear: A_d = (1 - Delta/2 A)^-1 (1 + Delta/2 A), B_d = (1 - Delta/2 A)^-1 Delta B

With l = stretch i + j the kernel is a product of two short rows, C A_d^(stretch i) and A_d^j B_d, some 2 sqrt(t) vectors for t places. (The
paper's algorithm 1, a generating function at t roots of unity, gives the same numbers, in seven to fourteen times the time.)

HiPPO's matrix, whose state holds what the input was so far in Legendre polynomials, is such a pair lambda, p (theorem 1): the start.
Modes come in conjugate pairs, of which one is kept. Modes and steps move slowly (a tenth of the learning rate) or they lose what the
start gave them. Channels are mixed afterwards: W gelu(y), gated. Cost: O(t log t) a channel and O(t state) for the kernel, once a step
for all rows (low_rank: O(state^3 log t) more, its matrix's powers); memory 2 numbers a mode.

Shapes: b rows, t time, l kernel, h channels, m mode pairs, s = 2 m modes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from steelyard.model.activations import activate
from steelyard.model.linears.linear import Linear
from steelyard.model.mixers.apart import apart
from steelyard.model.mixers.documents import each_document
from steelyard.model.mixers.kept import Keeping, bucket
from steelyard.model.mixers.recurrence import Recurrence
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.recurrent_state import Memory, RecurrentPool
from steelyard.model.step import Step

Kind = Literal["diagonal", "low_rank"]
Start = Literal["hippo", "random"]
SLOWLY = 0.1


@dataclass(frozen=True)
class S4Plan:
    """`state` modes a channel (an even number); `least_step` and `most_step` bound the steps drawn at the start, in tokens^-1."""

    kind: Kind
    state: int
    start: Start = "hippo"
    least_step: float = 0.001
    most_step: float = 0.1

    def build(self, width: int) -> S4:
        return S4(width, self)


class S4(Keeping, Recurrence):
    """x [b, t, width] -> [b, t, width]. What belongs to modes is kept flat: it is neither decayed nor ever narrowed, as vectors are."""

    parameter_rates = {"log_decay": SLOWLY, "frequency": SLOWLY, "into": SLOWLY, "rank": SLOWLY, "log_step": SLOWLY}

    def __init__(self, width: int, plan: S4Plan):
        super().__init__()
        self.plan, self.width, self.pairs = plan, width, plan.state // 2
        modes = width * self.pairs
        self.log_decay = nn.Parameter(torch.empty(modes))  # lambda = -exp(log_decay) + i frequency
        self.frequency = nn.Parameter(torch.empty(modes))
        self.into = nn.Parameter(torch.empty(2 * modes))  # B; complex numbers as pairs
        self.out_of = nn.Parameter(torch.empty(2 * modes))  # C
        self.rank = nn.Parameter(torch.empty(2 * modes)) if plan.kind == "low_rank" else None  # p
        self.log_step = nn.Parameter(torch.empty(width))
        self.skip = nn.Parameter(torch.ones(width))  # D
        self.output = Linear(width, 2 * width, True)
        if not self.log_step.is_meta:
            self.reset(torch.Generator().manual_seed(0))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> list[nn.Parameter]:
        """Draws steps, outputs and, where A starts at random, modes."""
        plan, shape = self.plan, (self.width, self.pairs)
        if plan.start == "hippo":
            modes, into, rank = (part.expand(shape) for part in hippo(plan.state))
        else:  # as a random matrix has them, pushed to where they decay
            modes = torch.complex(-torch.randn(shape, generator=generator).abs() - 0.01, torch.randn(shape, generator=generator))
            into = torch.ones(shape, dtype=torch.complex64)
            rank = torch.complex(*(torch.randn(shape, generator=generator) / 2 for _ in range(2)))
        self.log_decay.copy_((-modes.real).log().flatten())
        self.frequency.copy_(modes.imag.flatten())
        self.into.copy_(torch.view_as_real(into.resolve_conj().contiguous()).flatten())
        if self.rank is not None:
            self.rank.copy_(torch.view_as_real(rank.resolve_conj().contiguous()).flatten())
        self.out_of.copy_(torch.randn(self.out_of.shape, generator=generator) * 0.5**0.5)
        low, high = torch.tensor([plan.least_step, plan.most_step]).log()
        self.log_step.copy_(low + torch.rand(self.width, generator=generator) * (high - low))
        return []

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        return {"state": (self.width, self.pairs, 2)}

    def forward(self, x_btd: Tensor, step: Step, state: RecurrentPool | None = None) -> Tensor:
        # Without a state nobody asks what is remembered at the end, which costs as much again.
        return self.run(x_btd, step, {})[0] if state is None else super().forward(x_btd, step, state)

    def run(self, x_btd: Tensor, step: Step, memory: Memory) -> tuple[Tensor, Memory]:
        with torch.autocast(x_btd.device.type, enabled=False):
            y_bth, memory = apart(step, (x_btd.float(),), memory, lambda own, u, before: each_document(u[0], own, before, self._filter))
        y, gate = self.output(activate(F.gelu, y_bth, step.deterministic).to(x_btd.dtype), step).chunk(2, -1)
        return y * activate(torch.sigmoid, gate, step.deterministic), memory

    def _filter(self, u_bth: Tensor, lengths: tuple[int, ...], memory: Memory) -> tuple[Tensor, Memory]:
        """Rows from their beginning, or from a memory."""
        time = u_bth.shape[1]
        y = convolved(u_bth, self.kernel(time)) + u_bth * self.skip.float()
        if not memory:
            return y, memory
        transition, into, out_of = self._kept.of(self._system, "steps", self._in_steps)
        single = torch.complex64 if into.is_complex() else torch.float32
        before = self._unfolded(memory["state"]).to(into.dtype)  # [b, h, s]
        heard = powers(transition, into, time).to(single)  # [h, l, s]
        said = powers(transition.mT if transition.dim() == 3 else transition, applied(transition, out_of, left=True), time)
        y = y + torch.einsum("hls,bhs->blh", said.to(single), before.to(single)).real
        after = before.clone()
        for length in sorted(set(lengths)):
            rows = torch.tensor([row for row, own in enumerate(lengths) if own == length], device=u_bth.device)
            kept = torch.linalg.matrix_power(transition, length) if transition.dim() == 3 else transition**length
            new = torch.einsum("hls,blh->bhs", heard[:, :length].flip(1), u_bth[rows, :length].to(heard.dtype))
            carried = torch.einsum("hrs,bhs->bhr", kept, before[rows]) if kept.dim() == 3 else kept * before[rows]
            after = after.index_put((rows,), carried + new)
        return y, {"state": self._folded(after)}

    def _unfolded(self, state_bhm2: Tensor) -> Tensor:
        """A remembered state as the system has it: low_rank real parts, then imaginary ones; diagonal both modes of each pair."""
        if self.rank is not None:
            return state_bhm2.mT.flatten(-2)
        half = torch.view_as_complex(state_bhm2.contiguous())
        return torch.cat((half, half.conj()), -1)

    def _folded(self, state_bhs: Tensor) -> Tensor:
        """The other way: float32 [b, h, m, 2]."""
        if self.rank is not None:
            return state_bhs.float().unflatten(-1, (2, self.pairs)).mT.contiguous()
        return torch.view_as_real(state_bhs[..., : self.pairs].to(torch.complex64).contiguous())

    # ---- the system ------------------------------------------------------------------------------------------------------------

    def _numbers(self, flat: Tensor) -> Tensor:
        """Complex double-precision numbers of every channel's mode pairs [h, m]."""
        return torch.view_as_complex(flat.double().view(self.width, self.pairs, 2))

    def continuous(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
        """lambda, B, C, p [h, m] and Delta [h, 1], in double precision."""
        modes = torch.complex(-self.log_decay.double().exp(), self.frequency.double()).view(self.width, self.pairs)
        rank = None if self.rank is None else self._numbers(self.rank)
        return modes, self._numbers(self.into), self._numbers(self.out_of), rank, self.log_step.double().exp()[:, None]

    def _in_steps(self) -> tuple[Tensor, Tensor, Tensor]:
        """A_d, B_d and C. Diagonal: [h, s] each, over both modes of each pair. low_rank: real, [h, s, s] and [h, s] twice, over the real
        parts of the kept modes and then their imaginary ones."""
        modes, into, out_of, rank, delta = self.continuous()
        if rank is None:
            modes, into, out_of = (torch.cat((part, part.conj()), -1) for part in (modes, into, out_of))
            transition = (delta * modes).exp()
            return transition, (transition - 1) / modes * into, out_of
        own = torch.diag_embed(modes) - rank[:, :, None] * rank.conj()[:, None]  # what a mode's change takes from the modes kept
        other = -rank[:, :, None] * rank[:, None]  # and from their conjugates
        some, rest = own + other, own - other
        a = torch.cat((torch.cat((some.real, -rest.imag), -1), torch.cat((some.imag, rest.real), -1)), -2)
        into, out_of = torch.cat((into.real, into.imag), -1), 2 * torch.cat((out_of.real, -out_of.imag), -1)
        one, half = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device), delta[..., None] / 2
        found = torch.linalg.solve(one - half * a, torch.cat((one + half * a, (delta * into)[..., None]), -1))
        return found[..., :-1], found[..., -1], out_of

    @property
    def _system(self) -> list[Tensor]:
        """The parameters that A, B, C and Delta are made of."""
        return [p for p in (self.log_decay, self.frequency, self.into, self.out_of, self.rank, self.log_step) if p is not None]

    def kernel(self, length: int) -> Tensor:
        """K of the first `length` places: float32 [h, l]. Kept between calls that learn nothing."""
        if torch.is_grad_enabled():
            return self._kernel(length)
        made = bucket(length)
        return self._kept.of(self._system, made, lambda: self._kernel(made))[:, :length]

    def _kernel(self, length: int) -> Tensor:
        if self.rank is not None:
            return self._by_powers(length)
        modes, into, out_of, _, delta = self.continuous()
        transition = (delta * modes).exp()
        weights = out_of * (transition - 1) / modes * into  # of each pair's decaying wave
        return waves_summed(weights, delta * modes, length)

    def _by_powers(self, length: int) -> Tensor:
        """No power of A_d makes a state larger (A's symmetric part, Re lambda - p p*, is negative, and the bilinear rule keeps that), so high
        powers are exact."""
        transition, into, out_of = self._in_steps()
        stretch = math.isqrt(length - 1) + 1
        near = powers(transition, into, stretch)
        far = powers(torch.linalg.matrix_power(transition, stretch).mT, out_of, -(-length // stretch))
        return (far @ near.mT).flatten(1)[:, :length].float()

    def mixing_flops(self, time: int) -> int:
        """Forward operations of the convolution (three real transforms, one of them the kernel's, and a product)."""
        size = transform_size(time)
        return int(self.width * (2 * 2.5 * size * (size.bit_length() - 1) + 3 * size + 3 * time))


def waves_summed(weights_hm: Tensor, rates_hm: Tensor, length: int) -> Tensor:
    """2 Re sum_m w_m exp(r_m l) for l < length: float32 [h, l].

    With l = stretch * i + j and exp(r l) = exp(r stretch i) exp(r j) that is a product of two matrices, of some 2 sqrt(length) waves each.
    """
    stretch = math.isqrt(length - 1) + 1
    starts = torch.arange(0, length, stretch, device=rates_hm.device)

    def waves(places: Tensor) -> Tensor:
        # Phases are taken in double precision, of which single precision keeps enough once they are small.
        exponents = rates_hm[..., None] * places
        return torch.polar(exponents.real.exp(), exponents.imag.remainder(2 * torch.pi))

    def split(numbers: Tensor, sign: int) -> Tensor:
        return torch.cat((numbers.real, sign * numbers.imag), 1).float()

    far, near = weights_hm[..., None] * waves(starts), waves(torch.arange(stretch, device=rates_hm.device))
    return 2 * (split(far, -1).mT @ split(near, 1)).flatten(1)[:, :length]


def applied(transition: Tensor, vector_hs: Tensor, *, left: bool) -> Tensor:
    """Row times matrix (`left`) or matrix times column; a diagonal may stand for its matrix."""
    if transition.dim() == 2:
        return transition * vector_hs
    return torch.einsum("hr,hrs->hs" if left else "hs,hrs->hr", vector_hs, transition)


def powers(transition: Tensor, vector_hs: Tensor, count: int) -> Tensor:
    """v, A v, A^2 v, .. [h, count, s], by doubling."""
    if count == 1:
        return vector_hs[:, None]
    if transition.dim() == 2:
        exponents = torch.arange(count, device=transition.device)[None, :, None]
        return transition[:, None] ** exponents * vector_hs[:, None]
    out = vector_hs[:, None]
    while out.shape[1] < count:
        out = torch.cat((out, torch.einsum("hrs,hls->hlr", transition, out)), 1)
        transition = transition @ transition
    return out[:, :count]


def transform_size(time: int) -> int:
    """Places of a transform in which a text and its kernel do not reach round."""
    return 1 << (2 * time - 1).bit_length()


def convolved(u_bth: Tensor, kernel_hl: Tensor) -> Tensor:
    """y_t = sum_l K_l u_{t-l}, by fast Fourier transforms: [b, t, h]."""
    time = u_bth.shape[1]
    size = transform_size(time)
    spectrum = torch.fft.rfft(u_bth.transpose(1, 2), n=size) * torch.fft.rfft(kernel_hl, n=size)
    return torch.fft.irfft(spectrum, n=size)[..., :time].transpose(1, 2)


def hippo(state: int) -> tuple[Tensor, Tensor, Tensor]:
    """HiPPO-LegS in the basis where it is diagonal but for a rank of one: lambda, B, p of one mode of each pair, complex128 [m].

    A = V (diag(lambda) - p p*) V*, with A_nk = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it, 0 above, and B_n = sqrt(2n+1).
    """
    n = torch.arange(state, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    a = -(root[:, None] * root).tril(-1) - torch.diag(n + 1)
    rank = (n + 0.5).sqrt()
    skew = a + rank[:, None] * rank + 0.5 * torch.eye(state, dtype=torch.float64)
    frequency, basis = torch.linalg.eigh(-1j * skew)  # ascending, in pairs +-w
    kept = slice(state // 2, None)
    back = basis.mH.to(torch.complex128)
    modes = torch.complex(torch.full_like(frequency, -0.5), frequency)
    return modes[kept], (back @ root.to(back.dtype))[kept], (back @ rank.to(back.dtype))[kept]


class S4Lever(PartLever):
    """S4 as a new decoder's mixer."""

    name: ClassVar[str] = "s4"
    idea: ClassVar[str] = (
        "Each channel is a linear system whose state holds a long past in a few numbers; it trains as one long convolution and answers "
        "step by step. It treats every token alike, so it cannot choose what to remember."
    )
    equation: ClassVar[str] = "x' = A x + B u, y = C x + D u;  K_l = C A_d^l B_d, y = K * u;  A diagonal, or diagonal - p p*"
    paper: ClassVar[str] = "arXiv:2111.00396; diagonal arXiv:2206.11893, start arXiv:2008.07669"
    cost: ClassVar[str] = "10 log2(2 t) operations a token and channel besides its map; memory 2 numbers a mode pair"
    identity: ClassVar[Any] = "there is none: another mixer"
    place: ClassVar[Any] = "mixer"
    main: ClassVar[str | None] = "state"

    kind: Kind = Field("diagonal", description="form of A; low_rank adds a rank of one, with which HiPPO's matrix is exact")
    state: int = Field(32, ge=2, le=1024, multiple_of=2, description="modes of a channel, an even number")
    start: Start = Field("hippo", description="what A is at the start")
    least_step: float = Field(0.001, gt=0, le=10, description="smallest step at the start; its inverse is a memory in tokens")
    most_step: float = Field(0.1, gt=0, le=10, description="largest step at the start")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least_step > self.most_step:
            raise ValueError(f"`least_step` {self.least_step:g} is above `most_step` {self.most_step:g}")
        return self

    def plan(self, decoder: Decoder, layer: int) -> S4Plan:
        return S4Plan(self.kind, self.state, self.start, self.least_step, self.most_step)
