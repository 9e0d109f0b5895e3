"""Tables of tokens in the form llguidance reads. Imports nothing else: the trial of a grammar starts with it in 0.1 s."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import llguidance

BYTES = 256


@dataclass(frozen=True)
class _Source:
    """What llguidance asks of a tokenizer."""

    eos_token_id: int
    tokens: Sequence[bytes]
    special_token_ids: Sequence[int]
    bos_token_id: int | None = None

    def __call__(self, text: str) -> list[int]:
        """Asked only where a grammar forces a text upon the model, which the grammars of `grammars.py` never do."""
        raise AssertionError("a grammar forced a text upon the model")


def table(tokens: Sequence[bytes | None], ends: Sequence[int]) -> llguidance.LLTokenizer:
    """Tokens by what they write. Those that write nothing (None) are marked as special, which keeps them out of every text.

    Args:
        tokens: bytes of each id.
        ends: ids that end a text.
    """
    special = [id for id, written in enumerate(tokens) if written is None]
    named = [f"<[{id}]>".encode() if written is None else written for id, written in enumerate(tokens)]
    wrapper = llguidance.TokenizerWrapper(_Source(ends[0], named, special))
    return llguidance.LLTokenizer(wrapper, n_vocab=len(tokens), eos_token=list(ends))


@functools.cache
def byte_table() -> llguidance.LLTokenizer:
    """One token a byte and an end token (256): judges texts without any model."""
    return table([bytes([byte]) for byte in range(BYTES)] + [None], (BYTES,))
