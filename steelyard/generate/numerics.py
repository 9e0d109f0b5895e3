"""Numerics: in which type an engine multiplies weights, with activations and a cache to match.

One model's file can be run in several ways that differ in memory, speed and rounding: its weights as floats of 32 or 16 bits, or, where
it is a GGUF file of blocks, as these blocks are (weights of 4 to 8 bits, activations in 8 bits for each 32 numbers, keys and values in
bfloat16). An engine declares one way for reading, answering and scoring; this lever chooses it, so that the ways can be weighed against one another.
Formats: https://github.com/ggml-org/ggml; the numbers behind the default are in docs/lab-notes.md.
Cost: `stored` is for answering only, and its rounding turns close answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from steelyard.core.errors import UnsupportedError
from steelyard.core.levers import Lever
from steelyard.generate.spec import EngineSpec
from steelyard.model.linears.blocks import block_types


class Numerics(Lever):
    """The type an engine multiplies in."""

    name: ClassVar[str] = "numerics"
    idea: ClassVar[str] = (
        "The same weights are multiplied as floats of 32 or 16 bits, or as the blocks a GGUF file keeps them in: less memory to read for "
        "every token, at the price of rounding."
    )
    equation: ClassVar[str] = "stored: y = sum over blocks of s_x s_w (q_w . q_x) + m_w sum(x); bfloat16: products of 16 bits, sums of 32"
    paper: ClassVar[str] = "https://github.com/ggml-org/ggml (block formats); arXiv:1905.12322 (bfloat16)"
    cost: ClassVar[str] = (
        "`stored` needs a GGUF file of blocks and rounds activations to 8 bits; `float32` reads twice what `bfloat16` reads."
    )
    main: ClassVar[str] = "type"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    conflicts: ClassVar[frozenset[str]] = frozenset({"numerics", "offload"})
    provides: ClassVar[frozenset[str]] = frozenset({"numerics"})
    identity: ClassVar[dict] = {"type": "auto"}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"
    per_request: ClassVar[bool] = False

    type: Literal["auto", "float32", "bfloat16", "stored"] = Field(
        "stored", description="`stored` keeps a GGUF file's blocks; `auto` is what the engine takes by itself"
    )

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """The spec in this type.

        Raises:
            UnsupportedError: `stored`, and the model does not come from a file of blocks, or was changed since.
        """
        if self.type == "auto":
            return spec
        if self.type != "stored":
            return replace(spec, dtype=self.type)
        if not block_types(spec.model.trunk):
            raise UnsupportedError(
                f"{spec.model.name} is not kept in blocks",
                where="numerics",
                do="Name a .gguf file of blocks (Q4_0 to Q6_K) as the base, without levers that change its weights.",
            )
        return replace(spec, dtype=None)


def stays_stored(levers: Sequence[Lever]) -> bool:
    """Whether an arm's model is loaded with its blocks as they are."""
    return any(isinstance(lever, Numerics) and lever.type == "stored" for lever in levers)
