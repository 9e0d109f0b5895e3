"""Quantize to 8 bits: one scale per output channel for weights, one per token for activations, products in integers.

W8 = round(W / s), s = max|W_row| / 127. Weights rest in memory and on disk as int8; `torch._int_mm` multiplies them.
Source: LLM.int8's vector-wise quantization (arXiv:2208.07339, section 2.1.2). Where it keeps outlier columns in floats, activations
here have a second digit of 8 bits by default: on SmolLM2-135M, 8 bits of activation cost 1.6% bits per byte, 16 bits 0.1%.
Cost: linears take half the bytes of bfloat16; each call rounds its activations.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from steelyard.core.errors import UnsupportedError
from steelyard.core.levers import Lever
from steelyard.core.run import Run
from steelyard.model.linears.int8 import Int8Storage
from steelyard.model.linears.linear import Linear
from steelyard.model.model import Model


class Quantize(Lever):
    """Weights of linears in 8 bits, activations in 8 or 16."""

    name: ClassVar[str] = "quantize"
    idea: ClassVar[str] = (
        "Store each linear's weights as 8-bit integers with one scale per output channel, and round activations to one or two 8-bit "
        "digits per token as they arrive. Products are integer sums, so they are exact and fast; only the rounding costs quality."
    )
    equation: ClassVar[str] = "y = (round(x / s_x) round(W / s_w)^T) s_x s_w;  s = max|row| / 127"
    paper: ClassVar[str] = "arXiv:2208.07339"
    cost: ClassVar[str] = "Half the weight bytes of bfloat16 in linears; rounding of activations in every call; no calibration."
    main: ClassVar[str] = "bits"
    presets: ClassVar[dict] = {"int8": {"bits": 8}}
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    provides: ClassVar[frozenset[str]] = frozenset({"packed_weights"})
    conflicts: ClassVar[frozenset[str]] = frozenset({"packed_weights"})
    identity: ClassVar[str] = "none: rounding to 8 bits always changes weights; its effect is weighed, not assumed"
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"

    bits: Literal[8] = Field(8, description="bits per weight; 8 is what this lever stores and multiplies")
    activations: Literal[8, 16] = Field(16, description="bits per activation; 16 = two digits of 8, 8 = faster on many tokens, less exact")
    head: bool = Field(False, description="also the language-model head; a head tied to the token table is then kept twice")

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
            if not isinstance(module.storage, Int8Storage):
                try:
                    module.storage = Int8Storage.from_dense(module.weight, module.bias, self.activations // 8)
                except UnsupportedError as error:
                    raise error.at(f"{model.name}: `{name}`") from None
                count += 1
        if not count:
            raise UnsupportedError("there is no linear to quantize", where=model.name)
        if run is not None:
            run.log(f"quantize: {count} linears in {self.bits} bits{'' if head is None or self.head else ', head left as it is'}")
        if head is None or not self.head or not trunk.plan.heads["lm"].tied:  # type: ignore[union-attr]
            return model.with_trunk(trunk)
        # The packed head is no longer the token table, and what is saved must say so.
        head_plan = replace(trunk.plan.heads["lm"], tied=False)  # type: ignore[type-var]
        trunk.plan = replace(trunk.plan, heads={**trunk.plan.heads, "lm": head_plan})
        trunk.heads["lm"].plan = head_plan  # type: ignore[assignment]
        return model.with_trunk(trunk, config=dict(model.config) | {"tie_word_embeddings": False})
