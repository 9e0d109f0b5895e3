"""Whether a way of decoding says every short string as often as it should: exact probabilities by enumeration, samples, chi-square."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import scipy.stats
import torch
from tiny_engines import Heard, run_all

from steelyard.core.protocols import AnswerSettings
from steelyard.generate.processor import View
from steelyard.generate.processors.penalties import Penalties
from steelyard.generate.sampling import filtered
from steelyard.generate.scheduler import Scheduler
from steelyard.generate.sequences import Generation
from steelyard.model.model import Model

PROMPT = [0, 1, 1, 2, 0]
LEAST = 5
"""Strings expected less often than this are counted together: Pearson's statistic is no chi-square below."""


def probabilities(model: Model, settings: AnswerSettings, end: int | None = None) -> dict[tuple[int, ...], float]:
    """Every string of `max_tokens` tokens, or shorter ones that close with `end`, and how likely the model is to say it.

    Whole sequences through the model, one string after the other: nothing of the engine takes part but processors and filters.
    """
    open_strings: dict[tuple[int, ...], float] = {(): 1.0}
    closed: dict[tuple[int, ...], float] = {}
    for _ in range(settings.max_tokens):
        if not open_strings:
            break
        logits = model.logits([[*PROMPT, *string] for string in open_strings])[:, -1]
        grown = {}
        for (string, share), row in zip(open_strings.items(), logits, strict=True):
            session = Penalties().start(settings)
            for token in string if session else ():
                session.advance(token)  # type: ignore[union-attr]
            row = session(row, View(PROMPT, list(string))) if session else row
            for token, chance in enumerate(filtered(row, settings).tolist()):
                if chance:
                    (closed if token == end else grown)[(*string, token)] = share * chance
        open_strings = grown
    return closed | open_strings


def sampled(turns: Scheduler, model: Model, settings: Sequence[AnswerSettings], end: int | None = None) -> Counter[tuple[int, ...]]:
    """The strings a scheduler says, one for each settings."""
    assert model.tokenizer is not None
    eos = frozenset(() if end is None else (end,))
    heard = [Heard() for _ in settings]
    requests = [
        Generation(PROMPT, wanted, ear, model.tokenizer.stream_decoder(), eos, turns.context)
        for wanted, ear in zip(settings, heard, strict=True)
    ]
    for request in requests:
        turns.add(request)
    run_all(turns)
    assert not [ear.failure for ear in heard if ear.failure]
    return Counter((*request.generated, *((end,) if ear.reason == "stop" else ())) for request, ear in zip(requests, heard, strict=True))  # type: ignore[misc]


def p_value(seen: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Pearson's goodness of fit: small where what was said does not follow the probabilities. A string that cannot be said: 0."""
    count = sum(seen.values())
    if set(seen) - set(expected):
        return 0.0
    often = [string for string, share in expected.items() if share * count >= LEAST]
    rest = count - sum(seen[string] for string in often), count - sum(expected[string] * count for string in often)
    pairs = [(seen[string], expected[string] * count) for string in often] + ([rest] if rest[1] >= LEAST else [])
    observed, wanted = torch.tensor(pairs, dtype=torch.float64).T
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    return float(scipy.stats.chi2.sf(statistic, len(pairs) - 1))
