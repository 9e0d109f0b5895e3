"""The scheduler: which sequences hold slots, and what each pass over the trunk computes.

Each turn admits waiting sequences to free slots, reads some of their prompts in chunks, then takes one decoding step for every
sequence that has read its prompt. A sequence that ends frees its slot at once and the next one takes it, so slots stay full.
"""

from __future__ import annotations

import collections
import itertools
import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from steelyard.core.errors import SteelyardError
from steelyard.generate.invariance import row_tile
from steelyard.generate.sequences import Generation, Scoring, Sequence
from steelyard.generate.spec import EngineSpec
from steelyard.model.fused import fused
from steelyard.model.state import Dense, State
from steelyard.model.step import DETERMINISTIC_EXTENT, Step
from steelyard.model.trunk import Trunk

logger = logging.getLogger(__name__)

READ_PER_TURN = 512
"""Prompt tokens read between two decoding steps: long prompts must not starve answers that are under way."""
ALIKE = 0.7
"""Pieces of prompts are read together where the shorter has at least this share of the longer's tokens."""


class Scheduler:
    """Runs sequences on one trunk. Not thread-safe: the engine's thread owns it."""

    def __init__(self, trunk: Trunk, spec: EngineSpec, context: int):
        self.trunk, self.spec, self.context = trunk, spec, context
        self.tile = row_tile(trunk) if spec.deterministic else 1
        slots = round_up(spec.slots, self.tile)
        storage = Dense(torch.float32 if trunk.device.type == "cpu" else trunk.inputs.weight.dtype, trunk.device)
        # Whole stretches, so that a slot's length changes no row's stretch of keys.
        self.capacity = round_up(context, DETERMINISTIC_EXTENT) if spec.deterministic else context
        self.state = trunk.new_state(slots, self.capacity, storage)
        self.fused = fused(trunk, self.state)
        self.free = list(range(spec.slots))
        self.held: dict[int, list[int]] = {}  # what a free slot still holds
        self.waiting: collections.deque[Sequence] = collections.deque()
        self.running: list[Sequence] = []

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def turn(self) -> None:
        """One round: cancel, admit, read, decode."""
        for sequence in [*self.waiting, *self.running]:
            if sequence.cancelled and not sequence.finished:
                self._attempt(sequence, sequence.stop_early)  # type: ignore[attr-defined]
        self.waiting = collections.deque(sequence for sequence in self.waiting if not sequence.finished)
        self._release()
        self._admit()
        self._read()
        self._decode()
        self._release()

    def fail_all(self, sequences: Iterable[Sequence], message: str) -> None:
        """Ends sequences whose step could not be computed."""
        for sequence in sequences:
            if not sequence.finished:
                sequence.fail(message)
            if sequence.slot is not None:
                self.held.pop(sequence.slot, None)
                sequence.tokens = []
        self._release()

    def forget(self) -> None:
        """Gives back the memory of all slots. Nothing runs after this."""
        self.state, self.fused = State({}, 0, 0), None
        self.free, self.held = [], {}

    @staticmethod
    def _attempt(sequence: Sequence, action: Callable, *arguments: Any) -> Any:
        """Does something for one sequence. What its processors, guesses or listener raise ends that sequence alone."""
        try:
            return action(*arguments)
        except Exception as error:  # code of others may raise anything
            logger.exception("a request failed")
            sequence.fail(said(error))
            return None

    def _release(self) -> None:
        for sequence in [s for s in self.running if s.finished]:
            assert sequence.slot is not None
            self.held[sequence.slot] = sequence.tokens[: sequence.cached]
            self.free.append(sequence.slot)
            sequence.slot = None
        self.running = [sequence for sequence in self.running if not sequence.finished]

    def _admit(self) -> None:
        while self.waiting and self.free:
            sequence = self.waiting.popleft()
            shared = {slot: common_prefix(self.held.get(slot, []), sequence.tokens) for slot in self.free}
            slot = max(sorted(self.free), key=lambda slot: shared[slot])
            self.free.remove(slot)
            # The last token is always read again: its hidden state is needed.
            reuse = min(shared[slot], sequence.read_until - 1, self._reusable(sequence))
            self.held.pop(slot, None)
            self.state.rewind(slot, reuse)
            sequence.slot, sequence.cached = slot, reuse
            self.running.append(sequence)
            if isinstance(sequence, Generation):
                sequence.reused = reuse
                self._attempt(
                    sequence, sequence.begin, self.spec.processors, self.spec.speculation, self.fused.pool if self.fused else None
                )

    @staticmethod
    def _reusable(sequence: Sequence) -> int:
        """Scoring needs the hidden states from the token before the first scored one."""
        return sequence.first - 1 if isinstance(sequence, Scoring) else len(sequence.tokens)

    def _read(self) -> None:
        budget = READ_PER_TURN
        while budget > 0:
            unread = [sequence for sequence in self.running if not sequence.finished and not self._ready(sequence)]
            if not unread:
                return
            budget -= self._read_together(self._alike(unread, budget))

    @staticmethod
    def _ready(sequence: Sequence) -> bool:
        return sequence.cached >= sequence.read_until

    def _chunk(self, sequence: Sequence) -> int:
        """How many tokens of a sequence are read in one piece: up to the next multiple of a grid, so that a text is always cut alike."""
        grid = DETERMINISTIC_EXTENT if self.spec.deterministic else self.spec.prefill
        return min(sequence.read_until, (sequence.cached // grid + 1) * grid) - sequence.cached

    def _alike(self, unread: list[Sequence], budget: int) -> list[Sequence]:
        """The first sequence in line and others to read with it within the budget: where padding is computed, only those whose next
        piece is about as long."""
        first = self._chunk(unread[0])
        if self.fused:
            totals = itertools.accumulate(map(self._chunk, unread))
            near = [sequence for sequence, total in zip(unread, totals, strict=True) if total <= max(budget, first)]
        else:
            near = [sequence for sequence in unread if ALIKE * first <= self._chunk(sequence) <= first / ALIKE]
            near = near[: max(1, budget // round_up(max(map(self._chunk, near)), self.tile))]
        return sorted(near, key=lambda sequence: sequence.slot)  # type: ignore[arg-type,return-value]

    def _read_together(self, sequences: list[Sequence]) -> int:
        """Reads the next piece of each sequence in one pass and returns how many tokens that computed."""
        starts, counts = [s.cached for s in sequences], [self._chunk(s) for s in sequences]
        ids = torch.zeros(len(sequences), round_up(max(counts), self.tile), dtype=torch.int64)
        for row, (sequence, start, count) in enumerate(zip(sequences, starts, counts, strict=True)):
            ids[row, :count] = torch.tensor(sequence.tokens[start : start + count])
        slots = tuple(sequence.slot for sequence in sequences)
        hidden = self._forward(ids, slots, tuple(starts), tuple(counts))  # type: ignore[arg-type]
        begun: list[tuple[int, Generation]] = []
        for row, (sequence, start, count) in enumerate(zip(sequences, starts, counts, strict=True)):
            sequence.cached = start + count
            if isinstance(sequence, Scoring):
                self._attempt(sequence, sequence.took, hidden[row, :count], start, self._head)
            elif isinstance(sequence, Generation) and self._ready(sequence):
                begun.append((row, sequence))
        if begun:
            rows = [row for row, _ in begun]
            logits = self._head(hidden[rows, [counts[row] - 1 for row in rows]])
            for place, (_, sequence) in enumerate(begun):
                self._attempt(sequence, sequence.accept, logits[place : place + 1], [])
        return sum(counts) if self.fused else ids.numel()

    def _decode(self) -> None:
        sequences = [s for s in self.running if isinstance(s, Generation) and not s.finished and s.generated and self._ready(s)]
        if not sequences:
            return
        sequences.sort(key=lambda sequence: sequence.slot)  # type: ignore[arg-type,return-value]
        drafts = [self._attempt(sequence, sequence.draft, self._draft_room(sequence)) or [] for sequence in sequences]
        time = 1 + max(len(draft) for draft in drafts)
        slots = self._rows([sequence.slot for sequence in sequences])  # type: ignore[misc]
        place = {slot: row for row, slot in enumerate(slots)}
        ids = torch.zeros(len(slots), time, dtype=torch.int64)
        starts, lengths = [0] * len(slots), [0] * len(slots)
        rows, times = [], []
        for sequence, draft in zip(sequences, drafts, strict=True):
            row = place[sequence.slot]  # type: ignore[index]
            tokens = [sequence.tokens[-1], *draft]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            starts[row], lengths[row] = sequence.cached, len(tokens)
            rows += [row] * len(tokens)
            times += range(len(tokens))
        hidden = self._forward(ids, tuple(slots), tuple(starts), tuple(lengths))
        logits = self._head(hidden[rows, times])
        begin = 0
        for sequence, draft in zip(sequences, drafts, strict=True):
            if not sequence.finished:  # its guesses may have failed
                self._attempt(sequence, sequence.accept, logits[begin : begin + 1 + len(draft)], draft)
            self.state.rewind(sequence.slot, sequence.cached)  # type: ignore[arg-type]
            begin += 1 + len(draft)

    def _draft_room(self, sequence: Generation) -> int:
        """Longest guess that fits: into the context and, when deterministic, into the same stretch of keys."""
        room = self.context - len(sequence.tokens)
        if self.spec.deterministic:
            room = min(room, DETERMINISTIC_EXTENT - 1 - sequence.cached % DETERMINISTIC_EXTENT)
        return min(room, self.spec.speculation.horizon) if self.spec.speculation else 0

    def _rows(self, slots: list[int]) -> list[int]:
        """Slots to compute: those asked for, with idle ones between them where that saves copying the cache, and as many as
        row invariance wants."""
        low, high = slots[0], slots[-1]
        if high - low + 1 > 2 * len(slots) and self.tile == 1:
            return slots
        needed = round_up(high - low + 1, self.tile)
        low = min(low, self.state.slots - needed)
        return list(range(low, low + needed))

    def _forward(self, ids: Tensor, slots: tuple[int, ...], starts: tuple[int, ...], lengths: tuple[int, ...]) -> Tensor:
        step = Step(
            slots,
            starts,
            lengths,
            ids.shape[1],
            self.trunk.device,
            deterministic=self.spec.deterministic,
            readable=self.spec.kernels == "reference",
            capacity=self.capacity,
        )
        return (self.fused or self.trunk)(ids.to(self.trunk.device), step, self.state)

    def _head(self, hidden_nd: Tensor) -> Tensor:
        """Logits float32 [n, vocabulary]; few rows are padded where row invariance wants it."""
        count = len(hidden_nd)
        if padding := -count % self.tile:
            hidden_nd = torch.cat((hidden_nd, hidden_nd.new_zeros(padding, hidden_nd.shape[1])))
        return self.trunk.heads["lm"](hidden_nd)[:count]


def said(error: Exception) -> str:
    """An error as a failure's message."""
    return str(error) if isinstance(error, SteelyardError) else f"{type(error).__name__}: {error}"


def round_up(count: int, multiple: int) -> int:
    """The next multiple at or above a count."""
    return -(-count // multiple) * multiple


def common_prefix(first: list[int], second: list[int]) -> int:
    """How many tokens two lists begin with alike."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
