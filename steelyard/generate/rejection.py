"""Rejection: how a guess that was itself sampled is judged, so that what is said follows the answering model's distribution exactly.

A guess d was drawn from q; p is what the answering model makes of the same place, after the same processors and filters:

    accept d with probability min(1, p(d) / q(d)); else draw from max(0, p - q), scaled to sum to 1

Whatever q is, the outcome is distributed as p: q(t) min(1, p(t)/q(t)) + P(rejected) max(0, p(t) - q(t)) / sum max(0, p - q) = p(t).
Sources: Y. Leviathan, M. Kalman, Y. Matias, arXiv:2211.17192, section 2.3 and appendix A.1; C. Chen et al., arXiv:2302.01318, theorem 1.
Noise is keyed by seed, position and purpose. That a position may be guessed again after a rejection before it does no harm: nothing
before a position was decided by that position's noise.
"""

from __future__ import annotations

import math

from torch import Tensor

from steelyard.core.protocols import AnswerSettings
from steelyard.generate.sampling import Draw, filtered, invert, uniform

GUESS, ACCEPT, REPLACE = "guess", "accept", "replace"
"""Purposes of noise: to draw a guess, to judge it, to replace it."""


def judge(logits: Tensor, guessed: Tensor, guess: int, settings: AnswerSettings, position: int) -> Draw:
    """The token that is said where `guess` was guessed.

    Args:
        logits: float32 [vocabulary] of the answering model, shaped by the processors.
        guessed: float32 [vocabulary], the probabilities the guess was drawn from.
        position: index of the token in the whole sequence.

    Raises:
        SteelyardError: no token can be drawn from the logits.
    """
    probabilities = filtered(logits, settings)
    token = guess
    if not uniform(settings.seed, position, ACCEPT) * float(guessed[guess]) < float(probabilities[guess]):
        token = invert(left_over(probabilities, guessed), uniform(settings.seed, position, REPLACE))
    return Draw(token, math.log(float(probabilities[token])))


def left_over(probabilities: Tensor, guessed: Tensor) -> Tensor:
    """max(0, p - q) [vocabulary], what a replacement is drawn from; p itself where rounding left nothing."""
    rest = (probabilities - guessed).clamp(min=0)
    return rest if bool(rest.any()) else probabilities
