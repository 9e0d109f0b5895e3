"""Hosts: a model's trunk with the memory of every slot. A sequence owns the same slot in each host of its engine: the model that
answers, and those that stand beside it (a draft, an amateur), so all are admitted, rewound, forked and freed together.

Shapes: b rows, t time, d width, n places, v vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from steelyard.core.errors import UnsupportedError
from steelyard.generate import candidates
from steelyard.generate.candidates import Candidates, Wish
from steelyard.generate.invariance import row_tile
from steelyard.generate.state_plan import StatePlan
from steelyard.kernels import native
from steelyard.kernels.gpu import recorder
from steelyard.model.fused import fused, lack
from steelyard.model.graphed import GraphedTrunk
from steelyard.model.graphed import lack as lack_graphs
from steelyard.model.heads.lm import LMHead
from steelyard.model.linears.native import NativeStorage
from steelyard.model.narrow_state import Narrow
from steelyard.model.sites import SiteProgram, with_own
from steelyard.model.state import Dense, State
from steelyard.model.step import DETERMINISTIC_EXTENT, Step
from steelyard.model.trunk import Trunk

logger = logging.getLogger(__name__)


class Piece(NamedTuple):
    """Tokens of one slot to compute: those from position `start` on; and what is done at the answering model's sites on them alone."""

    slot: int
    start: int
    tokens: list[int]
    program: SiteProgram | None = None


class Place(NamedTuple):
    """One token of a pass: the piece's number and the token's within it."""

    piece: int
    time: int


class Readout(Protocol):
    """Changes what the model itself says, before any processor, in answers and in scores alike.

    `sites` are places of the answering model that it reads (`model/sites.py`), `beside` companions that read the same tokens.
    """

    sites: frozenset[str]
    beside: frozenset[str]

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, logits: Tensor, passage: Passage) -> Tensor:
        """float32 [n, vocabulary] -> the same shape; row by row, and not in place."""
        ...


class Guesses(Protocol):
    """Guesses of any kind, as far as they concern memory: `horizon` tokens at most are taken back."""

    @property
    def horizon(self) -> int: ...


class HostSettings(Protocol):
    """What a host reads of an engine's settings; `EngineSpec` says what each is."""

    @property
    def deterministic(self) -> bool: ...

    @property
    def slots(self) -> int: ...

    @property
    def prefill(self) -> int: ...

    @property
    def kernels(self) -> str: ...

    @property
    def speculation(self) -> Guesses | None: ...

    @property
    def readouts(self) -> Sequence[Readout]: ...

    @property
    def program(self) -> SiteProgram | None: ...

    @property
    def states(self) -> StatePlan | None: ...

    @property
    def cache_type(self) -> torch.dtype: ...

    @property
    def routines(self) -> native.Routines | None: ...

    @property
    def graphs(self) -> bool | None: ...

    @property
    def graphed(self) -> bool: ...


class Host:
    """Runs pieces through one trunk. Not thread-safe: the engine's thread owns it."""

    def __init__(self, trunk: Trunk, spec: HostSettings, context: int):
        self.trunk, self.spec = trunk, spec
        self.tile = row_tile(trunk) if spec.deterministic else 1
        dtype = torch.float32 if trunk.device.type == "cpu" else trunk.inputs.weight.dtype
        horizon = spec.speculation.horizon if spec.speculation else 0
        storage = spec.states.storage(dtype, trunk.device, horizon) if spec.states else _plain_storage(trunk, spec, horizon)
        # Whole stretches, so that a slot's length changes no row's stretch of keys.
        self.capacity = round_up(context, DETERMINISTIC_EXTENT) if spec.deterministic else context
        self.state = trunk.new_state(round_up(spec.slots, self.tile), self.capacity, storage)
        self.lengths = [0] * self.state.slots
        self.blocks = len(getattr(trunk.plan.depth, "blocks", ()))
        self.fused = fused(trunk, self.state)
        self.graphed = _graphed(trunk, self.state, spec)

    @property
    def native_head(self) -> NativeStorage | None:
        """The head's weights where the C++ routines have them, and nothing is done to its logits afterwards."""
        head = self.trunk.heads["lm"]
        plain = type(head) is LMHead and head.plan.softcap is None and not head.linear.branches
        return head.linear.storage if plain and isinstance(head.linear.storage, NativeStorage) else None  # type: ignore[union-attr]

    @property
    def padded(self) -> bool:
        """Whether padding is computed like tokens."""
        told = self.spec.program is not None or any(readout.sites for readout in self.spec.readouts)
        return self.fused is None or told

    def run(self, pieces: Sequence[Piece], fill: Literal["time", "rows"] = "time", program: SiteProgram | None = None) -> Pass:
        """Computes all pieces in one call of the trunk; their slots are distinct and ascend.

        Args:
            fill: what is padded where row invariance wants more rows of a product: `time` (few, long pieces), or `rows` with idle
                slots (many short ones; slots between them are then computed too, which saves copying the cache).
            program: what to do at the trunk's sites on all pieces, beside their own.
        """
        longest = max(len(piece.tokens) for piece in pieces)
        slots = [piece.slot for piece in pieces] if fill == "time" else self._with_idle([piece.slot for piece in pieces])
        time = round_up(longest, self.tile) if fill == "time" else longest
        row_of = {slot: row for row, slot in enumerate(slots)}
        ids = torch.zeros(len(slots), time, dtype=torch.int64)
        starts, lengths = [0] * len(slots), [0] * len(slots)
        own: list[SiteProgram | None] = [None] * len(slots)
        for slot, start, tokens, own_program in pieces:
            row = row_of[slot]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            starts[row], lengths[row], own[row] = start, len(tokens), own_program
            self.lengths[slot] = start + len(tokens)
        step = Step(
            tuple(slots),
            tuple(starts),
            tuple(lengths),
            time,
            self.trunk.device,
            program=with_own(program, own, self.blocks),
            deterministic=self.spec.deterministic,
            tile=self.tile,
            readable=self.spec.kernels == "reference",
            capacity=self.capacity,
        )
        hidden = self._repeated(ids, step)
        if hidden is None:
            hidden = (self.fused or self.trunk)(ids.to(self.trunk.device), step, self.state)
        rows = [row_of[piece.slot] for piece in pieces]
        return Pass(self, hidden, rows, step.program.readings if step.program else {})

    def _repeated(self, ids_bt: Tensor, step: Step) -> Tensor | None:
        """Hidden states of a step by its recording, or None where it has none. A device that cannot record it (its memory is full, say)
        is asked no more, unless the engine was told to record: then that is an error. Either way the step can be computed again."""
        if self.graphed is None or not self.graphed.supports(step):
            return None
        try:
            return self.graphed(ids_bt, step)
        except RuntimeError:
            if self.spec.graphs:
                raise
            logger.exception("a decoding step could not be recorded; from now on every step is launched kernel by kernel")
            self.graphed = None
            return None

    def _with_idle(self, slots: list[int]) -> list[int]:
        """Slots to compute: those asked for, with idle ones between them where that saves copying the cache, and as many as
        row invariance wants."""
        low, high = slots[0], slots[-1]
        if high - low + 1 > 2 * len(slots) and self.tile == 1:
            return slots
        needed = round_up(high - low + 1, self.tile)
        low = min(low, self.state.slots - needed)
        return list(range(low, low + needed))

    def next_cut(self, position: int) -> int:
        """Where a text read from `position` on is cut next: always on the same grid, so that the same tokens are read together."""
        grid = DETERMINISTIC_EXTENT if self.spec.deterministic else self.spec.prefill
        return (position // grid + 1) * grid

    def head(self, hidden_nd: Tensor) -> Tensor:
        """Logits float32 [n, v]; few rows are padded where row invariance wants it."""
        count = len(hidden_nd)
        if padding := -count % self.tile:
            hidden_nd = torch.cat((hidden_nd, hidden_nd.new_zeros(padding, hidden_nd.shape[1])))
        return self.trunk.heads["lm"](hidden_nd)[:count]

    def early_head(self, stream_nd: Tensor) -> Tensor:
        """Logits float32 [n, v] read off the residual stream between blocks: the final norm, then the head."""
        return self.head(stream_nd if self.trunk.norm is None else self.trunk.norm(stream_nd))

    def rewind(self, slot: int, position: int) -> int:
        """Forgets a slot's tokens from `position` on; returns it, or the earlier one that the memory could go back to. A host that lags
        behind (a draft that has not read the last guesses) has nothing to forget, and keeps nobody else from going on."""
        if self.lengths[slot] < position:
            return position
        left = self.state.rewind(slot, position)
        self.lengths[slot] = min(self.lengths[slot], left)
        return left

    def fork(self, source: int, target: int, length: int | None = None) -> None:
        """The target slot holds what the source holds, or its first `length` tokens."""
        self.state.fork(source, target, length)
        self.lengths[target] = self.lengths[source] if length is None else min(length, self.lengths[source])

    def load(self, slot: int, parts: Sequence[Mapping[str, Mapping[str, Any]]], length: int) -> None:
        """Puts equal parts of a text, as `State.export` gave them, into a slot; `length` tokens in all."""
        for number, part in enumerate(parts):
            self.state.load(slot, part, number * (length // len(parts)))
        self.lengths[slot] = length

    def forget(self) -> None:
        """Gives back the memory of all slots. Nothing runs after this."""
        self.state, self.fused, self.graphed = State({}, 0, 0), None, None


@dataclass(frozen=True)
class Pass:
    """What one call of a trunk computed.

    Attributes:
        hidden: [b, t, d] after the final norm.
        rows: the row of each piece.
        readings: values [b, t, d] of the sites that the program read.
        beside: what companions made of the same pieces.
    """

    host: Host
    hidden: Tensor
    rows: list[int]
    readings: Mapping[str, Tensor]
    beside: Mapping[str, Pass] = field(default_factory=dict)

    def at(self, places: Sequence[Place], value_btd: Tensor | None = None) -> Tensor:
        """Hidden states, or another value, at some places: [n, d]."""
        value_btd = self.hidden if value_btd is None else value_btd
        return value_btd[[self.rows[piece] for piece, _ in places], [time for _, time in places]]

    def logits(self, places: Sequence[Place]) -> Tensor:
        """float32 [n, v] at some places, as the engine's readouts make them."""
        logits = self.host.head(self.at(places))
        for readout in self.host.spec.readouts:
            logits = readout(logits, Passage(self, places))
        return logits

    def read(self, places: Sequence[Place], wishes: Sequence[Wish]) -> tuple[Tensor, list[Candidates]]:
        """Logits at some places, and what is wished for of each; [] where that is found out later, row by row: on a CPU without the C++
        routines, and on a GPU where a row's numbers may not depend on how many others there are."""
        head, fused = self.host.native_head, self.host.fused
        if head is not None and not self.host.spec.readouts:
            return candidates.compute(self.at(places), head.matrix, wishes, head.pool)
        logits = self.logits(places)
        if fused:
            return logits, candidates.read(logits, wishes, fused.pool)
        together = logits.device.type != "cpu" and not self.host.spec.deterministic
        return logits, candidates.on_device(logits, wishes) if together else []


@dataclass(frozen=True)
class Passage:
    """What a readout may look at: the same places in earlier layers and in companions."""

    whole: Pass
    places: Sequence[Place]

    def early(self, site: str) -> Tensor:
        """Logits float32 [n, v] read off a site of the answering model."""
        return self.whole.host.early_head(self.whole.at(self.places, self.whole.readings[site]))

    def companion(self, name: str) -> Tensor:
        """Logits float32 [n, v] of a companion that reads the same tokens."""
        beside = self.whole.beside[name]
        return beside.host.head(beside.at(self.places))


def _plain_storage(trunk: Trunk, spec: HostSettings, horizon: int) -> Dense | Narrow:
    """Tensors of the engine's type of cache, in the order that the C++ step reads where it runs. PyTorch's attention takes several
    times as long over bfloat16 on a CPU, so what it reads is rounded and kept in float32."""
    if trunk.device.type != "cpu" or spec.cache_type == torch.float32:
        return Dense(spec.cache_type, trunk.device, horizon)
    inside = spec.program or spec.readouts  # steps that only the trunk itself can compute
    if spec.routines and not inside and lack(trunk) is None:
        return Narrow(horizon)
    return Dense(torch.float32, horizon=horizon, rounding=spec.cache_type)


def _graphed(trunk: Trunk, state: State, spec: HostSettings) -> GraphedTrunk | None:
    """What computes plain decoding steps by recordings, or None where there is none.

    Raises:
        UnsupportedError: it was asked for, and the model or its cache is none for it.
    """
    if not spec.graphed:
        return None
    if (reason := lack_graphs(trunk, state)) is None:
        return GraphedTrunk(trunk, state, recorder(trunk.device))
    if spec.graphs:
        raise UnsupportedError(f"graphs of decoding steps: {reason}", where="engine settings", do="Leave `graphs` out.")
    return None


def round_up(count: int, multiple: int) -> int:
    """The next multiple at or above a count."""
    return -(-count // multiple) * multiple
