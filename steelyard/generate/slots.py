"""Slots: who owns which, what free ones still hold, and from where a prompt's beginning can be had without reading it again.

What a new sequence shares with others is taken from the slot that holds most of it: a free one goes on where it stopped; from one that
is in use, or from the beginnings kept beside the slots (`prefixes.py`), it is copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from steelyard.generate.host import Host
from steelyard.generate.prefixes import BLOCK, Prefixes, common_prefix
from steelyard.generate.sequences import Sequence

WORTH = 32
"""Tokens that copying must save: fewer are read again sooner than a slot is given up for them."""


class Text(NamedTuple):
    """What a slot holds, and for whom it was read (`Sequence.reader`)."""

    reader: str
    tokens: list[int]


class Slots:
    """The slots of some hosts, which are the same in each.

    Args:
        count: of slots.
        hosts: see there.
        room: for beginnings beside the slots, bytes.
        exact: whether a text must have the same bits wherever its beginning comes from.
    """

    def __init__(self, count: int, hosts: list[Host], room: int = 0, exact: bool = False):
        self.hosts = hosts
        self.grid = math.lcm(*(host.state.grid for host in hosts)) if exact else 1
        self.free = list(range(count))
        self.held: dict[int, Text] = {}  # what free slots hold, the one released longest ago first
        self.copies = all(host.state.in_parts for host in hosts)
        self.prefixes = Prefixes(room) if room and self.copies else None

    def take(self, sequence: Sequence, running: Iterable[Sequence]) -> int:
        """Gives a sequence its slots and returns how many of its tokens the first of them holds already."""
        here = {slot: self._shared(sequence, self.held[slot]) for slot in self.free if slot in self.held}
        slot = max(sorted(here), key=lambda slot: here[slot], default=-1)
        if slot < 0 or here[slot] < min(WORTH, len(self.held[slot].tokens) // 2 + 1):
            slot = self._least_useful()
        reuse = here.get(slot, 0)
        others = [other for other in running if other.width == 1 and other.slot is not None] if self.copies else []
        shared = [self._shared(sequence, self._read(other)) for other in others]
        kept = self.prefixes.find(sequence.reader, sequence.tokens, sequence.reusable) if self.prefixes else []
        kept = kept[: len(kept) * BLOCK // self.grid * self.grid // BLOCK]
        best = max([len(kept) * BLOCK, *shared])
        if best < reuse + WORTH:
            self._occupy(slot, reuse)
            reuse = self.rewind(slot, reuse)
        else:
            slot = self._least_useful()
            self._occupy(slot, 0)
            reuse = best
            if best in shared:
                for host in self.hosts:
                    host.fork(others[shared.index(best)].slot, slot, best)  # type: ignore[arg-type]
            else:
                assert self.prefixes is not None
                self.prefixes.use(kept)
                for number, host in enumerate(self.hosts):
                    host.load(slot, [node.data[number] for node in kept], best)
            reuse = self.rewind(slot, best)
        sequence.slot, sequence.cached = slot, reuse
        for _ in range(sequence.width - 1):  # what these hold is overwritten as soon as a branch forks into them
            other = self._least_useful()
            self._occupy(other, 0)
            sequence.others.append(other)
        return reuse

    def give_back(self, sequence: Sequence) -> None:
        """A sequence has ended; what its slot holds may serve others."""
        assert sequence.slot is not None
        self.held[sequence.slot] = self._read(sequence)
        self.free += [sequence.slot, *sequence.others]
        sequence.slot, sequence.others = None, []

    def _read(self, sequence: Sequence) -> Text:
        """What of a sequence's slot others may go on from: all of it, or what was read of its prompt on the hosts' grid, as they would."""
        count = sequence.cached if self.grid == 1 else min(sequence.cached, sequence.read_until) // self.grid * self.grid
        return Text(sequence.reader, sequence.tokens[:count])

    def rewind(self, slot: int, position: int) -> int:
        """Takes every host back to a position, or to the earlier one that all can go back to, and returns it."""
        left = min(host.rewind(slot, position) for host in self.hosts)
        return left if left == position else self.rewind(slot, left)

    def forget(self) -> None:
        """Gives back the memory of all slots."""
        for host in self.hosts:
            host.forget()
        self.free, self.held, self.prefixes = [], {}, None

    def _least_useful(self) -> int:
        """A free slot that holds nothing, or the one released longest ago."""
        return next((slot for slot in sorted(self.free) if slot not in self.held), next(iter(self.held), -1))

    def _occupy(self, slot: int, reuse: int) -> None:
        """Takes a slot; what it holds beyond `reuse` tokens is about to be lost, so it is kept beside the slots where there is room."""
        self.free.remove(slot)
        text = self.held.pop(slot, None)
        if text is None or self.prefixes is None or len(text.tokens) < reuse + WORTH:
            return
        length = min(host.lengths[slot] for host in self.hosts)

        def export(start: int, stop: int) -> tuple[list, int]:
            parts = [host.state.export(slot, start, stop) for host in self.hosts]
            return parts, sum(tensor.nbytes for part in parts for pool in part.values() for tensor in pool.values())

        self.prefixes.keep(text.reader, text.tokens[:length], export)

    def _shared(self, sequence: Sequence, text: Text) -> int:
        if text.reader != sequence.reader:
            return 0
        return common_prefix(text.tokens, sequence.tokens, sequence.reusable) // self.grid * self.grid
