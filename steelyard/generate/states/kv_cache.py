"""A cache of keys and values in 8, 4 or 2 bits: keys rounded per channel, values per token, the latest tokens in floats.

A few channels of keys are far larger than the rest, in every token alike, so a scale shared along a token is spoiled by them and a scale
shared along a channel is not; values have no such channels. What a query reads most, the latest tokens, stays as it is.

    x' = round((x - low) / scale) * scale + low,   scale = (max - low) / (2^bits - 1)
    keys: low and scale of one channel over `group` tokens;   values: of `group` channels of one token

Source: Z. Liu, J. Yuan, H. Jin, S. Zhong, Z. Xu, V. Braverman, B. Chen, X. Hu, KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV
Cache, arXiv:2402.02750, section 3.2; groups of 32 and a window of 128 are its settings. There a token's own prompt is read in floats
and rounded afterwards; here every query, of a prompt too, sees what lies `window` tokens behind it rounded, so that a text read in one
piece, in pieces, and token by token gives the same (`quantized.py` beside this file says how, and what going back costs).
Cost: whole steps in C++ (`model/fused.py`) multiply codes as they are, in about the time of a cache in bfloat16; the trunk's own PyTorch
path unpacks the whole cache of one layer at a time, at every step, which takes time and the memory of one layer in floats. Both read and write the same memory. A prompt goes through C++ in pieces of the ring's spare room, 64 tokens at the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from pydantic import Field

from steelyard.core.errors import UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.generate.spec import EngineSpec
from steelyard.generate.states.quantized import By, Quantized, Scheme

PLAIN = 16
"""The number of bits that means no rounding at all."""


class KvCache(Lever):
    """Keys and values in few bits."""

    name: ClassVar[str] = "kv_cache"
    idea: ClassVar[str] = (
        "Keys and values older than a recent window are kept in 8, 4 or 2 bits: keys rounded per channel, because a few channels are large "
        "in every token, values per token. Long contexts take a fraction of the memory."
    )
    equation: ClassVar[str] = "x' = round((x - min) / s) * s + min, s = (max - min) / (2^bits - 1); keys over tokens, values over channels"
    paper: ClassVar[str] = "arXiv:2402.02750"
    cost: ClassVar[str] = (
        "In C++ about the time of a cache in bfloat16, as codes are multiplied as they are (keys rounded by token, and values in groups of 8, "
        "are unpacked first, which is slower); PyTorch's path unpacks one layer's cache after the other, at every step, which is slow and takes "
        "one layer in floats. A prompt that shares only part of an earlier text is read anew."
    )
    main: ClassVar[str] = "bits"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    conflicts: ClassVar[frozenset[str]] = frozenset({"states"})
    provides: ClassVar[frozenset[str]] = frozenset({"states"})
    identity: ClassVar[dict] = {"bits": PLAIN}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"
    per_request: ClassVar[bool] = True

    bits: Literal[2, 4, 8, 16] = Field(4, description="bits of each key and value behind the window; 16 leaves the cache as it is")
    window: int = Field(128, ge=0, le=65_536, description="latest tokens that a query sees in floats, tokens (up to a group more)")
    group: Literal[8, 16, 32, 64, 128] = Field(32, description="numbers that share a scale, tokens for keys and channels for values")
    keys: Literal["channel", "token"] = Field(
        "channel", description="what of keys shares a scale; `token` is what the paper argues against"
    )

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """Has the engine keep its states so.

        Raises:
            UnsupportedError: another lever keeps them already.
        """
        if self.bits == PLAIN:
            return spec
        if spec.states is not None:
            raise UnsupportedError(
                f"states are kept in another way already ({spec.states.numerics})",
                where="kv_cache",
                do="Leave `kv_cache` out, or `states` of `offload`.",
            )
        return replace(spec, states=self.plan)

    @property
    def plan(self) -> FewBits:
        """How states are kept."""
        return FewBits(self.bits, self.window, self.group, self.keys)


@dataclass(frozen=True)
class FewBits:
    """A plan for an engine's states (`StatePlan`)."""

    bits: int
    window: int
    group: int
    keys: By

    @property
    def fingerprint(self) -> str:
        return digest(["kv_cache", self.bits, self.window, self.group, self.keys])

    @property
    def numerics(self) -> str:
        return f"{self.bits} bits, the last {self.window} tokens in floats"

    def storage(self, dtype: torch.dtype, device: torch.device, horizon: int) -> Quantized:
        return Quantized(Scheme(self.bits, self.window, self.group, max(horizon, BACK)), self.keys, dtype, device)


BACK = 64
"""Tokens one can go back at least: a conversation's next turn shares all but the last few tokens of the one before."""
