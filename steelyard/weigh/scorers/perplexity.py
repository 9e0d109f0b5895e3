"""How hard a text is for a model: per word, per byte and per token.

    log perplexity = -sum(log p(token)) / count,    perplexity = exp of it,    bits per byte = log perplexity per byte / ln 2

Words are what white space separates, as lm-eval counts them (a text that begins or ends with white space has an empty word there);
bytes are those of UTF-8; tokens are the model's own, so that figure compares only models of one tokenizer. Sums over all texts are
divided, so long texts weigh more. The report shows logarithms, because their differences are sums and have intervals; `perplexities`
takes the exponential.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from steelyard.core.protocols import Score
from steelyard.weigh.samples import Metric, Value

BITS_PER_BYTE = Metric("bits_per_byte", "quality", "bits/byte", False, margin=0.01, relative=True, kind="ratio", reach=(0.0, math.inf))
PER_WORD = Metric("word_log_perplexity", "quality", "nats/word", False, margin=0.01, relative=True, kind="ratio", reach=(0.0, math.inf))
PER_BYTE = Metric("byte_log_perplexity", "quality", "nats/byte", False, margin=0.01, relative=True, kind="ratio", reach=(0.0, math.inf))
PER_TOKEN = Metric("token_log_perplexity", "quality", "nats/token", False, margin=0.01, relative=True, kind="ratio", reach=(0.0, math.inf))
METRICS = (BITS_PER_BYTE, PER_WORD, PER_BYTE, PER_TOKEN)


def count_words(text: str) -> int:
    """Words as lm-eval counts them."""
    return len(re.split(r"\s+", text))


def values(score: Score | None, words: int, size: int) -> dict[str, Value]:
    """Every metric of one text, as numerators and denominators; None where there is no score."""
    if score is None or not math.isfinite(score.logprob):
        return dict.fromkeys(metric.name for metric in METRICS)
    nats = -score.logprob
    return {
        "bits_per_byte": (nats / math.log(2), float(size)),
        "word_log_perplexity": (nats, float(words)),
        "byte_log_perplexity": (nats, float(size)),
        "token_log_perplexity": (nats, float(score.tokens)),
    }


def perplexities(rows: Sequence[Mapping[str, Value]]) -> dict[str, float]:
    """`word_perplexity`, `byte_perplexity`, `token_perplexity` and `bits_per_byte` over the texts of a set, as lm-eval reports them.

    Raises:
        ValueError: no text has a score.
    """
    out: dict[str, float] = {}
    for metric in METRICS:
        pairs = [value for row in rows if isinstance(value := row.get(metric.name), tuple)]
        if not pairs:
            raise ValueError("no text has a score")
        ratio = math.fsum(above for above, _ in pairs) / math.fsum(below for _, below in pairs)
        out[metric.name.replace("_log_", "_")] = ratio if metric is BITS_PER_BYTE else math.exp(ratio)
    return out
