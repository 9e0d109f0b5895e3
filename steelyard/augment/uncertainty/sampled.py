"""What measures have in common that answer a question several times and compare what was said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from steelyard.augment.uncertainty.meanings import Same, equal_words, judged_by
from steelyard.augment.uncertainty.measure import Asked
from steelyard.core.protocols import Answerer


@dataclass(frozen=True)
class Sampled:
    """A measure that draws further answers.

    Attributes:
        count: samples, N.
        temperature: they are drawn at.
        judge: asked whether two answers mean the same; None: equal words do.
    """

    count: int = 5
    temperature: float = 1.0
    judge: Answerer | None = None
    needs: ClassVar[frozenset[str]] = frozenset()
    tokens: ClassVar[bool] = False
    alternatives: ClassVar[int] = 0

    async def samples(self, asked: Asked) -> list[str]:
        """N further answers."""
        return list(await asked.samples(self.count, self.temperature))

    def same(self, asked: Asked) -> Same:
        """How answers to what is asked are compared."""
        question = next((message.content for message in reversed(asked.conversation) if message.role == "user"), "")
        return equal_words if self.judge is None else judged_by(self.judge, question)
