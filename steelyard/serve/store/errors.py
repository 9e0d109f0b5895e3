"""How the store fails: nothing of that name here, too much at once, or a database that does not work."""

from __future__ import annotations

from steelyard.core.errors import SteelyardError


class NotFoundError(SteelyardError):
    """An id that means nothing to this person: there is no such thing, or it is somebody else's, and nobody is told which."""


class TooLargeError(SteelyardError):
    """More than a limit allows. It is refused whole, never cut."""


class StoreError(SteelyardError):
    """The database cannot do its work now: the disk is full, another process holds it, it cannot be reached, it is damaged."""
