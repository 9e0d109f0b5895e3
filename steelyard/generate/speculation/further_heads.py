"""Guesses by a model's own further heads: one pass says the next token and, less surely, the ones after it.

    d_1 ~ p_1(. | x_{<=t}),  d_j ~ p_j(x_{t+j} | x_{<=t}),  j = 2 ... k       from one hidden state

The model is one that was made with `head: multi_token`. Guesses are verified as those of any draft (`speculative.py`): the distribution
is kept (`rejection`), or the very text (`coupled`). Source: F. Gloeckle et al., arXiv:2404.19737, section 3.2.
Cost: no memory. A guess of any length costs one pass over one token, and its verification another; it pays from two right guesses on.
(The paper reads guesses off the pass that verified the last ones; here each guess has a pass of its own, through the same code as drafts.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from steelyard.core.errors import SteelyardError
from steelyard.core.levers import Lever
from steelyard.generate.guesses import Draft
from steelyard.generate.host import Host, Place
from steelyard.generate.sequences import Generation, attempt
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.drafting import Drafter, Guess, Verify

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FurtherHeads(Drafter):
    """Guesses of at most `horizon` tokens, read off the heads of the answering model."""

    def propose_together(self, host: Host, sequences: Sequence[Generation], rooms: Sequence[int]) -> list[Draft]:
        """As `Drafter`, but all tokens of a guess follow from one hidden state."""
        guesses = [Guess(sequence, room, self.verify) for sequence, room in zip(sequences, rooms, strict=True)]
        waiting, program = [guess for guess in guesses if guess.open], self._program(host)
        while waiting:
            pieces = [guess.unread(host, guess.sequence.program) for guess in waiting]
            read = host.run(pieces, "rows", program)
            ends = [Place(number, len(pieces[number].tokens) - 1) for number, guess in enumerate(waiting) if guess.has_read_all(host)]
            if ends:
                self._draw([waiting[place.piece] for place in ends], read.at(ends), host)
            waiting = [guess for guess in waiting if not guess.has_read_all(host) and not guess.tokens]
        for guess in guesses:
            attempt(guess.sequence, guess.take_back)
            if guess.room:
                host.rewind(guess.slot, guess.sequence.cached)
        return [guess.draft for guess in guesses]

    def _draw(self, guesses: list[Guess], hidden_nd: Tensor, host: Host) -> None:
        """All tokens of some guesses, head after head."""
        for ahead in range(1, self.horizon + 1):
            if not any(guess.open for guess in guesses):
                return
            logits = further(host, hidden_nd, ahead)
            for guess, told in zip(guesses, logits, strict=True):
                if guess.open:
                    attempt(guess.sequence, guess.draw, told)


def further(host: Host, hidden_nd: Tensor, ahead: int) -> Tensor:
    """Float32 logits [n, v] of the token so many places ahead; few rows are padded where row invariance wants it."""
    head: Any = host.trunk.heads["lm"]
    padding = hidden_nd.new_zeros(-len(hidden_nd) % host.tile, hidden_nd.shape[1])
    return head.ahead(torch.cat((hidden_nd, padding)), ahead)[: len(hidden_nd)]


class FurtherHeadsLever(Lever):
    """Speculation by the answering model's further heads."""

    name: ClassVar[str] = "further_heads"
    idea: ClassVar[str] = (
        "A model that learned to predict several tokens at once guesses them from one pass and verifies them in the next. "
        "What is said does not change in distribution (`rejection`) or at all (`coupled`)."
    )
    equation: ClassVar[str] = "q_j = softmax(E h_j), j = 1..k from one state; accept d ~ q_j with probability min(1, p(d)/q_j(d))"
    paper: ClassVar[str] = "arXiv:2404.19737"
    cost: ClassVar[str] = "One pass for a guess of any length; a pass over up to tokens + 1 positions to verify it."
    main: ClassVar[str] = "tokens"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    conflicts: ClassVar[frozenset[str]] = frozenset({"speculation"})
    provides: ClassVar[frozenset[str]] = frozenset({"speculation"})
    identity: ClassVar[dict] = {"tokens": 0}
    evidence: ClassVar = "mechanism"
    per_request: ClassVar[bool] = True

    tokens: int | None = Field(None, ge=0, le=64, description="longest guess, in tokens; 0 turns it off; unset: one for each head")
    verify: Verify = Field("rejection", description="`rejection` keeps the distribution, `coupled` the very text of plain decoding")

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """Lets the engine guess by the model's further heads.

        Raises:
            SteelyardError: the model has none, or too few for so long a guess.
        """
        if self.tokens == 0:
            return spec
        heads = getattr(spec.model.trunk.heads["lm"].plan, "tokens", 1)
        longest = self.tokens or heads
        if heads == 1 or longest > heads:
            raise SteelyardError(
                f"guesses of {longest} tokens by {spec.model.name}, which predicts {heads} at a place",
                where="further_heads",
                do="Shorten them." if heads > 1 else "Use a model made with `head: multi_token`.",
            )
        return replace(spec, speculation=FurtherHeads(longest, None, self.verify))
