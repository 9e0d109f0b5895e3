"""A running mean of the weights, smoother than any one of them: the model one keeps, while training goes on from the last weights.

mean += (1 - d_t) (w - mean) after every step, d_t = min(d, (1 + t) / (10 + t)), so that the first weights are soon forgotten
(Polyak & Juditsky 1992; arXiv:1803.05407). Cost: one more copy of the trained weights, read and written once a step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Average:
    """The mean of trained parameters, by name.

    Args:
        trained: the parameters.
        decay: d, the share of the mean that a step keeps.
    """

    def __init__(self, trained: Mapping[str, nn.Parameter], decay: float):
        self.trained, self.decay = trained, decay
        self.means: dict[str, Tensor] = {name: parameter.detach().clone() for name, parameter in trained.items()}

    def update(self, step: int) -> None:
        """Takes in the weights after a step (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, parameter in self.trained.items():
                self.means[name].lerp_(parameter, 1 - decay)

    def put(self) -> None:
        """Makes the means the weights."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(self.means[name])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The means are the weights within the block; afterwards every weight has its own bits again."""
        own = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        self.put()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.trained.items():
                    parameter.copy_(own[name])
