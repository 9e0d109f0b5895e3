"""Which models can write what belongs between two texts, and how they are asked. Part of the engine's process.

A model was taught that where its tokenizer has the three tokens that mark prefix, suffix and middle: those of our own `fim`, or of the
public families that were trained in this way. A model made here tells in its `steelyard.json` which tokens it learned and in which order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.core.errors import SteelyardError
from steelyard.data.fim import TOKENS, question
from steelyard.model.model import Model

FAMILIES = (
    TOKENS,  # Qwen2.5-Coder too
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),  # DeepSeek-Coder
    ("<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>"),
)
"""The tokens before prefix, suffix and middle."""


@dataclass(frozen=True)
class Infilling:
    """How a model is asked for a middle.

    Attributes:
        tokens: before prefix, suffix and middle.
        suffix_first: whether it learned nothing but the order with the suffix first.
    """

    tokens: tuple[str, str, str]
    suffix_first: bool = False

    def ask(self, prefix: str, suffix: str) -> str:
        """What to let the model go on with.

        Raises:
            SteelyardError: one of the tokens stands in the texts, where it would mean something else.
        """
        for token in self.tokens:
            if token in prefix or token in suffix:
                raise SteelyardError(f"the text holds `{token}`, which marks the middle", where="suffix", do="Leave it out of both texts.")
        return question(prefix, suffix, suffix_first=self.suffix_first, tokens=self.tokens)


def infilling(model: Model) -> Infilling | None:
    """How a model is asked for a middle; None where it was not taught to write one."""
    for settings in _settings(model.record):
        named = settings.get("tokens", TOKENS)
        if isinstance(named, list | tuple) and _has(model, tuple(named)) and settings.get("rate", 0.5):
            return Infilling(tuple(named), settings.get("spm", 0.5) == 1)
    return next((Infilling(tokens) for tokens in FAMILIES if _has(model, tokens)), None)


def _has(model: Model, tokens: tuple[Any, ...]) -> bool:
    """Whether these are three special tokens of the model, with rows in its table."""
    tokenizer = model.tokenizer
    if tokenizer is None or len(tokens) != 3 or not all(isinstance(token, str) for token in tokens):
        return False
    ids = [tokenizer.id_of(token) for token in tokens]
    rows = model.trunk.plan.inputs.vocabulary
    return all(id is not None and id in tokenizer.special_ids and id < rows for id in ids)


def _settings(record: Any) -> Iterator[Mapping[str, Any]]:
    """The settings of every `fim` in what is recorded of how a model was made."""
    if isinstance(record, Mapping):
        if isinstance(record.get("fim"), Mapping):
            yield record["fim"]
        for part in record.values():
            yield from _settings(part)
    elif isinstance(record, list):
        for part in record:
            yield from _settings(part)
