"""Recurrent depth: a few blocks before, a core that is looped as often as one likes, a few blocks after.

e = prelude(x);  s_1 = core(e);  s_i = core(e + norm(s_{i-1}));  y = coda(s_r)        (arXiv:2502.05171, section 3)

How often the core loops is drawn anew for every training step, from a log-normal Poisson distribution around `loops` (the paper's,
section 3.3), so that the model learns to make use of any number; afterwards a person chooses it (`with_loops`), and more loops mean more
thought without more weights. Gradients go back through the last `backward` loops alone.
Differences from the paper: the first state is the input's and not noise, so that one loop is the plain stack exactly; e is added, which the
paper finds as good as an adapter in small models.

Cost: operations and memory of the core for each loop; training costs on average what `loops` cost.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from steelyard.core.errors import RecipeError, UnsupportedError
from steelyard.model.cost import flops
from steelyard.model.depth.stacked import BlockPlan
from steelyard.model.depth.turns import Numbered
from steelyard.model.norms import NormPlan
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.state import State
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk

SPREAD = 0.5
"""Standard deviation of the logarithm of the mean that a training step's number of loops is drawn around."""
LONGEST = 4
"""Training draws at most so many times the mean number of loops."""


@dataclass(frozen=True)
class RecurrentDepthPlan:
    """`prelude` and `coda` count the first and the last of `blocks`; the others loop `loops` times.

    `random`: training draws the number of loops; `backward`: loops that gradients go through.
    """

    blocks: tuple[BlockPlan, ...]
    prelude: int
    coda: int
    loops: int
    random: bool = True
    backward: int = 8
    norm: NormPlan = NormPlan()

    def build(self, width: int) -> RecurrentDepth:
        return RecurrentDepth(width, self)


class RecurrentDepth(Numbered):
    """Runs the blocks in its middle as often as its plan says, or as training draws."""

    def __init__(self, width: int, plan: RecurrentDepthPlan):
        super().__init__(width, plan.blocks)
        self.plan = plan
        last = len(plan.blocks) - plan.coda
        self.prelude, self.core, self.coda = range(plan.prelude), range(plan.prelude, last), range(last, len(plan.blocks))
        self.norm = plan.norm.build(width)

    def forward(self, x: Tensor, step: Step, state: State | None) -> Tensor:
        loops = step.agreed(draw(self.plan.loops)) if self.training and self.plan.random else self.plan.loops
        told = self.through(x, step, state, self.prelude)
        x, first = told, max(0, loops - self.plan.backward) if torch.is_grad_enabled() else 0
        with torch.set_grad_enabled(torch.is_grad_enabled() and not first):
            x = self._looped(x, told, step, state, 0, first)
        x = self._looped(x if not first else x.detach(), told, step, state, first, loops)
        return self.through(x, step, state, self.coda)

    def _looped(self, x: Tensor, told: Tensor, step: Step, state: State | None, first: int, last: int) -> Tensor:
        """The core's loops from number `first` on, before number `last`."""
        for loop in range(first, last):
            x = self.through(told + self.norm(x) if loop else told, step, state, self.core, loop)
        return x

    def parts_with_memory(self) -> dict[str, Any]:
        """Pool's name -> part: one for each loop of the core."""
        around = self.memory_of([*self.prelude, *self.coda], 1)
        return around | self.memory_of(self.core, self.plan.loops)

    def flops(self, time: int) -> int:
        """Forward operations over a text of `time` tokens with the plan's number of loops, which is also training's mean."""
        turns = [self.plan.loops if index in self.core else 1 for index in range(len(self))]
        return sum(count * flops(block, time) for count, block in zip(turns, self, strict=True))


def draw(mean: int) -> int:
    """A number of loops from the process's random numbers (which the trainer keys by step): about `mean`, now and then many more."""
    if mean == 1:
        return 1
    rate = math.exp(float(torch.randn(())) * SPREAD + math.log(mean - 1) - SPREAD**2 / 2)
    return min(1 + int(torch.poisson(torch.tensor(rate))), LONGEST * mean)


def with_loops(trunk: Trunk, loops: int) -> Trunk:
    """The trunk with another number of loops. Weights are shared with the original, which stays as it is.

    Raises:
        UnsupportedError: it has no core to loop, or the number is not at least 1.
    """
    if not isinstance(trunk.plan.depth, RecurrentDepthPlan):
        raise UnsupportedError("this trunk has no core to loop", do="Loop a model made with `stack: recurrent_depth`.")
    if loops < 1:
        raise UnsupportedError(f"{loops} loops", do="A core loops at least once.")
    shared = {id(tensor): tensor for tensor in [*trunk.parameters(), *trunk.buffers()]}
    out = copy.deepcopy(trunk, shared)  # type: ignore[arg-type]
    plan = replace(trunk.plan.depth, loops=loops)
    out.plan, out.blocks.plan = replace(trunk.plan, depth=plan), plan  # type: ignore[assignment]
    return out


class RecurrentDepthLever(PartLever):
    """A looped core in a new decoder's depth."""

    name: ClassVar[str] = "recurrent_depth"
    idea: ClassVar[str] = (
        "The blocks in the middle are looped, a random number of times while the model learns, so that later one may choose how long it "
        "thinks about every token without saying anything."
    )
    equation: ClassVar[str] = "e = prelude(x);  s_1 = core(e);  s_i = core(e + norm(s_{i-1}));  y = coda(s_r)"
    paper: ClassVar[str] = "arXiv:2502.05171"
    cost: ClassVar[str] = "operations and memory of the core for every loop; weights of one"
    identity: ClassVar[Any] = "there is none that keeps the norm's weights unused: with one loop it computes what the plain stack does"
    place: ClassVar[Any] = "stack"

    prelude: int = Field(1, ge=0, le=1024, description="blocks before the core, of the plan's depth")
    coda: int = Field(1, ge=0, le=1024, description="blocks after it")
    loops: int = Field(4, ge=1, le=256, description="times the core runs; in training the mean of what is drawn")
    random: bool = Field(True, description="training draws the number of loops for every step; without, it is always the same")
    backward: int = Field(8, ge=1, le=256, description="loops that gradients go back through, the last ones")

    def plan(self, decoder: Decoder, layer: int) -> RecurrentDepthPlan:
        if self.prelude + self.coda >= decoder.depth:
            raise RecipeError(
                f"`recurrent_depth`: {self.prelude} blocks before and {self.coda} after leave none of {decoder.depth} to loop",
                do="Raise `depth`, or lower one of them.",
            )
        blocks = tuple(decoder.block(index) for index in range(decoder.depth))
        norm = decoder.norm_plan
        return RecurrentDepthPlan(blocks, self.prelude, self.coda, self.loops, self.random, self.backward, norm)
