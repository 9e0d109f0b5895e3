"""What a detector that errs is known to do: how many labelled examples it got right.

A share p of detections is not the share pi of what it detects. With its sensitivity Se and specificity Sp,

    pi = (p + Sp - 1) / (Se + Sp - 1)        W. Rogan & B. Gladen, American Journal of Epidemiology 107 (1978)

Se and Sp are themselves shares of few examples, so their doubt belongs into the interval (`weigh/statistics/corrected.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Detector:
    """A detector with its errors, as counted on labelled examples.

    Attributes:
        name: what it detects, for notes.
        hits: labelled positives that it detected.
        positives: labelled positives.
        false_alarms: labelled negatives that it took for positives.
        negatives: labelled negatives.
        source: whose labels these are.
    """

    name: str
    hits: int
    positives: int
    false_alarms: int
    negatives: int
    source: str = ""

    def __post_init__(self) -> None:
        if not (0 <= self.hits <= self.positives and 0 <= self.false_alarms <= self.negatives and self.positives and self.negatives):
            raise ValueError(f"no counts of a detector: {self}")

    @classmethod
    def measured(cls, name: str, found: Iterable[tuple[bool, bool]], source: str = "") -> Detector:
        """From (label, what the detector said) of each labelled example.

        Raises:
            ValueError: there are no positives, or no negatives.
        """
        pairs = list(found)
        return cls(
            name,
            sum(said for label, said in pairs if label),
            sum(label for label, _ in pairs),
            sum(said for label, said in pairs if not label),
            sum(not label for label, _ in pairs),
            source,
        )

    @property
    def sensitivity(self) -> float:
        """Share of positives that it detects."""
        return self.hits / self.positives

    @property
    def specificity(self) -> float:
        """Share of negatives that it lets pass."""
        return 1 - self.false_alarms / self.negatives

    @property
    def youden(self) -> float:
        """Se + Sp - 1: 1 for a detector without error, 0 for a coin."""
        return self.sensitivity + self.specificity - 1

    def corrected(self, share: float) -> float:
        """The true share that such a share of detections speaks for, within [0, 1].

        Raises:
            ValueError: it is no better than a coin.
        """
        if self.youden <= 0:
            raise ValueError(f"{self.name} is no better than a coin")
        return min(1.0, max(0.0, (share + self.specificity - 1) / self.youden))
