"""Candidates: the few tokens that a draw can choose among, and what else is asked of a row of logits.

With top-k, top-p or min-p only the likeliest tokens can be drawn. Who knows the K likeliest, and for top-p the mass of all, need not
go over the other tens of thousands:

    w_i = e^((l_i - max l) / T);   top-k: l_i >= the k-th largest;   top-p: sum of the likelier w < p * mass;   min-p: w_i >= min_p

The head finds K of them while it computes the logits (native/source/head.hpp). Where they do not suffice (a flat distribution, ties at
the K-th place) more are looked for in the whole row: the choice is the same. `found_in` is the readable twin of what the head finds:
ids and logits are equal to the bit; a mass is summed in 32 bits there and in 64 here, so the two differ in the seventh digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steelyard.core.protocols import AnswerSettings
from steelyard.kernels import head, native

FIRST = 64
"""Candidates that a draw begins with where nothing says how many it needs."""
MOST = 128
"""The most candidates a head looks for: keeping more of them in order would take longer than going over the row again."""
REACHES = (5.0, 8.0, 12.0, math.inf)
"""How far below the likeliest, in logits over the temperature, tokens are put in order where the head's candidates do not suffice."""
ROUNDING = 1e-5
"""More than what a mass summed in 32 bits is wrong by, as a share of it."""
COLDEST = 1e-30
"""Below this temperature only exact ties share the probability: the limit is reached and nothing overflows."""


@dataclass(frozen=True)
class Wish:
    """What will be asked of a row of logits.

    Attributes:
        best: how many of the likeliest tokens.
        temperature: of the mass, or 0 where none is asked for.
        sums: whether the log of the sum of exponentials and the entropy are.
    """

    best: int = 0
    temperature: float = 0.0
    sums: bool = False


@dataclass(frozen=True)
class Candidates:
    """What a wish brought.

    Attributes:
        ids, logits: int32 and float32 [k], the likeliest first, of equal ones the lower id; -infinity is never among them.
        whole: whether no other token can be drawn.
        largest: the largest logit of all; not a number where one of the logits is none, or infinite.
        mass: sum of e^((logit - largest) / temperature) over all tokens, or None.
        log_sum, entropy: of all tokens, in nats; not a number where nobody asked.
    """

    ids: NDArray[np.int32]
    logits: NDArray[np.float32]
    whole: bool
    largest: float
    mass: float | None = None
    log_sum: float = math.nan
    entropy: float = math.nan


def wish(settings: AnswerSettings, tries: int = 1) -> Wish:
    """What drawing by these settings, and telling how sure it was, asks of a row; `tries`: how many tokens a greedy draw may look at."""
    temperature = max(settings.temperature, COLDEST) if settings.temperature > 0 and settings.top_p < 1 and not settings.top_k else 0.0
    if settings.temperature == 0:
        best = tries
    elif settings.top_k:
        best = settings.top_k + 8  # one more shows where the kept ones end, a few more that ties do
    else:
        best = FIRST if settings.top_p < 1 or settings.min_p else 0
    best = max(best if best <= MOST else 0, settings.alternatives if settings.token_events else 0)
    return Wish(best, temperature, settings.token_events)


def read(logits: Tensor, wishes: Sequence[Wish], pool: native.Pool) -> list[Candidates]:
    """What is wished for of rows of float32 logits [n, vocabulary] on a CPU."""
    parts = [one.best for one in wishes], [one.sums for one in wishes], [one.temperature for one in wishes]
    return unpacked(head.read(pool, logits.contiguous(), *parts), wishes, logits.shape[1])


def compute(hidden: Tensor, matrix: native.Matrix, wishes: Sequence[Wish], pool: native.Pool) -> tuple[Tensor, list[Candidates]]:
    """Logits float32 [n, vocabulary] of hidden states [n, width], and what is wished for of each row, in one go."""
    parts = [one.best for one in wishes], [one.sums for one in wishes], [one.temperature for one in wishes]
    logits, found = head.compute(pool, matrix, hidden, *parts)
    return logits, unpacked(found, wishes, matrix.outputs)


def on_device(logits: Tensor, wishes: Sequence[Wish]) -> list[Candidates]:
    """The same of rows that lie on a GPU, found there for all of them and fetched at once: who asked row by row, number by number, would
    wait for the GPU several times a row."""
    most = min(max((one.best for one in wishes), default=0), logits.shape[1])
    largest, unasked = logits.amax(-1, keepdim=True), logits.new_full((len(logits), 1), math.nan)
    if most > 1:  # sorted, not only the largest picked, because of equal ones the lower ids are wanted
        values, ids = logits.sort(dim=-1, descending=True, stable=True)
    else:
        values, ids = largest, logits.argmax(-1, keepdim=True)
    masses = sums = entropies = unasked
    if any(one.temperature for one in wishes):
        heats = torch.tensor([[one.temperature or 1.0] for one in wishes], device=logits.device)
        masses = ((logits - largest) / heats).exp().sum(-1, keepdim=True, dtype=torch.float64)
    if any(one.sums for one in wishes):
        sums, entropies = logits.logsumexp(-1, keepdim=True), torch.special.entr(logits.softmax(-1)).sum(-1, keepdim=True)
    columns = (ids[:, :most], values[:, :most], largest, sums, entropies, masses)
    rows = torch.cat([column.double() for column in columns], 1).cpu().numpy()
    return [_fetched(row, most, one, logits.shape[1]) for row, one in zip(rows, wishes, strict=True)]


def _fetched(row: NDArray[np.float64], most: int, one: Wish, vocabulary: int) -> Candidates:
    """One row as `on_device` fetches it: ids, logits, largest, sum, entropy, mass."""
    ids, values = row[:most].astype(np.int32), row[most : 2 * most].astype(np.float32)
    largest, log_sum, entropy, mass = row[2 * most :].tolist()
    count = min(one.best, int((values > -np.inf).sum()))
    finite = math.isfinite(largest)
    return Candidates(
        ids[:count],
        values[:count],
        count < one.best or count == vocabulary,
        largest if finite or largest == -math.inf else math.nan,
        mass if one.temperature and finite else None,
        log_sum if one.sums and finite else math.nan,
        entropy if one.sums and finite else math.nan,
    )


def unpacked(found: head.Found, wishes: Sequence[Wish], vocabulary: int) -> list[Candidates]:
    """Row by row."""
    out = []
    columns = (found.count, found.largest, found.masses, found.log_sums, found.entropies)
    for row, (one, count, largest, mass, log_sum, entropy) in enumerate(zip(wishes, *(column.tolist() for column in columns), strict=True)):
        out.append(
            Candidates(
                found.ids[row, :count],
                found.values[row, :count],
                count < one.best or count == vocabulary,
                largest,
                mass if one.temperature else None,
                log_sum if one.sums else math.nan,
                entropy if one.sums else math.nan,
            )
        )
    return out


def found_in(logits: NDArray[np.float32], one: Wish) -> Candidates:
    """The same of one row of logits [vocabulary], in NumPy."""
    best = min(one.best, len(logits))
    if best and best < len(logits):
        least = np.partition(logits, len(logits) - best)[len(logits) - best]  # numbers that are none come last
        some = np.flatnonzero(~(logits < least))
    else:
        some = np.flatnonzero(logits > -np.inf) if best else np.zeros(0, np.int64)
    some = some[np.lexsort((some, -logits[some]))][:best]
    some = some[logits[some] > -np.inf]
    largest = float(logits.max())
    largest = largest if math.isfinite(largest) or largest == -math.inf else math.nan
    mass, log_sum, entropy = None, math.nan, math.nan
    if math.isfinite(largest):
        x = logits.astype(np.float64) - largest
        mass = float(np.exp(x / one.temperature).sum()) if one.temperature else None
        if one.sums:
            share = np.exp(x)
            total = float(share.sum())
            log_sum = largest + math.log(total)
            entropy = math.log(total) - float((share * np.maximum(x, -1e4)).sum()) / total
    return Candidates(
        some.astype(np.int32), logits[some], len(some) < one.best or len(some) == len(logits), largest, mass, log_sum, entropy
    )


def kept(found: Candidates, settings: AnswerSettings, vocabulary: int) -> tuple[NDArray[np.int32], NDArray[np.float64]] | None:
    """Tokens that top-k, top-p and min-p leave, likeliest first, and their weights of any sum; None where more must be known.

    Ties at a threshold are all kept, so that the outcome does not depend on the order of tokens.
    """
    logits = found.logits
    weights = np.exp((logits.astype(np.float64) - found.largest) / max(settings.temperature, COLDEST))
    count, cut = len(logits), found.whole  # `cut`: whether what follows the first `count` is sure to be left out
    if 0 < settings.top_k < vocabulary:
        if settings.top_k > count and not cut:
            return None
        least = logits[min(settings.top_k, count) - 1]
        few = int((logits >= least).sum())
        if few == count and not cut:
            return None
        count, cut = few, True
    if settings.top_p < 1:
        mass = found.mass if found.mass is not None and count == len(logits) else float(weights[:count].sum()) if cut else math.inf
        reached = int((weights[:count].cumsum() < settings.top_p * mass).sum())
        if reached >= count and not cut:
            return None
        few = int((logits[:count] >= logits[min(reached, count - 1)]).sum())
        if few == count and not cut:
            return None
        count, cut = few, True
    if settings.min_p:
        few = int((weights[:count] >= settings.min_p).sum())
        if few == count and not cut:
            return None
        count, cut = few, True
    return (found.ids[:count], weights[:count]) if cut else None


def restricted(
    logits: Tensor, settings: AnswerSettings, found: Candidates | None, pool: native.Pool | None
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Tokens that the filters leave of float32 logits [vocabulary], in ascending order, and their weights; () where none can be drawn.

    Args:
        found: what is known of the row already.
        pool: C++ routines to look with where nothing is.
    """
    first = wish(settings)
    if found is None and pool is not None and logits.device.type == "cpu":
        found = read(logits[None], [first], pool)[0]
    some = kept(found, settings, len(logits)) if found is not None and math.isfinite(found.largest) else None
    if some is None:
        row = logits.float().cpu().numpy()
        some = _kept_of_all(row, found or found_in(row, Wish(0, first.temperature)), settings)
    order = np.argsort(some[0])
    return some[0][order], some[1][order]


def restricted_to(
    permits: Callable[[int], bool], logits: Tensor, settings: AnswerSettings, found: Candidates | None, pool: native.Pool | None
) -> tuple[NDArray[np.int32], NDArray[np.float64]] | None:
    """The same of the row whose tokens are -infinity where `permits` says no, known from the likeliest alone; None where they do not
    settle it.

    For top-p the mass of what is permitted lies between that of the permitted candidates and that plus all which is no candidate:
    where both ends keep the same tokens, so does everything between.
    """
    if found is None and pool is not None and logits.device.type == "cpu":
        found = read(logits[None], [wish(settings)], pool)[0]
    if found is None or not math.isfinite(found.largest):
        return None
    some = np.array([permits(token) for token in found.ids.tolist()], bool)
    if not some.any():
        return None
    ids, few = found.ids[some], found.logits[some]
    largest, heat = float(few[0]), max(settings.temperature, COLDEST)
    masses: list[float | None] = [None]
    if found.mass is not None:
        near = float(np.exp((few.astype(np.float64) - largest) / heat).sum())
        all_near = float(np.exp((found.logits.astype(np.float64) - found.largest) / heat).sum())
        far = max(found.mass - all_near, 0.0) + ROUNDING * found.mass
        masses = [near * (1 - ROUNDING), near + far * math.exp(min((found.largest - largest) / heat, 700.0))]
    both = [kept(Candidates(ids, few, found.whole, largest, mass), settings, len(logits)) for mass in masses]
    first, last = both[0], both[-1]
    if first is None or last is None or len(first[0]) != len(last[0]):
        return None
    order = np.argsort(first[0])
    return first[0][order], first[1][order]


def _kept_of_all(row: NDArray[np.float32], found: Candidates, settings: AnswerSettings) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """What is kept of a whole row: tokens within reach of the likeliest are put in order, further ones only where these do not suffice."""
    for reach in REACHES if math.isfinite(found.largest) else ():
        least = max(found.largest - reach * max(settings.temperature, COLDEST), float(np.finfo(np.float32).min))
        near = np.flatnonzero(row >= least).astype(np.int32)
        near = near[np.argsort(-row[near])]
        some = kept(Candidates(near, row[near], reach == math.inf, found.largest, found.mass), settings, len(row))
        if some is not None:
            return some
    return np.zeros(0, np.int32), np.zeros(0)
