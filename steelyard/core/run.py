"""A run: its directory, seed, device, and the way references are resolved. It is passed down the call; nothing is global."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steelyard.core.errors import SteelyardError
from steelyard.core.files import append_line
from steelyard.core.references import Reference
from steelyard.core.seeds import derive


def _unresolvable(reference: Reference) -> Any:
    raise SteelyardError(f"nothing here can resolve the {reference.kind} `{reference.name}`")


@dataclass
class Run:
    """What one execution carries down the call.

    Attributes:
        directory: where everything it writes goes; created on first use.
        seed: the root of every random number; use `derive_seed`.
        device: torch device name.
        resolve: turns a reference into what it names (shared: same name, same object).
        say: receives one-line progress messages for a person.
        cancelled: polled between steps; True ends the run cleanly.
        progress: receives (task, done, total, note) as long work goes on; see `core.progress.shown` for a terminal's bar.
    """

    directory: Path
    seed: int = 0
    device: str = "cpu"
    resolve: Callable[[Reference], Any] = _unresolvable
    say: Callable[[str], None] = lambda line: None
    cancelled: Callable[[], bool] = lambda: False
    progress: Callable[[str, int, int, str], None] = lambda task, done, total, note: None
    started: float = field(default_factory=time.time)

    def derive_seed(self, *keys: object) -> int:
        """A seed for one purpose."""
        return derive(self.seed, *keys)

    def path(self, *parts: str) -> Path:
        """A path inside the run directory, whose folder exists."""
        path = self.directory.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def log(self, line: str) -> None:
        """Appends a line with its time to `log.txt`."""
        append_line(self.directory / "log.txt", f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}")

    def metric(self, **values: Any) -> None:
        """Appends one JSON object to `metrics.jsonl`."""
        append_line(self.directory / "metrics.jsonl", json.dumps(values, allow_nan=False))

    def inner(self, name: str, **changes: Any) -> Run:
        """A run inside this one: its own directory and seed, the same resolver and console."""
        fields: Mapping[str, Any] = {
            "resolve": self.resolve,
            "say": self.say,
            "cancelled": self.cancelled,
            "progress": self.progress,
            "device": self.device,
        }
        return Run(self.directory / name, **{"seed": self.derive_seed(name), **fields, **changes})
