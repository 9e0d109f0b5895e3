"""Reading a text for its hidden state alone: what the model holds after the final norm at the last token, as it is about to answer.

The text takes a slot like any other, so what a slot holds of it already is not read again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from steelyard.generate.host import Pass, Place
from steelyard.generate.scoring import Item, Scoring


class Reading(Scoring):
    """A text being read; `on_state` hears float32 [width], or why there is none. For the scheduler it is a text that is scored."""

    def __init__(self, tokens: list[int], on_state: Callable[[Tensor | str], None]):
        super().__init__([Item(tokens, len(tokens), 0)], lambda number, score: None)
        self.on_state = on_state

    @property
    def read_until(self) -> int:
        return len(self.tokens)

    @property
    def reusable(self) -> int:
        """The last token is read always: its state is wanted."""
        return self.read_until - 1

    def wanted(self, start: int, count: int) -> range:
        """No logits."""
        return range(0)

    def took(self, read: Pass, piece: int, start: int, count: int) -> None:
        """Tokens start..start + count have been read as a piece of a pass."""
        if start + count == self.read_until:
            self.finished = True
            self.on_state(read.at([Place(piece, count - 1)])[0].float().cpu().clone())

    def fail(self, message: str) -> None:
        self.finished = True
        self.on_state(message)

    def stop_early(self, reason: Literal["cancelled", "timeout"]) -> None:
        self.fail(reason)
