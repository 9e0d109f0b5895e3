"""Parts of a new decoder as levers: a mixer, a channel, a way to stack blocks, inputs, a head, a way to keep weights.

A part's settings are what a person chooses; `plan` turns them into the exact plan that a trunk is built from (`new.py`).
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from steelyard.core.levers import Lever

if TYPE_CHECKING:
    from steelyard.model.new import DecoderPlan
    from steelyard.model.trunk import TrunkPlan

Place = Literal["mixer", "channel", "linears", "stack", "inputs", "head"]


class PartLever(Lever):
    """A part of a decoder.

    Class variables:
        place: which part of the plan it is.
        alone: a mixer whose blocks have no channel unless the plan names one (Mamba).
    """

    place: ClassVar[Place]
    alone: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    evidence: ClassVar[Any] = "mechanism"
    cost: ClassVar[str] = "trained from scratch"

    def build(self, plan: DecoderPlan) -> DecoderPlan:
        """The plan with this part in the place of what stood there (in every block)."""
        return plan.with_part(self)

    @abc.abstractmethod
    def plan(self, decoder: DecoderPlan, layer: int) -> Any:
        """The exact plan of this part in one layer of a decoder.

        Raises:
            RecipeError: it does not fit the decoder's sizes.
        """

    def around(self, decoder: DecoderPlan, trunk: TrunkPlan) -> TrunkPlan:
        """Asked of inputs alone: the plan of the whole, changed where they take tokens together before the blocks see them."""
        return trunk

    @property
    def learns_from(self) -> str | None:
        """A corpus that must be read before the part can be built; None where there is none."""
        return None

    def learned(self, texts: Iterable[str]) -> Self:
        """The part with what it took from the corpus in its settings."""
        return self
