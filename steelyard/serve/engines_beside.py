"""Engines beside a served model's own, for requests whose levers change what all requests of an engine share: how guesses are made, what
is read inside the model, how answers are searched for, how keys and values are kept.

Such an engine runs the weights that are in memory already; its own are only the slots. It is made when a request first asks for its
levers, serves all requests that ask for the same, and goes when others are wanted and nobody uses it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from steelyard.core.errors import BusyError
from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.generate.engine import Engine
from steelyard.generate.spec import EngineSpec

MOST, SLOTS = 2, 4
"""Engines beside a model's own at once; slots that each has at least, so that a search has room for its branches. It has as many as the
model's own where these are more."""


def roomy(spec: EngineSpec) -> EngineSpec:
    """What an engine beside another is made of, but for its levers."""
    return replace(spec, slots=max(spec.slots, SLOTS))


def pulled(levers: Sequence[Lever], spec: EngineSpec) -> EngineSpec:
    """A spec after decode levers.

    Raises:
        SteelyardError: one that this model cannot be asked with, or not together with what is on already.
    """
    for lever in levers:
        spec = lever.decode(spec)  # type: ignore[attr-defined]  (a decode lever's hook)
    return spec


@dataclass
class Beside:
    """An engine of some levers.

    Attributes:
        spec: what it is made of.
        users: requests that it is kept for.
    """

    spec: EngineSpec
    users: int = 0
    _engine: Engine | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: bool = False

    def engine(self) -> Engine:
        """It, opened at the first call, which takes a moment: not for an event loop's thread.

        Raises:
            BusyError: the server is closing.
        """
        with self._lock:
            if self._over:
                raise BusyError("the server is closing", where="engine", do="Ask again later.")
            if self._engine is None or self._engine.closed:
                self._engine = Engine.from_spec(self.spec)
            return self._engine

    @property
    def opened(self) -> Engine | None:
        """It, where it has been opened."""
        return self._engine

    def close(self) -> None:
        """Ends it; it cannot be opened again."""
        with self._lock:
            self._over = True
            if self._engine is not None:
                self._engine.close()


class EnginesBeside:
    """The engines beside one. All but `spec` and `Beside.engine` belongs to one event loop's thread.

    Args:
        own: the model's own engine, whose weights they run.

    Attributes:
        plain: what each of them is made of, but for its levers.
    """

    def __init__(self, own: Engine):
        self.plain = roomy(own.spec)
        self._kept: dict[str, Beside] = {}  # who was used longest ago comes first

    def __iter__(self) -> Iterator[Engine]:
        """Those that are open."""
        return iter([one.opened for one in self._kept.values() if one.opened is not None and not one.opened.closed])

    def spec(self, levers: Sequence[Lever]) -> EngineSpec:
        """What an engine with these levers is made of. From any thread.

        Raises:
            SteelyardError: see `pulled`.
        """
        known = self._kept.get(_key(levers))
        return known.spec if known is not None else pulled(levers, self.plain)

    def take(self, levers: Sequence[Lever], spec: EngineSpec) -> Beside:
        """The one of some levers, kept until it is given back.

        Raises:
            BusyError: as many others as there may be are in use.
        """
        key = _key(levers)
        if key not in self._kept:
            self._make_room()
        one = self._kept[key] = self._kept.pop(key, None) or Beside(spec)
        one.users += 1
        return one

    def _make_room(self) -> None:
        idle = [key for key, one in self._kept.items() if not one.users]
        while len(self._kept) >= MOST:
            if not idle:
                names = f"engines of {MOST} other choices of levers"
                raise BusyError(f"{names} are in use", where="levers", do="Ask again later, or without levers that change the engine.")
            self._kept.pop(idle.pop(0)).close()

    def give_back(self, one: Beside) -> None:
        """A request that took it is over."""
        one.users -= 1

    def close(self) -> None:
        """Ends all of them."""
        for one in self._kept.values():
            one.close()
        self._kept.clear()


def _key(levers: Sequence[Lever]) -> str:
    return digest([lever.fingerprint for lever in levers])
