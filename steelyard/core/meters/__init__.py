"""Meters: time, memory, energy and money of a stretch of work, each figure saying how it was obtained."""

from steelyard.core.meters.meter import Meter, Reading

__all__ = ["Meter", "Reading"]
