"""How an engine keeps what its models remember."""

from __future__ import annotations

from typing import Protocol

import torch

from steelyard.model.state import Storage


class StatePlan(Protocol):
    """A way that is not plain tensors. `numerics` says so in a few words."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def numerics(self) -> str: ...

    def storage(self, dtype: torch.dtype, device: torch.device, horizon: int) -> Storage:
        """Storage from which every part's memory is made; `horizon` tokens one must be able to go back."""
        ...
