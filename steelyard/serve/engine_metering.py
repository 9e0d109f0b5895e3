"""What each answer took: between the engines and the outbox, an answer's energy is told right before its counts of tokens."""

from __future__ import annotations

from collections.abc import Callable

from steelyard.core.meters.shared_energy import SharedEnergy
from steelyard.core.protocols import Done, Energy, Event, Usage
from steelyard.serve.engine_hosted import Submission


class Metered:
    """The events of one answer on their way out. Counts of tokens are held until it is done.

    Args:
        energy: shares what this process spends.
        put: takes the events.
    """

    def __init__(self, energy: SharedEnergy, put: Callable[[Event], None]):
        self._energy, self._put = energy, put
        self._submissions: list[Submission] = []
        self._held: list[Event] = []
        self._account = energy.begin(lambda: sum(submission.progress() for submission in self._submissions))

    def watch(self, submission: Submission) -> Submission:
        """A piece of the answer's work."""
        self._submissions.append(submission)
        return submission

    def put(self, event: Event) -> None:
        """The next event."""
        if isinstance(event, Usage):
            self._held.append(event)
            return
        if isinstance(event, Done):
            took = self._energy.end(self._account)
            if took.source:
                self._put(Energy(took.low, took.high, took.source, took.shared))
            for held in self._held:
                self._put(held)
        self._put(event)

    def close(self) -> None:
        """The answer is over, however it went."""
        self._energy.end(self._account)
