"""Quantize to 8 or 4 bits, or to 8-bit floats, by rounding alone: nothing is calibrated, nothing is learned.

8 bits: one scale per output channel, W8 = round(W / s), s = max|W_row| / 127 (`linears/int8.py`). Source: LLM.int8's vector-wise
quantization (arXiv:2208.07339, section 2.1.2). Where it keeps outlier columns in floats, activations here have a second digit of 8
bits by default: on SmolLM2-135M, 8 bits of activation cost 1.6% bits per byte, 16 bits 0.1%.
4 bits: one scale for each 32 inputs, chosen by its squared error; activations in 8 bits for each 32 (`linears/int4.py`).
fp8: 8-bit floats with one scale per output channel; activations likewise per token, or as they come (`linears/float8.py`): the form
that GPUs multiply fastest (arXiv:2209.05433).
Weights rest in memory and on disk as they are rounded, and are multiplied so. Cost: linears take a half (8 bits, fp8) or 28% (4 bits)
of bfloat16's bytes; each call rounds its activations.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from steelyard.core.errors import UnsupportedError
from steelyard.core.levers import Lever
from steelyard.core.run import Run
from steelyard.model.linears.float8 import Float8Storage
from steelyard.model.linears.int4 import Int4Storage
from steelyard.model.linears.int8 import Int8Storage
from steelyard.model.linears.linear import Linear
from steelyard.model.linears.ternary import PackedTernaryStorage, TernaryStorage
from steelyard.model.model import Model


class Quantize(Lever):
    """Weights of linears in 8 or 4 bits, or in 8-bit floats."""

    name: ClassVar[str] = "quantize"
    idea: ClassVar[str] = (
        "Store each linear's weights as 8-bit integers with one scale per output channel, or as 4-bit integers with one for each 32 "
        "inputs, and round activations to one or two 8-bit digits as they arrive. Products are integer sums, so they are fast; only the "
        "rounding costs quality. `fp8` keeps 8-bit floats instead, which recent GPUs multiply as they are."
    )
    equation: ClassVar[str] = (
        "y = (round(x / s_x) round(W / s_w)^T) s_x s_w;  8 bits: s = max|row| / 127;  4 bits: s = argmin |W - s W4|^2;  fp8: s = max|row| / 448"
    )
    paper: ClassVar[str] = "arXiv:2208.07339; groups of 4 bits: arXiv:2210.17323, section 5; 8-bit floats: arXiv:2209.05433"
    cost: ClassVar[str] = "Half the weight bytes of bfloat16 in linears, or 28%; rounding of activations in every call; no calibration."
    main: ClassVar[str] = "bits"
    presets: ClassVar[dict] = {"int8": {"bits": 8}, "int4": {"bits": 4}, "fp8": {"bits": "fp8"}}
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    provides: ClassVar[frozenset[str]] = frozenset({"packed_weights"})
    conflicts: ClassVar[frozenset[str]] = frozenset({"packed_weights"})
    identity: ClassVar[str] = "none: rounding always changes weights; its effect is weighed, not assumed"
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"

    bits: Literal[4, 8, "fp8"] = Field(8, description="bits per weight, as they are stored and multiplied; fp8: 8-bit floats (e4m3)")
    activations: Literal[8, 16] | None = Field(
        None,
        description="bits per activation; unset: 16 (two digits of 8) beside weights of 8 bits, 8 for each 32 beside those of 4, 8 beside "
        "fp8, where 16 leaves them as they are",
    )
    head: bool = Field(False, description="also the language-model head; a head tied to the token table is then kept twice")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.bits == 4 and self.activations == 16:
            raise ValueError("`activations` of 16 bits go with weights of 8; beside those of 4 bits they have 8")
        return self

    def compress(self, model: Model, calibration: object, run: Run | None = None) -> Model:
        """The model with packed linears. The original is left as it was; what is not packed is shared with it."""
        head = model.trunk.heads["lm"].linear if "lm" in model.trunk.heads else None
        shared = {id(tensor): tensor for tensor in [*model.trunk.parameters(), *model.trunk.buffers()]}
        trunk = copy.deepcopy(model.trunk, shared)  # type: ignore[arg-type]
        count = 0
        for name, module in trunk.named_modules():
            if not isinstance(module, Linear) or (name == "heads.lm.linear" and not self.head):
                continue
            if module.branches:
                raise UnsupportedError(f"`{name}` has branches that are not merged", where=model.name, do="Merge the adapter first.")
            if isinstance(module.storage, TernaryStorage | PackedTernaryStorage):
                raise UnsupportedError(
                    f"`{name}` is ternary already", where=model.name, do="Save the model: 2 bits a weight are what it keeps."
                )
            if not isinstance(module.storage, Int8Storage | Int4Storage | Float8Storage):
                try:
                    module.storage = self._packed(module)
                except UnsupportedError as error:
                    raise error.at(f"{model.name}: `{name}`") from None
                count += 1
        if not count:
            raise UnsupportedError("there is no linear to quantize", where=model.name)
        if run is not None:
            run.log(
                f"quantize: {count} linears in {self.bits if self.bits == 'fp8' else f'{self.bits} bits'}{'' if head is None or self.head else ', head left as it is'}"
            )
        if head is None or not self.head or not trunk.plan.heads["lm"].tied:  # type: ignore[union-attr]
            return model.with_trunk(trunk)
        # The packed head is no longer the token table, and what is saved must say so.
        head_plan = replace(trunk.plan.heads["lm"], tied=False)  # type: ignore[type-var]
        trunk.plan = replace(trunk.plan, heads={**trunk.plan.heads, "lm": head_plan})
        trunk.heads["lm"].plan = head_plan  # type: ignore[assignment]
        return model.with_trunk(trunk, config=dict(model.config) | {"tie_word_embeddings": False})

    def _packed(self, linear: Linear) -> Int8Storage | Int4Storage | Float8Storage:
        if self.bits == "fp8":
            return Float8Storage.from_dense(linear.weight, linear.bias, self.activations != 16)
        if self.bits == 4:
            return Int4Storage.from_dense(linear.weight, linear.bias)
        return Int8Storage.from_dense(linear.weight, linear.bias, (self.activations or 16) // 8)
