"""Calibrations of served models: found in a model's folder or named at the start, and believed only where they are about that very model.

An answer then tells its chance of being right instead of a raw number. That holds for the model with the levers it is served with; where
a request brings levers of its own, another is speaking, and nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.augment.answerers import LocalAnswerer
from steelyard.augment.uncertainty import calibration as calibrations
from steelyard.augment.uncertainty.abstain import Abstain
from steelyard.augment.uncertainty.calibration import Calibration
from steelyard.augment.uncertainty.confidence import ConfidenceLever, said_by
from steelyard.augment.uncertainty.measures import measure
from steelyard.augment.uncertainty.subject import subject
from steelyard.core.errors import SteelyardError
from steelyard.core.levers import Lever
from steelyard.core.protocols import Answerer
from steelyard.generate.engine import Engine


@dataclass(frozen=True)
class Told:
    """The lever `confidence` with a calibration that was read and matched at the start: no request reads the file again."""

    lever: ConfidenceLever
    made: Calibration

    def wrap(self, answerer: Answerer) -> Answerer:
        """The answerer that tells its chance of being right."""
        made = self.made
        measured = measure(made.measure, count=made.count, temperature=made.sampled_at, probe=made.probe)
        return said_by(self.lever, answerer, measured, made)


@dataclass(frozen=True)
class Calibrated:
    """A calibration that is about a served model.

    Attributes:
        made: it.
        lever: says each answer's chance, and each sentence's where that can be told; None where `abstain` says it already.
        place: how many of the model's wrap levers lie within it.
    """

    made: Calibration
    lever: ConfidenceLever | None
    place: int

    def among(self, wraps: Sequence[Lever]) -> list[Lever | Told]:
        """The model's wrap levers with this one at its place."""
        return [*wraps[: self.place], *([Told(self.lever, self.made)] if self.lever else []), *wraps[self.place :]]

    def told(self) -> dict[str, Any]:
        """What clients are told of it."""
        return self.made.told() | {"abstains": self.lever is None}


def calibrated(
    path: Path, source: str, named: Sequence[str], wraps: Sequence[Lever], engine: Engine, say: Callable[[str], None]
) -> Calibrated | None:
    """The calibration that is about a model with its levers, or None.

    Args:
        path: where the model lies; a folder of this machine may hold one.
        source: what was asked for; a model of others brings none, for it would have the server ask more than it was told to.
        named: files given at the start, tried first.
        wraps: levers that wrap the model, references bound.
        engine: its engine.
        say: is told of files that are about something else.

    Raises:
        SteelyardError: a file that cannot be read.
    """
    for place, lever in enumerate(wraps):
        if isinstance(lever, Abstain) and lever.calibration is not None:
            return Calibrated(calibrations.read(lever.calibration), None, place)
        if isinstance(lever, ConfidenceLever):
            return None  # it says what it was told to say
    files = [Path(name) for name in named]
    if path.is_dir() and not source.startswith("hf:") and (path / calibrations.NAME).exists():
        files.append(path / calibrations.NAME)
    layers = _layers(engine, wraps)
    for file in files:
        made = calibrations.read(file)
        matching = [place for place, about in enumerate(layers) if about == made.subject]
        if matching:
            lever = ConfidenceLever.model_validate({"calibration": file, "sentences": True})
            say(f"confidence is calibrated on {made.n} answers to {made.task}")
            return Calibrated(made, lever, matching[-1])
        say(f"{file.name} was made for another model, or for {made.model} with other levers: not used")
    return None


def _layers(engine: Engine, wraps: Sequence[Lever]) -> list[str]:
    """What the model is with the first none, one, two ... of its levers."""
    answerer: Answerer = LocalAnswerer(engine)
    found = [subject(answerer)]
    for lever in wraps:
        hooks: Any = lever
        answerer = hooks.wrap(answerer)
        found.append(subject(answerer))
    return found


def named_once(name: str, found: Sequence[Calibrated | None]) -> None:
    """Refuses a file named at the start that is about none of the models.

    Raises:
        SteelyardError: it would silently do nothing.
    """
    if not any(one is not None and one.lever is not None and one.lever.calibration == Path(name) for one in found):
        raise SteelyardError(
            "this calibration is about none of the models served, or another about the same model was named before",
            where=name,
            do="Make one for a model with the levers it is served with: `steelyard calibrate`.",
        )
