"""Energy of work that several do at once: each stretch is shared by how many tokens each had processed in it.

Between two moments at which somebody begins or ends, all that the process spent above its idle share goes to those under way, in
proportion to the tokens they had read and written meanwhile. So an answer that runs alone is charged all of its stretch, and the shares
of answers that run together add up to what was spent. A token read and a token written count alike, which favours writing a little:
reading many at once takes less for each.

What else the process did meanwhile (tokenizing for others, embeddings) is in the shares. The idle share is the least power seen over a
second or more without any work; it is subtracted from what counters measured. Where they measure nothing the figures are the model of
`energy.py`, as a range, which here charges the processor's busy time alone and so has no idle share.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from steelyard.core.meters.energy import EnergyMeter, Joules
from steelyard.core.meters.time import Clock

IDLE_SECONDS = 1.0
"""How long a stretch without work must be to tell what idling takes."""


class Stretches:
    """What the process spent since it was last asked, above what idling takes."""

    def __init__(self) -> None:
        self._idle_watts: float | None = None
        self._meter, self._clock = EnergyMeter(), Clock()

    def __call__(self, idle: bool) -> Joules:
        """The energy of the stretch that ends now; `idle` says that nobody worked in it."""
        seconds = self._clock.seconds
        joules = self._meter.stop(seconds, self._clock.cpu_seconds, 0.0, 0, 0.0)  # in the model no core idles and no memory is held
        self._meter, self._clock = EnergyMeter(), Clock()
        if "modelled" in joules.source:
            return joules
        if idle and seconds >= IDLE_SECONDS:
            watts = joules.low / seconds
            self._idle_watts = watts if self._idle_watts is None else min(self._idle_watts, watts)
        above = max(0.0, joules.low - (self._idle_watts or 0.0) * seconds)
        return Joules(above, above, joules.source)


@dataclass(eq=False)
class Account:
    """One piece of work.

    Attributes:
        progress: tells how many tokens it has read and written so far.
        done: how many of them are paid for.
        low, high, source: what it has been charged, in joules.
        shared: whether others worked in the same stretches.
    """

    progress: Callable[[], int]
    done: int = 0
    low: float = 0.0
    high: float = 0.0
    source: str = ""
    shared: bool = False


class SharedEnergy:
    """Accounts of all that is under way in this process. Methods may be called from any thread.

    Args:
        spent: the energy since it was last asked, as `Stretches`.
    """

    def __init__(self, spent: Callable[[bool], Joules] | None = None):
        self._spent = spent or Stretches()
        self._accounts: list[Account] = []
        self._unpaid = (0.0, 0.0)
        self._lock = threading.Lock()

    def begin(self, progress: Callable[[], int]) -> Account:
        """Somebody begins."""
        with self._lock:
            self._settle()
            self._accounts.append(account := Account(progress))
        return account

    def end(self, account: Account) -> Account:
        """Somebody ends; the account then holds what it took. Ending twice is fine."""
        with self._lock:
            if account in self._accounts:
                self._settle()
                self._accounts.remove(account)
        return account

    def _settle(self) -> None:
        joules = self._spent(not self._accounts)
        if not self._accounts:
            self._unpaid = (0.0, 0.0)
            return
        low, high = self._unpaid[0] + joules.low, self._unpaid[1] + joules.high
        gains = [(account, account.progress() - account.done) for account in self._accounts]
        total = sum(gain for _, gain in gains if gain > 0)
        self._unpaid = (0.0, 0.0) if total else (low, high)  # read, but no token finished yet: whoever finishes the next ones pays
        for account, gain in gains:
            account.source = joules.source
            if gain > 0:
                account.done += gain
                account.low += low * gain / total
                account.high += high * gain / total
                account.shared = account.shared or gain < total
