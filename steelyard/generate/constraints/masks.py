"""Masks of tokens, 32 a word as llguidance writes them, as what is added to logits.

A table gives eight logits' worth of bars for every byte of the mask; taking rows of it and adding them touches memory twice, where
bools and a choice between two arrays took four times as long (measured amid decoding steps: 15 against 60-120 microseconds for
49,152 logits).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unpacked(words: NDArray[np.int32], count: int) -> NDArray[np.bool_]:
    """bool [count]: which of the first tokens a mask allows."""
    return np.unpackbits(words.view(np.uint8), count=count, bitorder="little").view(np.bool_)


def room(count: int) -> NDArray[np.float32]:
    """Room for the bars of so many tokens: new memory for every token would cost more than the bars themselves."""
    return np.empty((-(-count // 8), 8), np.float32)


def bars(words: NDArray[np.int32], out: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [tokens], written into `room`: 0 for the tokens that a mask allows, -infinity for the others."""
    return _BARS.take(words.view(np.uint8)[: len(out)], axis=0, out=out, mode="clip").reshape(-1)


_BARS = np.where(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), np.float32(0), -np.float32(np.inf))
"""float32 [256, 8]: the bars of each byte of a mask."""
