"""Failures a user can cause, each saying what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SteelyardError(Exception):
    """A failure with an address and a remedy.

    Args:
        what: what was wrong, one sentence without a final full stop.
        where: file, line, key or sample, as a person would look it up.
        do: what to do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, do: str | None = None):
        self.what, self.where, self.do = what, where, do
        parts = [f"{where}: {what}" if where else what]
        if do:
            parts.append(do)
        super().__init__("\n  ".join(parts))

    def at(self, where: str) -> SteelyardError:
        """The same error seen from further out: `where` is put in front of the address."""
        return type(self)(self.what, where=f"{where}: {self.where}" if self.where else where, do=self.do)


class RecipeError(SteelyardError):
    """A recipe, an override or a lever's settings that cannot be run as written."""


class ModelFileError(SteelyardError):
    """Weights, config, tokenizer or template that cannot be trusted or understood."""


class DataError(SteelyardError):
    """Rows of a user's data that do not have the form they should."""


class ContextLengthError(SteelyardError):
    """A prompt longer than the model can read. It is refused, never cut."""


class UnsupportedError(SteelyardError):
    """Something this model, machine or setting cannot do."""


class BusyError(SteelyardError):
    """More requests wait than an engine takes. Nothing is wrong with this one: it may come again."""


class SpendError(SteelyardError):
    """A request that might cost more than may still be spent. It was not sent."""


class DownloadError(SteelyardError):
    """A download that failed, or whose bytes are not the pinned ones."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest known one, or the list of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"Did you mean `{close[0]}`?"
    return "Known: " + ", ".join(known) + "." if known else "None is known here."
