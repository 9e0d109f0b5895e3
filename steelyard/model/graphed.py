"""Decoding steps that a CUDA graph can repeat: the same trunk, over numbers that lie where they lay before.

A decoding step of a small model is a few hundred kernels of some microseconds each, and Python takes longer to launch them than a GPU to
run them. A CUDA graph is recorded once and launched as one. It repeats addresses and shapes, so a step is computed

* for a window of consecutive slots, 1, 2, 4, 8, ... of them, on multiples of their number: a row is a slot, so the caches are read where
  they lie (rows between the active ones are computed and write nothing);
* over keys up to the longest row's end, rounded up to 256, 512, 1024, ...: behind its own token every row's mask hides them;
* from three numbers a slot (token, place, source; see `fixed_step.py`) and tables of rotary angles, which lie still.

Each pair of a window and an extent is recorded when it first comes (`kernels/gpu.py`), and anew where a cache has moved. There is no other
implementation of any part: blocks, attention and storages are the trunk's own. What else a step may be (prompts, guesses, site programs)
the trunk computes as ever, over the same cache. The readable twin is `Trunk.forward`; the two differ by rounding, since a row's keys are
summed over another extent. Source: https://developer.nvidia.com/blog/cuda-graphs/; the padding to a few sizes is that of most servers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steelyard.model.channels.feed_forward import FeedForward
from steelyard.model.channels.gated import Gated
from steelyard.model.depth.stacked import Stacked
from steelyard.model.fixed_step import FixedStep
from steelyard.model.inputs.tokens import Tokens
from steelyard.model.linears.float8 import Float8Storage
from steelyard.model.linears.int4 import Int4Storage
from steelyard.model.linears.int8 import Int8Storage
from steelyard.model.linears.joined import JoinedPart
from steelyard.model.linears.linear import DenseStorage, Linear
from steelyard.model.linears.packed import PackedStorage
from steelyard.model.mixers.attention import Attention
from steelyard.model.mixers.rotary import Rotary
from steelyard.model.state import DenseStore, KeyValuePool, State
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk

SHORTEST = 256
"""Keys are read up to this many tokens, or twice, four times ... as many."""
A_SLOT = 12
"""Graphs that are kept for each slot; the one replayed longest ago gives way. There are nearly two windows a slot, each of up to 6 extents
in a context of 8,192: where one stream comes after the other, each takes another slot."""
STORAGES = (DenseStorage, PackedStorage, Int8Storage, Int4Storage, Float8Storage)
"""Ways to keep weights whose products ask the host nothing."""

Recorder = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""Takes what is to be computed, whose inputs and result keep their addresses, and gives what computes it again."""


class Shape(NamedTuple):
    """What a graph is recorded for: slots from `low` on, how many, and the keys they read."""

    low: int
    count: int
    extent: int


class GraphedTrunk:
    """Computes decoding steps by recordings of them.

    Args:
        trunk: one that `lack` finds nothing missing of.
        state: its memory.
        record: makes a recording: a CUDA graph, or on a CPU the function itself (`kernels.gpu.recorder`).
    """

    def __init__(self, trunk: Trunk, state: State, record: Recorder):
        self.trunk, self.state, self.record = trunk, state, record
        self.pools: list[KeyValuePool] = [state[f"{block.name}.mixer"] for block in trunk.blocks]  # type: ignore[union-attr]
        self.most = A_SLOT * state.slots
        self.longest = min(state.tokens, trunk.inputs.plan.positions or state.tokens)
        self.numbers = torch.zeros(state.slots, 3, dtype=torch.int64, device=trunk.device)  # token, place, source of each slot
        rotaries: list[Rotary] = [block.mixer.plan.rotary for block in trunk.blocks if block.mixer.plan.rotary]  # type: ignore[union-attr]
        self._angles = {rotary.key: angle_table(rotary, state.tokens, trunk.device) for rotary in dict.fromkeys(rotaries)}
        self._recordings: OrderedDict[Shape, Callable[[], Tensor]] = OrderedDict()
        self._addresses = self._caches()

    def supports(self, step: Step) -> bool:
        """Whether a step is one of plain decoding: one token a row, and nothing that is done to some rows only."""
        plain = step.time == 1 and max(step.lengths) == 1 and step.program is None and step.adapters is None and step.segments is None
        fits = plain and max(step.starts) < self.longest
        return fits and bool(step.slots) and not (step.deterministic or step.readable or step.side)

    def __call__(self, ids_bt: Tensor, step: Step) -> Tensor:
        """Hidden states [b, 1, d] after the final norm of a step that is supported; those of rows without a token are of no use.

        Args:
            ids_bt: int64 [b, 1], on a CPU.
            step: the call.
        """
        shape = self._shape(step)
        places = [slot - shape.low for slot in step.slots]
        numbers = torch.zeros(shape.count, 3, dtype=torch.int64)
        active = [row for row, length in enumerate(step.lengths) if length]
        numbers[:, 2] = places[active[0]]
        at = [places[row] for row in active]
        numbers[at] = torch.stack((ids_bt[active, 0], torch.tensor([step.starts[row] for row in active]), torch.tensor(at)), 1)
        self.numbers[shape.low : shape.low + shape.count].copy_(numbers)
        hidden = self._recording(shape)()
        for pool in self.pools:
            pool.wrote(step)
        return hidden[places]  # a copy: the next replay overwrites what it is taken from

    def _shape(self, step: Step) -> Shape:
        low, high, count = min(step.slots), max(step.slots), 1
        while low // count != high // count:
            count *= 2
        low, extent = low // count * count, SHORTEST
        while extent <= max(step.starts):
            extent *= 2
        return Shape(low, min(count, self.state.slots - low), min(extent, self.state.tokens))

    def _recording(self, shape: Shape) -> Callable[[], Tensor]:
        if (addresses := self._caches()) != self._addresses:
            self._recordings.clear()
            self._addresses = addresses
        if shape not in self._recordings:
            if len(self._recordings) == self.most:
                self._recordings.popitem(last=False)
            self._recordings[shape] = self.record(partial(self._compute, shape))
        self._recordings.move_to_end(shape)
        return self._recordings[shape]

    def _caches(self) -> list[int]:
        """Where keys and values lie."""
        return [store.data.data_ptr() for pool in self.pools for store in (pool.keys, pool.values)]  # type: ignore[attr-defined]

    def _compute(self, shape: Shape) -> Tensor:
        """Hidden states [count, 1, d]: what is recorded. It reads `numbers`, and asks nothing else that may change."""
        ids, places, sources = self.numbers[shape.low : shape.low + shape.count].unbind(1)
        step = FixedStep.of(range(shape.low, shape.low + shape.count), places, sources, shape.extent, self.state.tokens)
        for key, (cos, sin) in self._angles.items():
            step.cached(key, partial(_of_places, cos, sin, places))
        return self.trunk(ids[:, None], step, self.state)


def _of_places(cos: Tensor, sin: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    return cos[places], sin[places]


def angle_table(rotary: Rotary, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines at every place, each [tokens, 1, 1, dimensions]: those of a token that ends a text there."""
    places = tuple(range(tokens))
    return rotary.angles(Step(places, places, (1,) * tokens, 1, device))


def lack(trunk: Trunk, state: State) -> str | None:
    """What of a trunk and its memory cannot be computed without asking the host, or None."""
    if type(trunk.blocks) is not Stacked or not len(trunk.blocks):
        return f"blocks in a {type(trunk.blocks).__name__} stack"
    if type(trunk.inputs) is not Tokens or trunk.inputs.kept is not None:
        return "a token table kept in another way"
    blocks: list[Any] = list(trunk.blocks)
    for block in blocks:
        if type(block.mixer) is not Attention or not isinstance(block.channel, Gated | FeedForward):
            return f"{type(block.mixer).__name__} with {type(block.channel).__name__}"
        if not block.mixer.plan.causal:
            return "attention to later tokens"
        for linear in [module for module in block.modules() if isinstance(module, Linear)]:
            storage = linear.storage.whole if isinstance(linear.storage, JoinedPart) else linear.storage
            if type(storage) not in STORAGES:
                return f"linears kept as {linear.storage.kind}"
            if linear.branches:
                return "linears with branches"
        pool = state[f"{block.name}.mixer"]
        if type(pool) is not KeyValuePool or any(type(store) is not DenseStore for store in (pool.keys, pool.values)):
            return "a cache that is not plain tensors"
    return None
