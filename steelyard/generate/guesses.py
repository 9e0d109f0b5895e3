"""Guesses of tokens ahead, which the engine verifies in one pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


class SpeculationSession(Protocol):
    """Guesses for one sequence."""

    def propose(self, most: int) -> list[int]:
        """At most `most` tokens that may come next."""
        ...

    def advance(self, tokens: list[int]) -> None:
        """These tokens have really come."""
        ...


class Speculation(Protocol):
    """Makes guesses that the engine verifies in one pass. `horizon` is the longest guess."""

    horizon: int

    @property
    def fingerprint(self) -> str: ...

    def start(self, tokens: list[int]) -> SpeculationSession: ...


@dataclass(frozen=True)
class Draft:
    """Guesses for one sequence.

    Attributes:
        tokens: the guess.
        probabilities: where it was sampled, float32 [len(tokens), vocabulary]: what each token was drawn from, after processors and
            filters; it is then judged by `rejection.py`. None: a guess counts if it is the token plain decoding draws.
    """

    tokens: list[int] = field(default_factory=list)
    probabilities: Tensor | None = None
