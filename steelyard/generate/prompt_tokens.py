"""How probable each token of a given text is after those before it: what is told of a prompt that an answer repeats.

The first token follows nothing, so nothing is told of it. Cost: the text is read once, with the head on every token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Literal

from torch import Tensor

from steelyard.core.protocols import Token
from steelyard.generate.candidates import Candidates, Wish
from steelyard.generate.host import Pass
from steelyard.generate.sampling import Confidence, confidence
from steelyard.generate.scoring import Item, Scoring
from steelyard.model.tokenizer_stream import StreamDecoder


class PromptTokens(Scoring):
    """A text being read; `on_tokens` hears its tokens once, or why there are none. For the scheduler it is a text that is scored.

    Args:
        tokens: at least one.
        alternatives: likeliest tokens to tell at each place.
        decoder: gives each token's text.
        on_tokens: called on the engine's thread.
    """

    wish = Wish()

    def __init__(self, tokens: list[int], alternatives: int, decoder: StreamDecoder, on_tokens: Callable[[list[Token] | str], None]):
        super().__init__([Item(tokens, 1, 0)], lambda number, score: None)
        self.alternatives, self.decoder, self.on_tokens = alternatives, decoder, on_tokens
        self.views: list[Confidence] = []

    def heard(self, position: int, logits: Tensor, found: Many[Candidates]) -> None:
        del found
        self.views += confidence(logits, self.tokens[position + 1 : position + 1 + len(logits)], self.alternatives)

    def took(self, read: Pass, piece: int, start: int, count: int) -> None:
        del read, piece
        if start + count == self.read_until:
            self.finished = True
            self.on_tokens(told(self.tokens, self.views, self.decoder))

    def fail(self, message: str) -> None:
        self.finished = True
        self.on_tokens(message)

    def stop_early(self, reason: Literal["cancelled", "timeout"]) -> None:
        self.fail(reason)


def told(tokens: list[int], views: list[Confidence], decoder: StreamDecoder) -> list[Token]:
    """Tokens with what the model thought of each; NaN where it thought nothing, of the first."""
    texts = [decoder.push(token) for token in tokens]
    first = Token(tokens[0], texts[0], math.nan, math.nan, math.nan)
    pairs = zip(tokens[1:], texts[1:], views, strict=True)
    return [first, *(Token(id, text, view.logprob, view.entropy, math.nan, view.alternatives) for id, text, view in pairs)]
