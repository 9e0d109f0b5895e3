"""Token inputs: a row of a table for each token id, plus learned positions and token types where a family has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from steelyard.core.errors import ContextLengthError
from steelyard.model.norms import NormPlan
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.step import Step


class RowStorage(Protocol):
    """A table kept in another way than as plain floats."""

    def rows(self, ids: Tensor) -> Tensor:
        """float32 [n, width]"""
        ...


@dataclass(frozen=True)
class TokensPlan:
    """Settings of the token inputs.

    Attributes:
        vocabulary: rows of the table.
        scale: factor on token vectors (Gemma: sqrt(width)).
        positions: rows of a learned position table; 0 = none.
        types: rows of a token-type table (BERT; every token is of type 0); 0 = none.
        norm: normalisation of the sum, or None.
    """

    vocabulary: int
    scale: float = 1.0
    positions: int = 0
    types: int = 0
    norm: NormPlan | None = None

    def build(self, width: int) -> Tokens:
        return Tokens(width, self)


class Tokens(nn.Module):
    """ids int64 [b, t] -> [b, t, width] in `stream` (the residual stream's type)."""

    def __init__(self, width: int, plan: TokensPlan):
        super().__init__()
        self.plan = plan
        self.stream = torch.float32
        self.weight = nn.Parameter(torch.empty(plan.vocabulary, width))
        self.kept: Any = None  # a `RowStorage` in the place of `weight`, which then has no rows
        self.positions = nn.Parameter(torch.empty(plan.positions, width)) if plan.positions else None
        self.types = nn.Parameter(torch.empty(plan.types, width)) if plan.types else None
        for table in (self.weight, self.positions, self.types):
            if table is not None and not table.is_meta:
                nn.init.normal_(table, std=0.02)
        self.norm = plan.norm.build(width) if plan.norm else None

    def keep_in(self, storage: RowStorage) -> None:
        """Looks tokens up in a storage from now on."""
        self.kept = storage
        self.weight = nn.Parameter(self.weight.detach()[:0].clone(), requires_grad=False)

    def shares(self, storage: Any) -> bool:
        """Whether a head's storage holds this very table."""
        return storage is self.kept if self.kept is not None else getattr(storage, "weight", None) is self.weight

    def _rows(self, ids_bt: Tensor) -> Tensor:
        if self.kept is None:
            return F.embedding(ids_bt, self.weight)
        return self.kept.rows(ids_bt.reshape(-1)).view(*ids_bt.shape, -1)

    def forward(self, ids_bt: Tensor, step: Step) -> Tensor:
        x = self._rows(ids_bt).to(self.stream)
        if self.plan.scale != 1.0:
            x = x * self.plan.scale
        if self.positions is not None:
            longest = max(start + length for start, length in zip(step.starts, step.lengths, strict=True))
            if longest > self.plan.positions:
                raise ContextLengthError(
                    f"{longest} tokens, but the model has {self.plan.positions} learned positions", do="Shorten the text."
                )
            x = x + F.embedding(step.positions.clamp(max=self.plan.positions - 1), self.positions).to(x.dtype)
        if self.types is not None:
            x = x + self.types[0].to(x.dtype)
        return x if self.norm is None else self.norm(x)


class TokensLever(PartLever):
    """A table of vectors as a new decoder's inputs."""

    name: ClassVar[str] = "tokens"
    idea: ClassVar[str] = "Each token is a row of a learned table; with `learned` positions a row of a second table tells where it stands."
    equation: ClassVar[str] = "x_t = E[id_t] (+ P[t])"
    paper: ClassVar[str] = "arXiv:1706.03762"
    cost: ClassVar[str] = "vocabulary times width weights; nothing to compute"
    identity: ClassVar[Any] = "there is none: it is what new decoders have unless they say otherwise"
    place: ClassVar[Any] = "inputs"

    positions: Literal["none", "learned"] = Field("none", description="learned positions; none where the mixer tells them")
    norm: bool = Field(False, description="normalise token vectors before the first block (RWKV)")

    def plan(self, decoder: Decoder, layer: int) -> TokensPlan:
        assert decoder.vocabulary is not None
        positions = decoder.context if self.positions == "learned" else 0
        return TokensPlan(decoder.vocabulary, positions=positions, norm=decoder.norm_plan if self.norm else None)
