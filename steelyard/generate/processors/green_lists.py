"""Green lists: which tokens a watermark favours after which others, and whether a text holds more of them than chance would.

A token is green after a context (the `width` tokens before it) where a number that only the key's owner can compute is small:

    seed = BLAKE2b(context; key),  u_t = t-th output of SplitMix64 from seed / 2^64,  t is green where u_t < gamma

A text of n scored tokens, g of them green, is told by

    z = (g - gamma n) / sqrt(n gamma (1 - gamma)),  p = P(Binomial(n, gamma) >= g)

Source: J. Kirchenbauer et al., A Watermark for Large Language Models, arXiv:2301.10226.
Two things differ from it. Each token is green by a number of its own instead of by its place in a permutation of the
vocabulary: a list holds gamma of the vocabulary on average only, and in return to mark costs no sort, to check a token costs one
hash, and the detector need not know how many rows the model's table has. And p is the binomial's own tail: the normal curve's is
too small for short texts.
An n-gram (context and token) that comes again is green again whatever the key: counted each time, texts that repeat themselves
would seem marked. Each is counted once, so that over keys g of an unmarked text follows the binomial exactly.
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from scipy.special import betainc

from steelyard.core.errors import DataError, SteelyardError
from steelyard.model.tokenizer import Tokenizer

FALSE_POSITIVES = 3e-5
"""Of unmarked texts, the share that may be called marked; a normal z of 4, the paper's bar, has this tail."""
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = 2**64 - 1
_PIECE = 8192
"""Tokens hashed at a time: their 64 KB stay in the processor's cache, which makes a list of 49,152 three times as fast."""


@dataclass(frozen=True)
class GreenLists:
    """All lists of one key.

    Attributes:
        key: whoever knows it can find the mark, remove it, and forge it.
        gamma: share of tokens that are green.
        width: tokens of context.
    """

    key: str
    gamma: float = 0.25
    width: int = 1

    def __post_init__(self) -> None:
        fine = {"key": bool(self.key), "gamma": 0 < self.gamma < 1, "width": self.width >= 1}
        for name in (name for name, right in fine.items() if not right):
            shown = "empty" if name == "key" else getattr(self, name)
            raise SteelyardError(
                f"{name} is {shown}", where="watermark", do="gamma lies between 0 and 1, width is at least 1, a key has a letter or more."
            )

    @functools.cached_property
    def _secret(self) -> bytes:
        return hashlib.blake2b(self.key.encode("utf-8", "surrogatepass")).digest()

    def seed(self, context: Sequence[int]) -> int:
        """64 bits that stand for a context."""
        packed = struct.pack(f"<{len(context)}Q", *context)
        return int.from_bytes(hashlib.blake2b(packed, digest_size=8, key=self._secret).digest(), "little")

    def after(self, context: Sequence[int], vocabulary: int) -> numpy.ndarray:
        """The green tokens after a context, as bool [vocabulary]."""
        seed, least_red, out = numpy.uint64(self.seed(context)), numpy.uint64(self._least_red), numpy.empty(vocabulary, bool)
        for start in range(0, vocabulary, _PIECE):
            z = _steps(vocabulary)[start : start + _PIECE] + seed
            z ^= z >> numpy.uint64(30)
            z *= numpy.uint64(_FIRST)
            z ^= z >> numpy.uint64(27)
            z *= numpy.uint64(_SECOND)
            z ^= z >> numpy.uint64(31)
            numpy.less(z, least_red, out=out[start : start + _PIECE])
        return out

    def holds(self, context: Sequence[int], token: int) -> bool:
        """Whether one token is green after a context; what `after` says of it."""
        z = (self.seed(context) + (token + 1) * _GOLDEN) & _MASK
        z = ((z ^ (z >> 30)) * _FIRST) & _MASK
        z = ((z ^ (z >> 27)) * _SECOND) & _MASK
        return (z ^ (z >> 31)) < self._least_red

    @property
    def _least_red(self) -> int:
        return int(self.gamma * 2**64)

    def least(self, false_positives: float) -> int:
        """Scored tokens below which no text, were it all green, could be called marked: gamma^n > false_positives."""
        return max(1, math.ceil(math.log(false_positives) / math.log(self.gamma)))


@functools.lru_cache(maxsize=4)
def _steps(vocabulary: int) -> numpy.ndarray:
    """How far SplitMix64's counter has gone at each token, as uint64 [vocabulary]."""
    steps = numpy.arange(1, vocabulary + 1, dtype=numpy.uint64) * numpy.uint64(_GOLDEN)
    steps.flags.writeable = False
    return steps


@dataclass(frozen=True)
class Detection:
    """What was found in a text.

    Attributes:
        tokens: all tokens of the text.
        scored: different n-grams, of which each was counted once.
        green: those whose last token is green.
        expected: green ones an unmarked text has on average.
        z_score: distance of `green` from `expected`, in standard deviations of an unmarked text.
        p_value: share of keys under which an unmarked text has as many green ones.
        marked: whether `p_value` is at most the false positives allowed.
    """

    tokens: int
    scored: int
    green: int
    expected: float
    z_score: float
    p_value: float
    marked: bool

    @property
    def verdict(self) -> str:
        return "marked" if self.marked else "no mark found"


def detect(tokens: Sequence[int], lists: GreenLists, false_positives: float = FALSE_POSITIVES) -> Detection:
    """Looks for the mark of a key in a text's token ids.

    The first `width` tokens have no context and are not scored. Text before or after the marked one (a prompt, say) only
    dilutes: with m marked and u unmarked tokens, z is about sqrt(m / (m + u)) of what it would be alone. A changed token
    spoils the n-grams it is part of, width + 1 in all.

    Raises:
        DataError: too few n-grams for any verdict but one.
        SteelyardError: `false_positives` is no share.
    """
    if not 0 < false_positives < 1:
        raise SteelyardError(f"false_positives is {false_positives}", where="watermark", do="Give a share between 0 and 1, such as 3e-5.")
    width = lists.width
    grams = {tuple(tokens[place - width : place + 1]) for place in range(width, len(tokens))}
    n, least = len(grams), lists.least(false_positives)
    if n < least:
        raise DataError(
            f"{len(tokens)} tokens with {n} different {width + 1}-grams are too few to tell: even if all were green, chance would do the "
            f"same more often than {false_positives:g}",
            do=f"Give a text with at least {least} different {width + 1}-grams, or allow more false positives.",
        )
    green = sum(lists.holds(gram[:-1], gram[-1]) for gram in grams)
    expected = lists.gamma * n
    p_value = float(betainc(green, n - green + 1, lists.gamma)) if green else 1.0
    z_score = (green - expected) / math.sqrt(expected * (1 - lists.gamma))
    return Detection(len(tokens), n, green, expected, z_score, p_value, p_value <= false_positives)


def detect_text(text: str, tokenizer: Tokenizer, lists: GreenLists, false_positives: float = FALSE_POSITIVES) -> Detection:
    """Looks for the mark in a text, with the tokenizer of the model that may have written it.

    A text need not be cut into the tokens it was written in; where it is not, the tokens there count as changed ones.

    Raises:
        DataError: the text is too short, or no text that can be written as UTF-8.
    """
    return detect(tokenizer.encode(text), lists, false_positives)
