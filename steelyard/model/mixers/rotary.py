"""Rotary positions: each pair of a head's dimensions is turned by an angle proportional to the token's position.

q' = R(p) q with R(p) a block-diagonal rotation by p * base^(-2i/d)  (RoFormer, arXiv:2104.09864). The two halves of the
rotated dimensions form the pairs (GPT-NeoX's layout). Scalings stretch the usable context:
linear (arXiv:2306.15595), llama3 (Llama 3.1 report), yarn (arXiv:2309.00071), longrope (arXiv:2402.13753).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steelyard.model.step import Step


@dataclass(frozen=True)
class RotaryScaling:
    """How frequencies are stretched.

    Attributes:
        kind: `linear`, `llama3`, `yarn`, `longrope`.
        factor: by how much the context grows.
        original_context: tokens the model was first trained on.
        low, high: llama3's `low_freq_factor`, `high_freq_factor`; yarn's `beta_slow`, `beta_fast`.
        attention_factor: multiplies cos and sin; None = the method's own formula.
        truncate: yarn rounds its correction range to whole dimensions.
        long_factors, short_factors: longrope's per-frequency divisors.
        mscale, mscale_all_dim: yarn as DeepSeek varies it; 0 = not used.
    """

    kind: str
    factor: float = 1.0
    original_context: int = 0
    low: float = 1.0
    high: float = 4.0
    attention_factor: float | None = None
    truncate: bool = True
    long_factors: tuple[float, ...] = ()
    short_factors: tuple[float, ...] = ()
    mscale: float = 0.0
    mscale_all_dim: float = 0.0


@dataclass(frozen=True)
class Rotary:
    """Rotary angles for `dimensions` of each head (the rest is left alone)."""

    dimensions: int
    base: float = 10000.0
    scaling: RotaryScaling | None = None
    key: str = field(init=False, repr=False, compare=False)  # what its angles are remembered under; compiled code compares no objects

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"angles of {self!r}")

    def frequencies(self, longest: int = 0) -> tuple[Tensor, float]:
        """Angle per position for each pair, float32 [dimensions / 2], and the factor on cos and sin.

        `longest` is the length of the text so far; only longrope looks at it.
        """
        exponents = torch.arange(0, self.dimensions, 2, dtype=torch.int64).float() / self.dimensions
        inverse = 1.0 / (self.base**exponents)
        scaling = self.scaling
        if scaling is None:
            return inverse, 1.0
        match scaling.kind:
            case "linear":
                return inverse / scaling.factor, 1.0
            case "llama3":
                return _llama3(inverse, scaling), 1.0
            case "yarn":
                return _yarn(inverse, self, scaling)
            case "longrope":
                return _longrope(inverse, scaling, longest)
        raise ValueError(f"unknown rotary scaling {scaling.kind}")

    def apply(self, x_bhtd: Tensor, step: Step) -> Tensor:
        """Turns the first `dimensions` of every head by the angles of the step's positions."""
        cos, sin = self.angles(step)
        turned, rest = x_bhtd[..., : self.dimensions], x_bhtd[..., self.dimensions :]
        half = self.dimensions // 2
        first, second = turned[..., :half], turned[..., half:]
        swapped = torch.cat((-second, first), -1)
        out = (turned * cos + swapped * sin).to(x_bhtd.dtype)
        return torch.cat((out, rest), -1) if rest.shape[-1] else out

    def angles(self, step: Step) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the step's positions, each [b, 1, t, dimensions] ([1, ...] for texts that all begin at their first
        token); computed once a step."""
        return step.cached(self.key, lambda: self._angles(step))

    def _angles(self, step: Step) -> tuple[Tensor, Tensor]:
        if self.scaling is not None and self.scaling.kind == "longrope":
            # Each row's own length decides, so that a row does not depend on its neighbours.
            ends = [start + length for start, length in zip(step.starts, step.lengths, strict=True)]
            both = [self.frequencies(end) for end in ends]
            inverse, factor = torch.stack([frequencies for frequencies, _ in both])[:, None, None, :], both[0][1]
        else:
            inverse, factor = self.frequencies()
        alike = not step.slots and step.segments is None and inverse.dim() == 1
        positions = step.positions[:1] if alike else step.positions
        angles = positions.float()[:, None, :, None] * inverse.to(step.device)  # [b, 1, t, d/2]
        angles = torch.cat((angles, angles), -1)
        return angles.cos() * factor, angles.sin() * factor


def _llama3(inverse: Tensor, scaling: RotaryScaling) -> Tensor:
    wavelength = 2 * math.pi / inverse
    smooth = (scaling.original_context / wavelength - scaling.low) / (scaling.high - scaling.low)
    smooth = smooth.clamp(0, 1)  # 0: long waves, fully stretched; 1: short waves, untouched
    return (1 - smooth) * inverse / scaling.factor + smooth * inverse


def _yarn(inverse: Tensor, rotary: Rotary, scaling: RotaryScaling) -> tuple[Tensor, float]:
    def dimension_of(turns: float) -> float:
        return rotary.dimensions * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(rotary.base))

    low, high = dimension_of(scaling.high), dimension_of(scaling.low)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary.dimensions - 1)
    ramp = ((torch.arange(rotary.dimensions // 2).float() - low) / max(high - low, 0.001)).clamp(0, 1)
    stretched = ramp * inverse / scaling.factor + (1 - ramp) * inverse

    def length_factor(mscale: float) -> float:
        return 0.1 * mscale * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.attention_factor is not None:
        return stretched, scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return stretched, length_factor(scaling.mscale) / length_factor(scaling.mscale_all_dim)
    return stretched, length_factor(1.0)


def _longrope(inverse: Tensor, scaling: RotaryScaling, longest: int) -> tuple[Tensor, float]:
    divisors = scaling.long_factors if longest > scaling.original_context else scaling.short_factors
    if scaling.attention_factor is not None:
        factor = scaling.attention_factor
    elif scaling.factor <= 1:
        factor = 1.0
    else:
        factor = math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original_context))
    return inverse / torch.tensor(divisors), factor
