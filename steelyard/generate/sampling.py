"""Drawing a token: filters on probabilities, then noise keyed by (seed, position).

The draw inverts the distribution function at one uniform number u(seed, position): token = min{i: F(i) > u}. A token is thus a
function of logits, seed and position alone, so batching, speculation and resumption cannot change it.
Where filters leave few tokens, only these are looked at (`candidates.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import AnswerSettings
from steelyard.core.seeds import derive
from steelyard.generate.candidates import COLDEST, Candidates, Wish, read, restricted, restricted_to
from steelyard.kernels import native

NUMBERS = {"int": numbers.Integral, "float": numbers.Real}
UNDRAWABLE = "no token can be drawn: the logits hold NaN or infinity, or every token is ruled out"


SAMPLE, AFTERWARDS = "sample", "sample under a mask"
"""Purposes of noise: to draw, and to draw once `permitted` has asked in vain."""
TRIES = 4
"""How many tokens a draw under a ruling session (a constraint) asks about one by one, before it rules on all at once."""


@dataclass(frozen=True)
class Draw:
    """A drawn token and its natural log-probability under the distribution it was drawn from, shaped and filtered (0 when greedy; not a
    number where `permitted` drew it without knowing the sum of what is permitted)."""

    token: int
    logprob: float


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def check(settings: AnswerSettings) -> None:
    """Refuses settings that mean nothing."""
    if not isinstance(settings, AnswerSettings):
        raise SteelyardError(f"settings of type {type(settings).__name__}", where="answer settings", do="Give AnswerSettings(...).")
    for field in dataclasses.fields(settings):
        kind, value = NUMBERS.get(str(field.type)), getattr(settings, field.name)
        if kind is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            raise SteelyardError(f"{field.name} is {value!r}", where="answer settings", do=f"Give a number of type {field.type}.")
    if isinstance(settings.stop, str) or not all(isinstance(stop, str) for stop in settings.stop):
        raise SteelyardError(f"stop is {settings.stop!r}", where="answer settings", do="Give a list of strings.")
    if settings.tools:
        raise SteelyardError(
            "tools are written into a conversation, and this goes on with text",
            where="answer settings",
            do="Ask through `steelyard.augment.answerers.LocalAnswerer`, or render the conversation with `tools=`.",
        )
    limits = {
        "max_tokens": settings.max_tokens >= 1,
        "temperature": 0 <= settings.temperature < 1e4,
        "top_k": settings.top_k >= 0,
        "top_p": 0 < settings.top_p <= 1,
        "min_p": 0 <= settings.min_p <= 1,
        "repetition_penalty": 0 < settings.repetition_penalty < 1e4,
        "presence_penalty": abs(settings.presence_penalty) <= 1e4,
        "frequency_penalty": abs(settings.frequency_penalty) <= 1e4,
        "alternatives": 0 <= settings.alternatives <= 100,
        "seconds": settings.seconds is None or _positive(settings.seconds),
        "tenant": isinstance(settings.tenant, str),
    }
    for name, fine in limits.items():
        if not fine:
            value = getattr(settings, name)
            raise SteelyardError(
                f"{name} is {value!r}", where="answer settings", do="See steelyard.core.protocols.AnswerSettings for what it means."
            )
    if any(not stop for stop in settings.stop):
        raise SteelyardError("an empty stop string", where="answer settings", do="Leave it out.")


@functools.lru_cache(maxsize=4096)
def uniform(seed: int, position: int, purpose: str = SAMPLE) -> float:
    """A number in [0, 1) that depends on its keys alone."""
    return (derive(int(seed), int(position), purpose) >> 10) / 2**53


def filtered(logits: Tensor, settings: AnswerSettings) -> Tensor:
    """Probabilities float32 [vocabulary] after temperature, top-k, top-p and min-p, in this order; they sum to 1.

    Ties at a threshold are all kept, so that the outcome does not depend on the order of tokens.
    """
    logits = logits.float()
    probabilities = torch.softmax((logits - logits.max()) / max(settings.temperature, COLDEST), -1)
    if settings.top_k and settings.top_k < probabilities.numel():
        least = torch.topk(probabilities, settings.top_k).values[-1]
        probabilities = torch.where(probabilities >= least, probabilities, 0.0)
    if settings.top_p < 1:
        probabilities = nucleus(probabilities, settings.top_p)
    if settings.min_p:
        probabilities = torch.where(probabilities >= settings.min_p * probabilities.max(), probabilities, 0.0)
    return probabilities / probabilities.sum()


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Keeps the smallest set of likeliest tokens whose share reaches `top_p` (arXiv:1904.09751)."""
    return torch.where(probabilities >= cutoff(probabilities, probabilities, top_p), probabilities, 0.0)


def cutoff(ranks: Tensor, probabilities: Tensor, share: float) -> Tensor:
    """The least rank of the smallest set of highest-ranked tokens whose probabilities reach a share of their sum.

    The candidates are looked for among a growing number of the highest ranks: a full sort is rarely needed.
    """
    total, count = float(probabilities.sum()), 64
    while True:
        count = min(count, probabilities.numel())
        top = torch.topk(ranks, count)
        shares = probabilities[top.indices].cumsum(0)
        if float(shares[-1]) >= share * total or count == probabilities.numel():
            reached = int((shares < share * total).sum())
            return top.values[min(reached, count - 1)]
        count *= 8


def draw(
    logits: Tensor,
    settings: AnswerSettings,
    position: int,
    found: Candidates | None = None,
    pool: native.Pool | None = None,
    purpose: str = SAMPLE,
) -> Draw:
    """One token from float32 logits [vocabulary].

    Args:
        position: index of the token in the whole sequence; with the seed it keys the noise.
        found: what is known of these very logits already (`candidates.wish`); the choice is the same without.
        pool: C++ routines to look for candidates with where nothing is known.
        purpose: of the noise.

    Raises:
        SteelyardError: no token can be drawn, because the logits hold NaN or +infinity or every token is ruled out.
    """
    if settings.temperature == 0:
        if found is not None and len(found.ids) and math.isfinite(found.largest):
            return Draw(int(found.ids[0]), 0.0)
        # On a CPU by NumPy, which is quicker for one row than waking PyTorch's threads.
        token = int(logits.numpy().argmax() if logits.device.type == "cpu" else logits.argmax())
        if not math.isfinite(float(logits[token])):
            raise SteelyardError(UNDRAWABLE, where="sampling")
        return Draw(token, 0.0)
    u = uniform(settings.seed, position, purpose)
    if cut(settings, len(logits)):
        ids, weights = restricted(logits, settings, found, pool)
        if not len(ids):
            raise SteelyardError(UNDRAWABLE, where="sampling")
        return _among(ids, weights, u)
    probabilities = filtered(logits, settings)
    token = invert(probabilities, u)
    return Draw(token, math.log(float(probabilities[token])))


def permitted(
    logits: Tensor,
    settings: AnswerSettings,
    position: int,
    permits: Callable[[int], bool],
    found: Candidates | None = None,
    pool: native.Pool | None = None,
) -> Draw | None:
    """One token of those that `permits` allows, drawn by asking about a few: as from the row where all others are -infinity.

    Greedy: the likeliest that is permitted. Under top-k, top-p or min-p: the token that `draw` takes of the masked row. Of the whole
    distribution: what is drawn and not permitted is drawn again with other noise, which leaves the permitted ones in proportion
    (rejection sampling: J. von Neumann, Various techniques used in connection with random digits, 1951).

    Args:
        permits: whether a token may come.

    Returns:
        None where a few tokens do not settle it: then mask the row and `draw` with the noise of `AFTERWARDS`.

    Raises:
        SteelyardError: no token can be drawn from the row, whatever is permitted.
    """
    if settings.temperature == 0:
        likeliest = draw(logits, settings, position, found).token
        others = found.ids[1:TRIES].tolist() if found is not None else []
        return next((Draw(token, 0.0) for token in (likeliest, *others) if permits(token)), None)
    if cut(settings, len(logits)):
        some = restricted_to(permits, logits, settings, found, pool)
        return None if some is None else _among(*some, uniform(settings.seed, position, AFTERWARDS))
    probabilities = filtered(logits, settings)
    shares = probabilities.double().cumsum(0)
    for number in range(TRIES):
        token = _passing(probabilities, shares, uniform(settings.seed, position, f"{SAMPLE} {number}" if number else SAMPLE))
        if permits(token):
            return Draw(token, math.nan)
    return None


def cut(settings: AnswerSettings, vocabulary: int) -> bool:
    """Whether top-k, top-p or min-p leave tokens out."""
    return 0 < settings.top_k < vocabulary or settings.top_p < 1 or settings.min_p > 0


def _among(ids: NDArray[np.int32], weights: NDArray[np.float64], u: float) -> Draw:
    """The one of a few tokens at which the sum of weights [k] passes a share u of it."""
    shares = weights.cumsum()
    place = min(int(np.searchsorted(shares, u * shares[-1], side="right")), int(weights.nonzero()[0][-1]))
    return Draw(int(ids[place]), math.log(float(weights[place] / shares[-1])))


def invert(probabilities: Tensor, u: float) -> int:
    """The token at which the distribution function of float32 probabilities [vocabulary] (of any sum) passes a share u of their sum.

    Raises:
        SteelyardError: the probabilities are all zero, or not numbers.
    """
    return _passing(probabilities, probabilities.double().cumsum(0), u)


def _passing(probabilities: Tensor, shares: Tensor, u: float) -> int:
    """`invert`, of probabilities and their sums so far, float64."""
    total = float(shares[-1])
    if not total > 0:
        raise SteelyardError(UNDRAWABLE, where="sampling")
    token = int(torch.searchsorted(shares, torch.tensor(u * total, dtype=torch.float64, device=shares.device), right=True))
    token = min(token, probabilities.numel() - 1)
    if probabilities[token] == 0:  # u landed on the last cumulative value by rounding
        token = int(probabilities.nonzero()[-1])
    return token


@dataclass(frozen=True)
class Confidence:
    """The model's own view of a token, before any processing: natural log-probability, entropy (nats), likeliest others."""

    logprob: float
    entropy: float
    alternatives: tuple[tuple[int, float], ...]


def confidence(
    logits: Tensor, tokens: list[int], alternatives: int, pool: native.Pool | None = None, found: Sequence[Candidates] = ()
) -> list[Confidence]:
    """For rows of float32 logits [n, vocabulary] and the token drawn from each; `pool`: C++ routines to do it with; `found`: what is
    known of each row already.

    Every row is summed by itself: PyTorch splits the sum of a lone row among threads, that of one among many not.
    """
    picked = logits.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    if not found and pool is not None:
        found = read(logits, [Wish(alternatives, sums=True)] * len(tokens), pool)
    sums, entropies = [one.log_sum for one in found], [one.entropy for one in found]
    if not found:
        sums = [float(row.logsumexp(-1)) for row in logits]
        entropies = [float(row.sum()) for row in torch.special.entr(torch.softmax(logits, -1))]
    likeliest = [(one.ids[:alternatives].tolist(), one.logits[:alternatives].tolist()) for one in found]
    if alternatives and not found:
        top = logits.topk(min(alternatives, logits.shape[-1]), -1)
        likeliest = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    others: list[tuple[tuple[int, float], ...]] = [()] * len(tokens)
    if alternatives:
        others = [
            tuple((token, value - total) for token, value in zip(ids, values, strict=True))
            for (ids, values), total in zip(likeliest, sums, strict=True)
        ]
    logprobs = [0.0 if value > total else value - total for value, total in zip(picked, sums, strict=True)]
    return [Confidence(*one) for one in zip(logprobs, entropies, others, strict=True)]
