"""Stacked depth: blocks one after the other, each adding what its mixer and channel say to the residual stream.

Where norms stand, per family:
sequential, before:   x += mixer(norm(x));  x += channel(norm(x))            (Llama; `after` norms too: Gemma 2, OLMo 2)
parallel:             x += mixer(norm1(x)) + channel(norm2(x))               (GPT-NeoX)
after the residual:   x = norm(x + mixer(x));  x = norm(x + channel(x))      (BERT)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from steelyard.model.norms import NormPlan
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.state import State
from steelyard.model.step import Step


class PartPlan(Protocol):
    """Settings of a mixer or a channel that can build it."""

    def build(self, width: int) -> nn.Module: ...


@dataclass(frozen=True)
class BlockPlan:
    """One block.

    Attributes:
        mixer, channel: plans of its parts; a block without a channel (Mamba) has None.
        before: norm ahead of each part, or None.
        after: norm of each part's output before it joins the stream, or None.
        residual: see the module's docstring; `after_residual` uses `before`'s plan for the norms after the sums.
    """

    mixer: PartPlan
    channel: PartPlan | None
    before: NormPlan | None = NormPlan()
    after: NormPlan | None = None
    residual: Literal["sequential", "parallel", "after_residual"] = "sequential"


class Block(nn.Module):
    """x [b, t, width] -> [b, t, width]."""

    def __init__(self, width: int, plan: BlockPlan, name: str):
        super().__init__()
        self.plan, self.name = plan, name
        self.mixer = plan.mixer.build(width)
        self.channel = plan.channel.build(width) if plan.channel else None
        self.mixer_norm = plan.before.build(width) if plan.before else None
        self.channel_norm = plan.before.build(width) if plan.before and plan.channel else None
        self.mixer_after = plan.after.build(width) if plan.after else None
        self.channel_after = plan.after.build(width) if plan.after and plan.channel else None

    def forward(self, x: Tensor, step: Step, state: State | None) -> Tensor:
        program = step.program
        if program:
            x = program.at(f"{self.name}.input", x)
        if self.plan.residual == "parallel":
            mixed = self._mix(_normed(self.mixer_norm, x), step, state)
            return x + mixed + self._channel(_normed(self.channel_norm, x), step, state)
        if self.plan.residual == "after_residual":
            x = _normed(self.mixer_norm, x + self._mix(x, step, state))
            return _normed(self.channel_norm, x + self._channel(x, step, state))
        x = x + _normed(self.mixer_after, self._mix(_normed(self.mixer_norm, x), step, state))
        if self.channel is None:
            return x
        return x + _normed(self.channel_after, self._channel(_normed(self.channel_norm, x), step, state))

    def _mix(self, x: Tensor, step: Step, state: State | None) -> Tensor:
        return _through(self.mixer, f"{self.name}.mixer", x, step, state)

    def _channel(self, x: Tensor, step: Step, state: State | None) -> Tensor:
        return _through(self.channel, f"{self.name}.channel", x, step, state)


def _through(part: Any, name: str, x: Tensor, step: Step, state: State | None) -> Tensor:
    """A part's output, from and to its memory where it has one, and what the program does there."""
    y = part(x, step, state[name]) if state is not None and name in state else part(x, step)
    return step.program.at(name, y) if step.program else y


def _normed(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


@dataclass(frozen=True)
class StackedPlan:
    """The blocks, in order."""

    blocks: tuple[BlockPlan, ...]

    def build(self, width: int) -> Stacked:
        return Stacked(width, self)


class Stacked(nn.ModuleList):
    """Runs its blocks in order; a site program may skip blocks or stop early."""

    def __init__(self, width: int, plan: StackedPlan):
        super().__init__(Block(width, block, f"blocks.{index}") for index, block in enumerate(plan.blocks))
        self.plan = plan

    def forward(self, x: Tensor, step: Step, state: State | None) -> Tensor:
        for index, block in enumerate(self):
            if step.program is None:
                x = block(x, step, state)
            elif step.program.computes(index):
                x = step.program.after_block(index, x, block(x, step, state))
        return x

    def parts_with_memory(self) -> dict[str, Any]:
        """Name -> part, for every part that has a pool."""
        parts = {f"{block.name}.{kind}": getattr(block, kind) for block in self for kind in ("mixer", "channel")}
        return {name: part for name, part in parts.items() if hasattr(part, "new_pool")}


class StackedLever(PartLever):
    """Blocks one after the other, as a new decoder has them."""

    name: ClassVar[str] = "stacked"
    idea: ClassVar[str] = "Blocks follow each other, each with weights of its own, each adding what it has to say to one stream."
    equation: ClassVar[str] = "x <- x + mixer(norm(x));  x <- x + channel(norm(x))"
    paper: ClassVar[str] = "arXiv:1706.03762"
    cost: ClassVar[str] = "the sum of the blocks"
    identity: ClassVar[Any] = "there is none: it is what new decoders have unless they say otherwise"
    place: ClassVar[Any] = "stack"

    def plan(self, decoder: Decoder, layer: int) -> StackedPlan:
        return StackedPlan(tuple(decoder.block(index) for index in range(decoder.depth)))
