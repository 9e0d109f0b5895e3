"""Watermark: a mark in the choice of words that a key's owner can find and a reader cannot see.

At each step the tokens before decide, with the key, which share gamma of the vocabulary is green; green logits are raised by
delta. Where many words would do, green ones are then taken more often than chance would have it; where only one would do, it is
still taken.

    logit_t += delta * [t is green after the last `width` tokens]

Source: J. Kirchenbauer et al., A Watermark for Large Language Models, arXiv:2301.10226, algorithm 2; gamma 0.25 and delta 2 are
its settings. How lists are made and the mark is found: `green_lists.py`; from a terminal: `steelyard detect MODEL FILE`.
The mark comes after everything else that shapes logits, and before temperature, top-k, top-p and min-p: at temperature T the
odds of a green token are raised by exp(delta / T), and greedy answers are marked too.
What weakens it: certainty (code, facts, quotations leave no choice), few tokens (z grows as the square root of their number),
unmarked text around it (with as many unmarked tokens as marked ones z falls to 0.71 of its value, with a prompt of nine times
the answer's length to 0.32), and every changed token (it spoils width + 1 of them). A wider context makes lists
harder to guess from many marked texts, and the mark easier to wash out. Rewriting by another model removes it.
False positives are the binomial's over keys. Under one key, pairs of tokens that many texts share move the z of all of them
together: over 394 encyclopedia articles of 200 to 250 tokens the mean z lay between -0.10 and 0.18 under four keys with a width
of 1, and between -0.08 and 0.09 with 2, where 0.05 is chance.
The key stands in recipes, reports and fingerprints as it was given: choose one that is used for nothing else. The default key is
everybody's, good for weighing what a mark costs and for nothing more.
Cost: one hash per token of the vocabulary for each token drawn (0.25 ms for 49,152 on one core), and quality: the surprise of
the text under the model grows, on average over keys, by a factor of at most 1 + (e^delta - 1) gamma (as they prove; 2.6 as set).
Found with SmolLM2-135M-Instruct on handfuls of sampled stories: 0.2 nats a token more; `make accept NAME=watermark` measures it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.processor import MARK, View
from steelyard.generate.processors.green_lists import GreenLists
from steelyard.generate.spec import EngineSpec


class Watermark(Lever):
    """A statistical mark in sampled and greedy answers."""

    name: ClassVar[str] = "watermark"
    idea: ClassVar[str] = (
        "The tokens before decide, with a secret key, which tokens are green, and green ones are made likelier. Whoever has the key and the "
        "tokenizer counts green tokens and can tell a marked text from one that is not; `steelyard detect` does it."
    )
    equation: ClassVar[str] = "logit_t += delta [t green]; z = (green - gamma n) / sqrt(n gamma (1 - gamma)), repeated n-grams counted once"
    paper: ClassVar[str] = "arXiv:2301.10226"
    cost: ClassVar[str] = "One hash per token of the vocabulary for each token drawn; text that is less likely under the model."
    main: ClassVar[str] = "delta"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    provides: ClassVar[frozenset[str]] = frozenset({"watermark"})
    conflicts: ClassVar[frozenset[str]] = frozenset({"watermark"})
    identity: ClassVar[dict] = {"delta": 0.0}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"
    per_request: ClassVar[bool] = True

    delta: float = Field(2.0, ge=0, le=100, allow_inf_nan=False, description="what green logits are raised by, in nats; 0 turns it off")
    gamma: float = Field(0.25, gt=0, lt=1, allow_inf_nan=False, description="share of the vocabulary that is green, no unit")
    key: str = Field("steelyard", min_length=1, description="the secret; text that whoever looks for the mark must know")
    width: int = Field(1, ge=1, le=16, description="context that chooses the green tokens, in tokens")

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """Adds the mark to the engine."""
        if not self.delta:
            return spec
        return replace(spec, processors=(*spec.processors, Mark(GreenLists(self.key, self.gamma, self.width), self.delta)))


@dataclass(frozen=True)
class Mark:
    """Marks every request."""

    lists: GreenLists
    delta: float
    order: ClassVar[int] = MARK

    @property
    def fingerprint(self) -> str:
        return digest(["watermark", self.delta, self.lists.gamma, self.lists.key, self.lists.width])

    def start(self, settings: AnswerSettings) -> MarkSession:
        return MarkSession(self.lists, self.delta)


@dataclass(frozen=True)
class MarkSession:
    """One request's mark. The context is read from the view, so there is nothing to remember."""

    lists: GreenLists
    delta: float

    def __call__(self, logits: Tensor, view: View) -> Tensor:
        context = view.generated[-self.lists.width :]
        if missing := self.lists.width - len(context):
            context = view.prompt[-missing:] + context
        if len(context) < self.lists.width:  # the detector does not score these either
            return logits
        green = torch.from_numpy(self.lists.after(context, logits.shape[-1])).to(logits.device)
        return torch.where(green, logits + self.delta, logits)

    def advance(self, token: int) -> None:
        """Nothing to remember: the tokens are in the view."""

    def rewind(self, count: int) -> None:
        """Nothing to forget."""
