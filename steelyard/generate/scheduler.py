"""The scheduler: which sequences hold slots, and what each pass over the trunk computes.

Each turn admits waiting sequences to free slots, reads some of their prompts in chunks, then takes one decoding step for every
sequence that has read its prompt. A sequence that ends frees its slot at once and the next one takes it, so slots stay full.
"""

from __future__ import annotations

import collections
import itertools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

from steelyard.generate.beams.search import Beams
from steelyard.generate.guesses import Draft
from steelyard.generate.host import Host, Pass, Piece, Place, round_up
from steelyard.generate.scoring import Part, Scoring, hear
from steelyard.generate.sequences import Generation, Sequence, attempt
from steelyard.generate.slots import Slots
from steelyard.generate.spec import EngineSpec, HostedSpeculation
from steelyard.model.sites import SiteProgram
from steelyard.model.step import DETERMINISTIC_EXTENT
from steelyard.model.trunk import Trunk

logger = logging.getLogger(__name__)

READ_PER_TURN = 512
"""Prompt tokens read between two decoding steps: long prompts must not starve answers that are under way."""
ALIKE = 0.7
"""Pieces of prompts are read together where the shorter has at least this share of the longer's tokens."""


class Scheduler:
    """Runs sequences on one trunk and on those of its companions. Not thread-safe: the engine's thread owns it."""

    def __init__(self, trunk: Trunk, spec: EngineSpec, context: int, companions: Mapping[str, Trunk] | None = None):
        self.trunk, self.spec, self.context = trunk, spec, context
        self.host = Host(trunk, spec, context)
        alone = replace(spec, readouts=(), program=None)
        self.companions = {name: Host(companion, alone, context) for name, companion in (companions or {}).items()}
        self.beside = {name: self.companions[name] for readout in spec.readouts for name in sorted(readout.beside)}
        guesses = spec.speculation if isinstance(spec.speculation, HostedSpeculation) else None
        self.guessing = None if guesses else spec.speculation
        self.drafting = (self.companions[guesses.host] if guesses.host else self.host) if guesses else None
        sites = frozenset(site for readout in spec.readouts for site in readout.sites)
        self.program = replace(spec.program or SiteProgram(), read=sites) if spec.program or sites else None
        self.slots = Slots(spec.slots, self.hosts, spec.prefix_bytes, spec.deterministic)
        self.turns = 0
        self.waiting: collections.deque[Sequence] = collections.deque()
        self.running: list[Sequence] = []

    @property
    def hosts(self) -> list[Host]:
        """The answering model's host, then its companions'."""
        return [self.host, *self.companions.values()]

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def turn(self) -> None:
        """One round: cancel, admit, read, decode or search."""
        self.turns += 1
        for sequence in [*self.waiting, *self.running]:
            if (sequence.cancelled or sequence.late) and not sequence.finished:
                attempt(sequence, sequence.stop_early, "cancelled" if sequence.cancelled else "timeout")
        self.waiting = collections.deque(sequence for sequence in self.waiting if not sequence.finished)
        self._release()
        self._admit()
        self._read()
        self._decode()
        self._search()
        self._release()

    def fail_all(self, sequences: Iterable[Sequence], message: str) -> None:
        """Ends sequences whose step could not be computed."""
        for sequence in sequences:
            if not sequence.finished:
                sequence.fail(message)
            if sequence.slot is not None:
                sequence.tokens = []  # nobody knows what its slot holds
        self._release()

    def forget(self) -> None:
        """Gives back the memory of all slots. Nothing runs after this."""
        self.slots.forget()

    def _release(self) -> None:
        for sequence in [s for s in self.running if s.finished]:
            self.slots.give_back(sequence)
        self.running = [sequence for sequence in self.running if not sequence.finished]

    def _admit(self) -> None:
        while self.waiting and len(self.slots.free) >= self.waiting[0].width:
            sequence = self.waiting.popleft()
            reuse = self.slots.take(sequence, self.running)
            self.running.append(sequence)
            if isinstance(sequence, Generation):
                sequence.reused = reuse
                pool = self.host.fused.pool if self.host.fused else None
                attempt(sequence, sequence.begin, self.spec.processors, self.guessing, pool)

    def _read(self) -> None:
        budget = READ_PER_TURN
        while budget > 0 and (behind := [sequence for sequence in self.running if self._behind(sequence)]):
            budget -= self._read_to_draft(behind[0])
        while budget > 0:
            unread = [sequence for sequence in self.running if not sequence.finished and not self._ready(sequence)]
            if not unread:
                return
            unread.sort(key=lambda sequence: (sequence.turn_read, self._chunk(sequence)))  # who has waited longest; of those, short ones
            budget -= self._read_together(self._alike(unread, budget))

    @staticmethod
    def _ready(sequence: Sequence) -> bool:
        return sequence.cached >= sequence.read_until

    def _chunk(self, sequence: Sequence) -> int:
        """How many tokens of a sequence are read in one piece: up to the next multiple of a grid, so that a text is always cut alike."""
        return min(sequence.read_until, self.host.next_cut(sequence.cached)) - sequence.cached

    def _behind(self, sequence: Sequence) -> bool:
        """Whether the model that guesses has whole chunks of the prompt left to read. They are read within the turn's budget too, and
        decoding waits for them: would it go on without, then how a text is guessed would depend on what else runs."""
        if self.drafting is None or not isinstance(sequence, Generation) or sequence.finished or not self._ready(sequence):
            return False
        return self.drafting.next_cut(self.drafting.lengths[sequence.slot]) <= len(sequence.prompt)  # type: ignore[index]

    def _read_to_draft(self, sequence: Sequence) -> int:
        """The model that guesses reads a sequence's next chunk; how many tokens that were."""
        assert self.drafting is not None and sequence.slot is not None
        start = self.drafting.lengths[sequence.slot]
        tokens = sequence.tokens[start : self.drafting.next_cut(start)]
        self.drafting.run([Piece(sequence.slot, start, tokens, sequence.program if self.drafting is self.host else None)])
        return len(tokens)

    def _alike(self, unread: list[Sequence], budget: int) -> list[Sequence]:
        """The first sequence in line and others to read with it within the budget: where padding is computed, only those whose next
        piece is about as long."""
        first = self._chunk(unread[0])
        if not self.host.padded:
            totals = itertools.accumulate(map(self._chunk, unread))
            near = [sequence for sequence, total in zip(unread, totals, strict=True) if total <= max(budget, first)]
        else:
            near = [sequence for sequence in unread if ALIKE * first <= self._chunk(sequence) <= first / ALIKE]
            near = near[: max(1, budget // round_up(max(map(self._chunk, near)), self.host.tile))]
        return sorted(near, key=lambda sequence: sequence.slot)  # type: ignore[arg-type,return-value]

    def _read_together(self, sequences: list[Sequence]) -> int:
        """Reads the next piece of each sequence in one pass and returns how many tokens that computed."""
        counts = [self._chunk(sequence) for sequence in sequences]
        pieces = [
            Piece(s.slot, s.cached, s.tokens[s.cached : s.cached + count], s.program)  # type: ignore[arg-type]
            for s, count in zip(sequences, counts, strict=True)
        ]
        read = self._run(pieces, "time")
        begun: list[tuple[Generation, Place]] = []
        scored: list[Part] = []
        for number, (sequence, (_, start, tokens, _)) in enumerate(zip(sequences, pieces, strict=True)):
            sequence.cached, sequence.turn_read = start + len(tokens), self.turns
            if isinstance(sequence, Scoring):
                scored.append(Part(sequence, number, start, len(tokens)))
            elif isinstance(sequence, Generation) and self._ready(sequence):
                begun.append((sequence, Place(number, len(tokens) - 1)))
        hear(read, scored)
        for sequence in [part.scoring for part in scored]:
            if sequence.back is not None and not sequence.finished:
                sequence.cached, sequence.back = self.slots.rewind(sequence.slot, sequence.back), None  # type: ignore[arg-type]
        if begun:
            logits, found = read.read([place for _, place in begun], [sequence.wish for sequence, _ in begun])
            for place, (sequence, _) in enumerate(begun):
                attempt(sequence, sequence.accept, logits[place : place + 1], Draft(), found[place : place + 1])
        return read.hidden.shape[0] * read.hidden.shape[1] if self.host.padded else sum(counts)

    def _decode(self) -> None:
        sequences = [s for s in self.running if isinstance(s, Generation) and not s.finished and s.generated and self._ready(s)]
        sequences = [sequence for sequence in sequences if not self._behind(sequence)]
        if not sequences:
            return
        sequences.sort(key=lambda sequence: sequence.slot)  # type: ignore[arg-type,return-value]
        drafts = self._drafts(sequences)
        pieces = [
            Piece(s.slot, s.cached, [s.tokens[-1], *draft.tokens], s.program)  # type: ignore[arg-type]
            for s, draft in zip(sequences, drafts, strict=True)
        ]
        places = [Place(number, time) for number, piece in enumerate(pieces) for time in range(len(piece.tokens))]
        logits, found = self._run(pieces, "rows").read(places, [sequences[place.piece].wish for place in places])
        begin = 0
        for sequence, draft in zip(sequences, drafts, strict=True):
            end = begin + 1 + len(draft.tokens)
            if not sequence.finished:  # its guesses may have failed
                attempt(sequence, sequence.accept, logits[begin:end], draft, found[begin:end])
            self.slots.rewind(sequence.slot, sequence.cached)  # type: ignore[arg-type]
            begin = end

    def _drafts(self, sequences: list[Generation]) -> list[Draft]:
        """What is guessed for each sequence."""
        guesses, rooms = self.spec.speculation, [self._draft_room(sequence) for sequence in sequences]
        if self.drafting is not None and isinstance(guesses, HostedSpeculation):
            return guesses.propose_together(self.drafting, sequences, [s.room(room) for s, room in zip(sequences, rooms, strict=True)])
        return [attempt(sequence, sequence.draft, room) or Draft() for sequence, room in zip(sequences, rooms, strict=True)]

    def _search(self) -> None:
        """One step of every beam search: branches fork into the slots that were chosen for them, and each goes on by a token."""
        searches = [s for s in self.running if isinstance(s, Beams) and not s.finished and s.passes]
        if not searches:
            return
        for source, target in [fork for search in searches for fork in search.take_forks()]:
            for host in self.hosts:
                host.fork(source, target)
        pieces = sorted(piece for search in searches for piece in search.pieces())
        logits = self._run(pieces, "rows").logits([Place(number, 0) for number in range(len(pieces))])
        row_of = {piece.slot: number for number, piece in enumerate(pieces)}
        for search in searches:
            attempt(search, search.accept, logits[[row_of[branch.slot] for branch in search.branches]], [])

    def _run(self, pieces: list[Piece], fill: Literal["time", "rows"]) -> Pass:
        """Computes pieces in the answering model and in the companions that read along."""
        plain = [piece._replace(program=None) for piece in pieces]
        beside = {name: host.run(plain, fill) for name, host in self.beside.items()}
        return replace(self.host.run(pieces, fill, self.program), beside=beside)

    def _draft_room(self, sequence: Generation) -> int:
        """Longest guess that fits: into the context and, when deterministic, into the same stretch of keys."""
        room = self.context - len(sequence.tokens)
        if self.spec.deterministic:
            room = min(room, DETERMINISTIC_EXTENT - 1 - sequence.cached % DETERMINISTIC_EXTENT)
        return min(room, self.spec.speculation.horizon) if self.spec.speculation else 0
