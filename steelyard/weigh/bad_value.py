"""What is wrong with a value that a user gave."""

from __future__ import annotations


class BadValue(ValueError):
    """Why one row cannot be used, in a few words for a person."""
