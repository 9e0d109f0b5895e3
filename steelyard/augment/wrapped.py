"""What every answerer around another has in common: its lever, whom it asks, and who it therefore is."""

from __future__ import annotations

from typing import Generic, TypeVar

from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.core.protocols import Answerer

Kind = TypeVar("Kind", bound=Lever)


class Wrapped(Generic[Kind]):
    """An answerer that asks another one by a `wrap` lever's settings. Those that inherit add `answer`.

    Args:
        lever: the lever's settings.
        inner: whom it asks.
    """

    def __init__(self, lever: Kind, inner: Answerer):
        self.lever, self.inner = lever, inner

    @property
    def fingerprint(self) -> str:
        return digest([self.lever.fingerprint, self.inner.fingerprint])

    @property
    def capabilities(self) -> frozenset[str]:
        return self.inner.capabilities
