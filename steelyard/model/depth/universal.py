"""Universal transformer: the same blocks over and over, and each token decides by itself how many turns it takes.

s_n = blocks(s_{n-1} + turn_n);  p_n = sigmoid(w s_n + b);  N = the first n where p_1 + ... + p_n reaches 1 - epsilon, or the last turn
y = sum_{n<N} p_n s_n + R s_N,  R = 1 - sum_{n<N} p_n          (adaptive computation time, arXiv:1603.08983, eqs. 5 to 14; in depth: arXiv:1807.03819)

A token that has halted keeps its state, and later tokens go on reading it. In training the ponder cost a (N + R), a mean over tokens, asks
for few turns; N has no gradient, R has. `halting: false` is the control: every token takes all turns and the last state goes on.

Cost: at most `turns` times the blocks' operations, with the weights of one turn, and memory of one text for each turn. A whole text stops
when all its tokens have halted; generating computes all turns, because later tokens may read the states of any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from steelyard.model.activations import activate
from steelyard.model.cost import flops
from steelyard.model.depth.stacked import BlockPlan
from steelyard.model.depth.turns import Numbered
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.state import State
from steelyard.model.step import Step

TAKEN = "turns"
"""Under this name a call's `carry` holds how many turns each token took, int64 [b, t]."""


@dataclass(frozen=True)
class UniversalPlan:
    """`blocks` are shared by at most `turns` turns; `halting`: tokens stop by themselves; `ponder`: weight of the cost of turns."""

    blocks: tuple[BlockPlan, ...]
    turns: int
    halting: bool = True
    ponder: float = 0.01
    epsilon: float = 0.01

    def build(self, width: int) -> Universal:
        return Universal(width, self)


class Universal(Numbered):
    """Runs its blocks again and again."""

    vector_parameters = ("turn",)

    def __init__(self, width: int, plan: UniversalPlan):
        super().__init__(width, plan.blocks)
        self.plan = plan
        self.turn = nn.Parameter(torch.zeros(plan.turns, width))
        self.halt = nn.Parameter(torch.zeros(width)) if plan.halting else None
        self.halt_bias = nn.Parameter(torch.ones(1)) if plan.halting else None

    def reset(self, generator: torch.Generator) -> Sequence[nn.Parameter]:
        """Tokens begin with sigmoid(1) = 0.73 a turn, so that most take two (arXiv:1603.08983 favours few turns in the same way)."""
        if self.halt is not None and self.halt_bias is not None:
            self.halt.copy_(torch.randn(self.halt.shape, generator=generator) / len(self.halt) ** 0.5)
            self.halt_bias.fill_(1.0)
        return [parameter for parameter in (self.halt, self.halt_bias) if parameter is not None]

    def forward(self, x: Tensor, step: Step, state: State | None) -> Tensor:
        turns = range(self.plan.turns)
        if self.halt is None:
            for turn in turns:
                x = self.through(x + self.turn[turn].to(x.dtype), step, state, range(len(self)), turn)
            step.carry[TAKEN] = torch.full(x.shape[:2], len(turns), device=x.device)
            return x
        halting, y = Halting(x.shape[:2], self.plan.epsilon, x.device), torch.zeros_like(x)
        for turn in turns:
            after = self.through(x + self.turn[turn].to(x.dtype), step, state, range(len(self)), turn)
            x = torch.where(halting.still[:, :, None], after, x)
            weight = halting.weigh(self._probability(x, step), last=turn + 1 == len(turns))
            y = y + weight[:, :, None].to(x.dtype) * x
            if state is None and not bool(step.total(halting.still.any().float())):
                break
        step.carry[TAKEN] = halting.turns
        if self.training and self.plan.ponder:
            cost = halting.turns + halting.rest
            step.losses.append(("ponder", self.plan.ponder * step.mean_share(cost.flatten() if step.real is None else cost[step.real])))
        return y

    def _probability(self, x: Tensor, step: Step) -> Tensor:
        """Of halting now, float32 [b, t]. A sum of products term by term in each row: no matrix library, so rows stay apart."""
        assert self.halt is not None and self.halt_bias is not None
        return activate(torch.sigmoid, (x.float() * self.halt.float()).sum(-1) + self.halt_bias.float(), step.deterministic)

    def parts_with_memory(self) -> dict[str, Any]:
        """Pool's name -> part: one for each turn."""
        return self.memory_of(range(len(self)), self.plan.turns)

    def flops(self, time: int) -> int:
        """Forward operations over a text of `time` tokens that take all turns."""
        return self.plan.turns * sum(flops(block, time) for block in self)


class Halting:
    """Which tokens go on, and what their states weigh. Turn after turn, `weigh` is given the probabilities of halting [b, t].

    Attributes:
        still: tokens that have not halted, bool [b, t].
        turns: turns each token took so far, int64 [b, t].
        rest: R of the tokens that have halted, float32 [b, t].
    """

    def __init__(self, shape: Sequence[int], epsilon: float, device: torch.device):
        self.epsilon = epsilon
        self.still = torch.ones(*shape, dtype=torch.bool, device=device)
        self.turns = torch.zeros(*shape, dtype=torch.int64, device=device)
        self.spent, self.rest = torch.zeros(*shape, device=device), torch.zeros(*shape, device=device)

    def weigh(self, probability: Tensor, *, last: bool) -> Tensor:
        """What this turn's states weigh, float32 [b, t]: a token's weights sum to 1 over its turns, and are 0 once it has halted."""
        ends = self.still & (torch.ones_like(self.still) if last else self.spent + probability >= 1 - self.epsilon)
        weight = torch.where(ends, 1 - self.spent, probability) * self.still
        self.turns = self.turns + self.still
        self.rest = torch.where(ends, 1 - self.spent, self.rest)
        self.spent, self.still = self.spent + weight, self.still & ~ends
        return weight


class UniversalLever(PartLever):
    """A universal transformer's depth in a new decoder."""

    name: ClassVar[str] = "universal"
    idea: ClassVar[str] = (
        "The same blocks run turn after turn, so depth costs no weights; every token decides by itself when it has thought enough. "
        "A small cost for each turn keeps it from thinking for nothing."
    )
    equation: ClassVar[str] = "s_n = blocks(s_{n-1} + turn_n);  y = sum_n p_n s_n until sum p_n reaches 1"
    paper: ClassVar[str] = "arXiv:1807.03819; adaptive computation time arXiv:1603.08983"
    cost: ClassVar[str] = "turns times the operations and the memory of its blocks, with their weights once"
    identity: ClassVar[Any] = "there is none: with one turn it is the plain stack, but for the learned mark of the turn"
    place: ClassVar[Any] = "stack"

    turns: int = Field(6, ge=1, le=256, description="most times the plan's blocks run over a token")
    halting: bool = Field(True, description="tokens halt by themselves; without, all take all turns")
    ponder: float = Field(0.01, ge=0, le=10, description="weight of the cost of turns in training, in nats a turn; 0 = none")
    epsilon: float = Field(0.01, gt=0, lt=1, description="share of halting probability that may be left")

    def plan(self, decoder: Decoder, layer: int) -> UniversalPlan:
        blocks = tuple(decoder.block(index) for index in range(decoder.depth))
        return UniversalPlan(blocks, self.turns, self.halting, self.ponder, self.epsilon)
