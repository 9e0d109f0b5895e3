"""Biases of single tokens, as OpenAI's API has them: added to their logits before anything is drawn.

    logit_i += bias_i;  a bias of -100 rules the token out altogether

Between -1 and 1 a token becomes less or more likely, 100 makes it all but certain. They act after constraints, which keep the last
word (what they rule out no bias brings back), together with the penalties, and before temperature and the filters. Where a form allows
only tokens that are ruled out here, nothing can be drawn, and the answer fails.
Source: the parameter `logit_bias` of OpenAI's API. Cost: one addition for each biased token, for each token drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor

from steelyard.core.errors import SteelyardError
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.processor import PENALTY, View

BAN = -100.0
"""The bias that rules a token out."""
MOST = 1024
"""Biased tokens of one request."""


@dataclass(frozen=True)
class LogitBias:
    """The biases of one request.

    Attributes:
        biases: (token id, bias) each; ids are in the vocabulary and named once.
    """

    biases: tuple[tuple[int, float], ...]

    order = PENALTY

    @property
    def fingerprint(self) -> str:
        return digest(["logit bias", *map(list, self.biases)])

    def start(self, settings: AnswerSettings) -> LogitBiasSession:
        return LogitBiasSession(self.biases)


class LogitBiasSession:
    """Adds the biases; what was drawn does not matter to it."""

    def __init__(self, biases: tuple[tuple[int, float], ...]):
        self.ids = torch.tensor([id for id, _ in biases], dtype=torch.int64)
        self.added = torch.tensor([-math.inf if bias <= BAN else bias for _, bias in biases], dtype=torch.float32)

    def __call__(self, logits: Tensor, view: View) -> Tensor:
        logits = logits.clone()
        ids = self.ids.to(logits.device)
        logits[ids] += self.added.to(logits.device, logits.dtype)
        return logits

    def advance(self, token: int) -> None: ...

    def rewind(self, count: int) -> None: ...


def requested(settings: AnswerSettings, vocabulary: int) -> tuple[LogitBias, ...]:
    """What biases the tokens of one request, where it asks for that.

    Raises:
        SteelyardError: an id outside the vocabulary or named twice, a bias that is no number from -100 to 100, or too many of them.
    """
    if not settings.logit_bias:
        return ()
    where = "answer settings: logit_bias"
    if len(settings.logit_bias) > MOST:
        raise SteelyardError(f"{len(settings.logit_bias):,} tokens", where=where, do=f"At most {MOST:,} may be biased.")
    seen: set[int] = set()
    for entry in settings.logit_bias:
        id, bias = entry if isinstance(entry, tuple | list) and len(entry) == 2 else (None, None)
        if not isinstance(id, Integral) or isinstance(id, bool) or not 0 <= id < vocabulary:
            raise SteelyardError(f"{id!r:.40} is no token id below {vocabulary:,}", where=where, do="Ask /tokenize for the ids of a text.")
        if not isinstance(bias, Real) or isinstance(bias, bool) or not -100 <= bias <= 100:
            raise SteelyardError(f"the bias of token {id} is {bias!r:.40}", where=where, do="Give a number from -100 to 100.")
        if int(id) in seen:
            raise SteelyardError(f"token {id} is named twice", where=where, do="Name it once.")
        seen.add(int(id))
    return (LogitBias(tuple((int(id), float(bias)) for id, bias in settings.logit_bias)),)
