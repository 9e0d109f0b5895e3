"""P(IK), "I know": a probe reads from the hidden state, before a word is written, whether the question will be answered rightly.

    p = sigmoid(w . h + b),  h = the state after the final norm at the question's last token

The probe is a logistic regression fitted on questions whose answers were judged; questions about one thing never stand on both sides of
a split, or the probe would be praised for remembering it. It knows one model: another's states mean something else.
Source: S. Kadavath et al., arXiv:2207.05221, section 5 (there the head is trained with the model; here the model stays as it is).
Cost: none to speak of: the engine has the question's tokens in its slots.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from steelyard.augment.answerers import LocalAnswerer
from steelyard.augment.uncertainty.measure import Asked
from steelyard.core.errors import DataError, ModelFileError, UnsupportedError
from steelyard.core.protocols import Answerer, Conversation
from steelyard.generate.steering.directions import logistic

FEWEST = 10
"""Questions of either kind, answered rightly and wrongly, from which a probe is fitted at least."""
DECAY = 0.1
"""Weight decay of the probe, on states of unit variance: there are more of their dimensions than questions."""


@dataclass(frozen=True)
class Probe:
    """Weights [width] and a bias, in the units of the states."""

    weights: tuple[float, ...]
    bias: float

    def value(self, state: Sequence[float] | Tensor) -> float:
        """The probe's chance of a right answer."""
        given = torch.as_tensor(state, dtype=torch.float64)
        if given.shape != (len(self.weights),):
            raise UnsupportedError(
                f"the probe reads states of width {len(self.weights)}, this model's have {len(given)}", do="Fit one to this model."
            )
        total = float(given @ torch.tensor(self.weights, dtype=torch.float64)) + self.bias
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, total))))

    def as_dict(self) -> dict[str, Any]:
        return {"weights": list(self.weights), "bias": self.bias}

    @classmethod
    def read(cls, value: object, where: str) -> Probe:
        """A probe from JSON.

        Raises:
            ModelFileError: it is none.
        """
        weights, bias = (value.get("weights"), value.get("bias")) if isinstance(value, Mapping) else (None, None)
        numbers = [*weights, bias] if isinstance(weights, list) and weights else [None]
        if not all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in numbers):
            raise ModelFileError(
                "not a probe: `weights` and `bias` should be finite numbers", where=where, do="Make the calibration again."
            )
        return cls(tuple(map(float, numbers[:-1])), float(numbers[-1]))  # type: ignore[arg-type]


def fit(states: Tensor, right: Sequence[bool]) -> Probe:
    """A probe from hidden states float32 [n, width] and whether the answers that followed were right.

    Raises:
        DataError: too few of either kind.
    """
    told = torch.tensor([bool(one) for one in right])
    if min(int(told.sum()), int((~told).sum())) < FEWEST:
        raise DataError(
            f"{int(told.sum())} right and {int((~told).sum())} wrong answers", where="p_ik", do=f"A probe needs {FEWEST} of either kind."
        )
    weight, bias = logistic(states, told, DECAY)
    return Probe(tuple(float(one) for one in weight), float(bias))


@dataclass(frozen=True)
class PIK:
    """A probe on the hidden state of the question."""

    probe: Probe
    needs: ClassVar[frozenset[str]] = frozenset({"local"})
    tokens: ClassVar[bool] = False
    alternatives: ClassVar[int] = 0

    async def value(self, asked: Asked) -> float | None:
        return self.probe.value(await state(asked.answerer, asked.conversation))


async def state(answerer: Answerer, conversation: Conversation) -> Tensor:
    """The hidden state float32 [width] after the final norm at a conversation's last token, as the model is about to answer."""
    return (await asyncio.to_thread(states, answerer, [conversation]))[0]


def states(answerer: Answerer, conversations: Sequence[Conversation]) -> Tensor:
    """The same of several conversations, float32 [n, width].

    Raises:
        UnsupportedError: this answerer is no engine itself.
    """
    if not isinstance(answerer, LocalAnswerer):
        raise UnsupportedError(
            "p_ik reads hidden states, which only a model in the engine has",
            where="confidence",
            do="Put `confidence` before the levers that wrap the answerer, and use a model of this machine.",
        )
    return answerer.engine.states([list(conversation) for conversation in conversations])
