"""Drafting: guesses made by a model, for all sequences together, in batched passes over its host.

The host first reads what it has not read of each sequence. Then one token after another is drawn from what it says, shaped by the
very processors and filters that shape the answer: sessions are advanced with each guess and taken back at the end. A filter on one
side only would leave the wrong text in `rejection` and few guesses right in `coupled`.

Two ways to verify:
coupled: a guess is drawn with the noise of its own position, and counts only if the answering model draws the same token with the
    same noise (`sampling.draw`). The text is that of plain decoding, to the letter.
rejection: a guess is drawn with noise of its own and judged by `rejection.judge`. The text is another, its distribution the same,
    and more guesses count.
At temperature 0 there is no noise and both are one. Everything a guess depends on belongs to its own request (the room it has, the
chunks its text is read in, its noise), so `deterministic` holds in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from steelyard.core.fingerprint import digest
from steelyard.generate.guesses import Draft
from steelyard.generate.host import Host, Piece, Place
from steelyard.generate.rejection import GUESS
from steelyard.generate.sampling import filtered, invert, uniform
from steelyard.generate.sequences import Generation, attempt
from steelyard.model.sites import SiteProgram

Verify = Literal["coupled", "rejection"]


@dataclass(frozen=True)
class Drafter:
    """Guesses of a model.

    Attributes:
        horizon: longest guess, in tokens.
        host: the companion that guesses; None = the answering model itself.
        verify: how guesses are judged.
        program: what is done inside the model while it guesses, on top of what the engine does anyway: blocks left out.
    """

    horizon: int
    host: str | None = None
    verify: Verify = "rejection"
    program: SiteProgram | None = None

    @property
    def fingerprint(self) -> str:
        return digest(["drafter", self.horizon, self.host, self.verify, self.program and self.program.fingerprint])

    def propose_together(self, host: Host, sequences: Sequence[Generation], rooms: Sequence[int]) -> list[Draft]:
        """Guesses for sequences in the order of their slots, each of at most as many tokens as it has room for.

        The host may be left with the guesses in its memory (a companion's is taken back with the answering model's after they were
        verified); that of the answering model itself is left as it was.
        """
        guesses = [Guess(sequence, room, self.verify) for sequence, room in zip(sequences, rooms, strict=True)]
        program = self._program(host)
        while under_way := [guess for guess in guesses if guess.open]:
            pieces = [guess.unread(host, None if self.host else guess.sequence.program) for guess in under_way]
            read = host.run(pieces, "rows", program)
            ends = [(guess, Place(number, len(pieces[number].tokens) - 1)) for number, guess in enumerate(under_way)]
            ends = [(guess, place) for guess, place in ends if guess.has_read_all(host)]
            if ends:
                logits = host.head(read.at([place for _, place in ends]))
                for number, (guess, _) in enumerate(ends):
                    attempt(guess.sequence, guess.draw, logits[number])
        for guess in guesses:
            attempt(guess.sequence, guess.take_back)
            if self.host is None and guess.room:
                host.rewind(guess.slot, guess.sequence.cached)
        return [guess.draft for guess in guesses]

    def _program(self, host: Host) -> SiteProgram | None:
        """The engine's own program (steering) holds for guesses too; nobody reads sites while guessing."""
        own, extra = host.spec.program, self.program
        if own is None or extra is None:
            return extra or (own and replace(own, read=frozenset()))
        stops = [program.stop for program in (own, extra) if program.stop is not None]
        return replace(own, read=frozenset(), skip={**own.skip, **extra.skip}, stop=min(stops, default=None))


@dataclass
class Guess:
    """The guess for one sequence while it is being made."""

    sequence: Generation
    room: int
    verify: Verify
    tokens: list[int] = field(default_factory=list)
    drawn_from: list[Tensor] = field(default_factory=list)
    ended: bool = False
    advanced: int = 0

    @property
    def slot(self) -> int:
        assert self.sequence.slot is not None
        return self.sequence.slot

    @property
    def open(self) -> bool:
        """Whether another token is to be guessed."""
        return len(self.tokens) < self.room and not self.ended and not self.sequence.finished

    @property
    def length(self) -> int:
        return len(self.sequence.tokens) + len(self.tokens)

    def unread(self, host: Host, program: SiteProgram | None) -> Piece:
        """The next tokens the host has to read, up to its grid."""
        start = host.lengths[self.slot]
        return Piece(self.slot, start, [*self.sequence.tokens, *self.tokens][start : host.next_cut(start)], program)

    def has_read_all(self, host: Host) -> bool:
        return host.lengths[self.slot] == self.length

    def draw(self, logits: Tensor) -> None:
        """Guesses the next token from float32 logits [vocabulary]."""
        sequence, settings, position = self.sequence, self.sequence.settings, self.length
        if self.tokens:
            self.advanced += 1
            sequence.advance(self.tokens[-1])
        if self.verify == "coupled" or settings.temperature == 0:
            token = sequence.drawn(logits, position, self.tokens).token
        else:
            self.drawn_from.append(filtered(sequence.shaped(logits, self.tokens), settings))
            token = invert(self.drawn_from[-1], uniform(settings.seed, position, GUESS))
        self.tokens.append(token)
        self.ended = sequence.ends_with(token)

    def take_back(self) -> None:
        """The sessions forget the guess: it has not been said yet."""
        if self.advanced:
            for session in self.sequence.sessions:
                session.rewind(self.advanced)

    @property
    def draft(self) -> Draft:
        if self.sequence.finished:  # something of its own failed
            return Draft()
        return Draft(self.tokens, torch.stack(self.drawn_from) if self.drawn_from else None)
