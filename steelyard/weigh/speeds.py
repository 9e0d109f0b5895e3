"""How long an answer took, kept beside a run so that the next plan need not guess."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from steelyard.core.files import write_json

FILE = "speeds.json"


@dataclass
class Speeds:
    """Arm -> task -> `seconds` of wall time one answer took with the arm's slots full, and the `mark` its records carry."""

    known: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """What an earlier run noted; nothing if there was none or its note cannot be read (it is only a guide)."""
        try:
            value = json.loads((directory / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return cls()
        if not isinstance(value, dict):
            return cls()
        good = {
            arm: {task: entry for task, entry in tasks.items() if isinstance(entry, dict) and isinstance(entry.get("seconds"), int | float)}
            for arm, tasks in value.items()
            if isinstance(tasks, dict)
        }
        return cls(good)

    def write(self, directory: Path) -> None:
        """Keeps them."""
        write_json(directory / FILE, self.known)

    def seconds(self, arm: str, task: str) -> float | None:
        """Seconds an answer took, or None."""
        entry = self.known.get(arm, {}).get(task)
        return float(entry["seconds"]) if entry else None

    def marks(self) -> dict[tuple[str, str], str]:
        """(arm, task) -> fingerprint under which its records are kept."""
        return {(arm, task): str(entry.get("mark", "")) for arm, tasks in self.known.items() for task, entry in tasks.items()}

    def note(self, arm: str, mark: str, task: str, seconds: float) -> None:
        """Notes an arm's pace."""
        self.known.setdefault(arm, {})[task] = {"mark": mark, "seconds": round(seconds, 4)}
