"""Who trains together, as the training loop sees it: processes that take parts of every batch and add up what they find.

`Alone` is one process, and every method the identity. `steelyard.train.parallel.processes` has the one of several.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from steelyard.data.batching import Batch
from steelyard.model.step import Others

Way = Literal["data", "sharded"]
"""How processes share the work (train/parallel/processes.py)."""
T = TypeVar("T", bound=nn.Module)


class Company(Protocol):
    """What the loop asks of the processes that train together."""

    first: bool
    """Whether this process writes metrics and checkpoints and speaks to people."""
    number: int
    """Of this process, from 0."""
    others: Others | None
    """What a call of the trunk asks the other processes by, where there are any."""

    def prepare(self, module: T, way: Way) -> T:
        """The module, in place, as these processes train it."""
        ...

    def part(self, batch: Batch) -> Batch:
        """This process's lines of a batch."""
        ...

    def total(self, values: list[float]) -> list[float]:
        """Sums over all processes."""
        ...

    def agreed(self, value: float) -> float:
        """The first process's value, for all."""
        ...

    def share_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gradients become their sums over all processes (as far as this process holds them)."""
        ...

    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> float:
        """Scales gradients down to the greatest norm and gives the norm they had, over all processes."""
        ...

    def whole(self, tensor: Tensor) -> Tensor:
        """The whole of a tensor of which processes may hold parts."""
        ...

    def like(self, whole: Tensor, model: Tensor) -> Tensor:
        """A whole tensor laid out as another one is."""
        ...

    def refresh(self, module: nn.Module) -> None:
        """Lets go of gathered weights, because they have been changed by other means than a step."""
        ...

    def wait(self) -> None:
        """Goes on when all have come here."""
        ...


class Alone:
    """One process."""

    first = True
    number = 0
    others: Others | None = None

    def prepare(self, module: T, way: Way) -> T:
        return module

    def part(self, batch: Batch) -> Batch:
        return batch

    def total(self, values: list[float]) -> list[float]:
        return values

    def agreed(self, value: float) -> float:
        return value

    def share_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        return

    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> float:
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit))

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor

    def like(self, whole: Tensor, model: Tensor) -> Tensor:
        return whole.to(model.device)

    def refresh(self, module: nn.Module) -> None:
        return

    def wait(self) -> None:
        return
