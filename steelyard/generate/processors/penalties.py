"""Penalties on what was already said.

repetition (arXiv:1909.05858, section 4.1): seen tokens' positive logits are divided, negative ones multiplied by r;
presence and frequency: logit -= presence * [count > 0] + frequency * count, over generated tokens.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from steelyard.core.protocols import AnswerSettings
from steelyard.generate.processor import PENALTY, View


class Penalties:
    """The request's own penalty settings; requests without any get no session."""

    order = PENALTY
    fingerprint = "penalties"

    def start(self, settings: AnswerSettings) -> PenaltySession | None:
        wanted = settings.repetition_penalty != 1.0 or settings.presence_penalty or settings.frequency_penalty
        return PenaltySession(settings) if wanted else None


class PenaltySession:
    """Counts what was generated."""

    def __init__(self, settings: AnswerSettings):
        self.settings = settings
        self.counts: Counter[int] = Counter()
        self.order: list[int] = []
        self.prompt: Tensor | None = None

    def __call__(self, logits: Tensor, view: View) -> Tensor:
        logits = logits.clone()
        settings = self.settings
        if settings.repetition_penalty != 1.0:
            if self.prompt is None:
                self.prompt = torch.tensor(sorted(set(view.prompt)), dtype=torch.int64, device=logits.device)
            generated = torch.tensor(list(self.counts), dtype=torch.int64, device=logits.device)
            seen = torch.cat((self.prompt, generated)).unique()
            values = logits[seen]
            logits[seen] = torch.where(values > 0, values / settings.repetition_penalty, values * settings.repetition_penalty)
        if self.counts and (settings.presence_penalty or settings.frequency_penalty):
            tokens = torch.tensor(list(self.counts), device=logits.device)
            counts = torch.tensor(list(self.counts.values()), dtype=logits.dtype, device=logits.device)
            logits[tokens] -= settings.presence_penalty + settings.frequency_penalty * counts
        return logits

    def advance(self, token: int) -> None:
        self.counts[token] += 1
        self.order.append(token)

    def rewind(self, count: int) -> None:
        for _ in range(count):
            token = self.order.pop()
            self.counts[token] -= 1
            if not self.counts[token]:
                del self.counts[token]
