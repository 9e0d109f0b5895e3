"""What stacks that run blocks more than once share: blocks under their numbers, and memory for each time they run.

A block that runs n times over a text sees other keys and states each time, so each of its turns has a pool of its own:
`blocks.1.mixer` for the first, `turn 1 of blocks.1.mixer` for the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from steelyard.core.errors import UnsupportedError
from steelyard.model.depth.stacked import Block, BlockPlan
from steelyard.model.state import State
from steelyard.model.step import Step


def pool_name(part: str, turn: int) -> str:
    """The pool of a part's turn, counted from 0."""
    return f"turn {turn} of {part}" if turn else part


@dataclass(frozen=True)
class TurnState:
    """A trunk's state as the blocks of one turn see it."""

    state: State
    turn: int

    def __contains__(self, part: str) -> bool:
        return pool_name(part, self.turn) in self.state

    def __getitem__(self, part: str) -> Any:
        return self.state[pool_name(part, self.turn)]


class Numbered(nn.Module):
    """Blocks 0, 1, ... by which subclasses lead the stream; other modules and parameters may stand beside them."""

    def __init__(self, width: int, plans: Sequence[BlockPlan]):
        super().__init__()
        self.count = len(plans)
        for index, plan in enumerate(plans):
            self.add_module(str(index), Block(width, plan, f"blocks.{index}"))

    def __iter__(self) -> Iterator[Block]:
        return iter([self[index] for index in range(self.count)])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Block:
        block: Any = self.get_submodule(str(index))
        return block

    def through(self, x: Tensor, step: Step, state: State | None, blocks: Sequence[int], turn: int = 0) -> Tensor:
        """The stream after some of the blocks, in one of their turns."""
        refuse_leaving_out(step)
        seen: Any = None if state is None else TurnState(state, turn)
        for index in blocks:
            x = self[index](x, step, seen)
        return x

    def memory_of(self, blocks: Sequence[int], turns: int) -> dict[str, Any]:
        """Pool's name -> part, for every turn of every part with memory in these blocks."""
        parts = {f"blocks.{index}.{kind}": getattr(self[index], kind) for index in blocks for kind in ("mixer", "channel")}
        return {pool_name(name, turn): part for turn in range(turns) for name, part in parts.items() if hasattr(part, "new_pool")}


def refuse_leaving_out(step: Step) -> None:
    """Blocks that are no plain stack cannot be left out one by one.

    Raises:
        UnsupportedError: the call's program wants it.
    """
    if step.program is not None and (step.program.skip or step.program.stop is not None):
        raise UnsupportedError(
            "a program leaves blocks out of a trunk that is no plain stack", do="Leave out early exits and self-speculation."
        )
