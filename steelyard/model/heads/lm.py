"""The language-model head: hidden states to logits over the vocabulary, tied to the input table or with its own weights.

logits = softcap * tanh((W h + b) * scale / softcap); the cap only where a family has one (Gemma 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from steelyard.model.linears.linear import Linear
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.step import Step


@dataclass(frozen=True)
class LMHeadPlan:
    """`tied` reuses the token table; `softcap` bounds the logits; `bias` adds one per token."""

    vocabulary: int
    tied: bool = True
    softcap: float | None = None
    bias: bool = False

    def build(self, width: int, table: nn.Parameter) -> LMHead:
        return LMHead(width, self, table)


class LMHead(nn.Module):
    """h [..., width] -> float32 logits [..., vocabulary]."""

    def __init__(self, width: int, plan: LMHeadPlan, table: nn.Parameter):
        super().__init__()
        self.plan = plan
        self.linear = Linear(width, plan.vocabulary, plan.bias)
        if plan.tied:
            self.linear.storage.weight = table  # one parameter under two names

    def forward(self, h: Tensor, step: Step | None = None) -> Tensor:
        logits = self.linear(h, step).float()
        if self.plan.softcap is not None:
            logits = self.plan.softcap * torch.tanh(logits / self.plan.softcap)
        return logits


def log_probabilities(logits: Tensor) -> Tensor:
    """float32 log-softmax over the last dimension."""
    return F.log_softmax(logits.float(), -1)


class LMHeadLever(PartLever):
    """The next token's head of a new decoder."""

    name: ClassVar[str] = "lm"
    idea: ClassVar[str] = "The last vector is compared with every token's; how well they agree is how likely that token is to come next."
    equation: ClassVar[str] = "p = softmax(E x)"
    paper: ClassVar[str] = "arXiv:1706.03762; tied tables arXiv:1608.05859"
    cost: ClassVar[str] = "2 vocabulary width operations a token"
    identity: ClassVar[Any] = "there is none: it is what new decoders have unless they say otherwise"
    place: ClassVar[Any] = "head"

    softcap: float | None = Field(None, gt=0, description="logits stay within this; unset: they are free")

    def plan(self, decoder: Decoder, layer: int) -> LMHeadPlan:
        assert decoder.vocabulary is not None
        return LMHeadPlan(decoder.vocabulary, decoder.tied, self.softcap)
