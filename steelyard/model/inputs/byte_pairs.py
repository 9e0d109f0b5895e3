"""After which bytes the next one is hardest to tell, by counts of pairs of bytes: where patches may end (arXiv:2412.09871, section 2.3).

H(next | b) = - sum_n p(n | b) log2 p(n | b),  p from counts over a corpus. Bytes are taken, hardest first, until patches that end after
them (and at their greatest length) are as short on average as wished. Cost: one pass over at most 4 MB of text.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from steelyard.core.errors import DataError

MOST = 4 << 20
"""Bytes of text that are counted, the first ones: pairs are few, more text changes nothing."""


def next_entropies(text: np.ndarray) -> np.ndarray:
    """Bits of the byte after each of the 256 bytes, float64 [256]; 0 after one that never came.

    Args:
        text: uint8 [n].
    """
    pairs = np.bincount(text[:-1].astype(np.int64) * 256 + text[1:], minlength=65_536).reshape(256, 256).astype(float)
    share = pairs / np.maximum(pairs.sum(1, keepdims=True), 1)
    return -(share * np.log2(np.where(share > 0, share, 1))).sum(1)


def mean_length(text: np.ndarray, ends: Iterable[int], size: int) -> float:
    """Bytes of a patch on average, where patches end after some bytes and at `size` bytes."""
    ending = np.isin(text, np.array(list(ends), dtype=np.uint8))
    stretches = np.diff(np.concatenate(([-1], np.flatnonzero(ending), [len(text) - 1])))
    return len(text) / max(1, int(np.sum(-(-stretches // size))))


def hardest(texts: Iterable[str], mean: float, size: int) -> tuple[int, ...]:
    """The fewest bytes, hardest to go on from first, after which patches end that are at most `mean` bytes on average: ascending.

    Raises:
        DataError: there is no text.
    """
    held, count = [], 0
    for text in texts:
        held.append(np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8))
        count += len(held[-1])
        if count >= MOST:
            break
    text = np.concatenate(held)[:MOST] if held else np.zeros(0, np.uint8)
    if len(text) < 2:
        raise DataError("there is no text to learn the ends of patches from", do="Name texts that are not empty.")
    order = np.argsort(-next_entropies(text), kind="stable").tolist()
    few, many = 0, 256
    while few < many:
        middle = (few + many) // 2
        few, many = (few, middle) if mean_length(text, order[:middle], size) <= mean else (middle + 1, many)
    return tuple(sorted(order[:many]))
