"""Parts of a new decoder as levers: a mixer, a channel, a way to stack blocks, inputs, a head, a way to keep weights.

A part's settings are what a person chooses; `plan` turns them into the exact plan that a trunk is built from (`new.py`).
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

from steelyard.core.levers import Lever
from steelyard.model.norms import NormPlan

Place = Literal["mixer", "channel", "linears", "stack", "inputs", "head"]


class Decoder(Protocol):
    """What a part may ask of the decoder it is planned for (`new.DecoderPlan`, which says what each is)."""

    @property
    def width(self) -> int: ...

    @property
    def depth(self) -> int: ...

    @property
    def context(self) -> int: ...

    @property
    def vocabulary(self) -> int | None: ...

    @property
    def tied(self) -> bool: ...

    @property
    def norm_plan(self) -> NormPlan: ...

    def mixer_of(self, layer: int) -> PartLever: ...

    def block(self, layer: int) -> Any:
        """The exact plan of one block."""
        ...

    def with_part(self, part: PartLever) -> Self: ...


D = TypeVar("D", bound=Decoder)


class PartLever(Lever):
    """A part of a decoder.

    Class variables:
        place: which part of the plan it is.
        alone: a mixer whose blocks have no channel unless the plan names one (Mamba).
        causal: false of a mixer that sees later tokens whatever its settings: encoders take it, decoders refuse it.
    """

    place: ClassVar[Place]
    alone: ClassVar[bool] = False
    causal: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()
    evidence: ClassVar[Any] = "mechanism"
    cost: ClassVar[str] = "trained from scratch"

    def build(self, plan: D) -> D:
        """The plan with this part in the place of what stood there (in every block)."""
        return plan.with_part(self)

    @abc.abstractmethod
    def plan(self, decoder: Decoder, layer: int) -> Any:
        """The exact plan of this part in one layer of a decoder.

        Raises:
            RecipeError: it does not fit the decoder's sizes.
        """

    @property
    def learns_from(self) -> str | None:
        """A corpus that must be read before the part can be built; None where there is none."""
        return None

    def learned(self, texts: Iterable[str]) -> Self:
        """The part with what it took from the corpus in its settings."""
        return self
