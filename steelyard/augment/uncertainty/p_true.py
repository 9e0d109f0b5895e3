"""P(True): the model is shown its answer and asked whether it is right.

    p = exp(l_True) / (exp(l_True) + exp(l_False)),  l_w = log p(w | conversation, answer, "Is that answer right? ...")

Source: S. Kadavath et al., Language models (mostly) know what they know, arXiv:2207.05221, section 4. Small models say True of nearly
everything; the order may still be of use, and calibration shows whether it is.
Cost: the conversation is read once more, with the answer (a prefix cache holds the most of it), and two words are scored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

from steelyard.augment.uncertainty.measure import Asked
from steelyard.core.protocols import ScoringAnswerer

QUESTION = "Is that answer right? Say True or False."


@dataclass(frozen=True)
class PTrue:
    """Probability of "True" beside "False"."""

    needs: ClassVar[frozenset[str]] = frozenset({"score"})
    tokens: ClassVar[bool] = False
    alternatives: ClassVar[int] = 0

    async def value(self, asked: Asked) -> float | None:
        scores = await cast(ScoringAnswerer, asked.answerer).score(asked.with_answer(QUESTION), ["True", "False"])
        true, false = (score.logprob for score in scores)
        if math.isnan(true) or math.isnan(false) or true == false == -math.inf:
            return None
        if -math.inf in (true, false):
            return float(false == -math.inf)
        return 1 / (1 + math.exp(min(false - true, 700.0)))
