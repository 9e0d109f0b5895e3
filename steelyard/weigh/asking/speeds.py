"""How long an answer took, kept beside a run so that the next plan need not guess.

A directory may be planned in for one recipe and then for another; what was noted for another arm, or under other settings of the
task, is not taken for this one's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from steelyard.core.files import write_json
from steelyard.core.fingerprint import digest
from steelyard.core.recipe import Recipe
from steelyard.core.recipe_parts import written_lever

ALL = "all"  # stands for every arm together
FILE = "speeds.json"


@dataclass
class Speeds:
    """Arm -> task -> `seconds` of wall time one answer took with the arm's slots full, the `mark` its records carry, and what it is `of`.

    Attributes:
        recipe: whose arms and tasks are asked about.
        known: what was noted.
    """

    recipe: Recipe
    known: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path, recipe: Recipe) -> Self:
        """What an earlier run noted; nothing if there was none or its note cannot be read (it is only a guide)."""
        try:
            value = json.loads((directory / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return cls(recipe)
        if not isinstance(value, dict):
            return cls(recipe)
        good = {
            arm: {task: entry for task, entry in tasks.items() if isinstance(entry, dict) and isinstance(entry.get("seconds"), int | float)}
            for arm, tasks in value.items()
            if isinstance(tasks, dict)
        }
        return cls(recipe, good)

    def write(self, directory: Path) -> None:
        """Keeps them."""
        write_json(directory / FILE, self.known)

    def seconds(self, arm: str, task: str) -> float | None:
        """Seconds an answer took, or None."""
        entry = self._entry(arm, task)
        return float(entry["seconds"]) if entry else None

    def mark(self, arm: str, task: str) -> str | None:
        """The fingerprint under which an arm's records are kept, or None."""
        entry = self._entry(arm, task)
        return str(entry["mark"]) if entry and entry.get("mark") else None

    def note(self, arm: str, mark: str, task: str, seconds: float) -> None:
        """Notes an arm's pace."""
        self.known.setdefault(arm, {})[task] = {"mark": mark, "seconds": round(seconds, 4), "of": self._of(arm, task)}

    def _entry(self, arm: str, task: str) -> dict[str, Any] | None:
        entry = self.known.get(arm, {}).get(task)
        return entry if entry and entry.get("of") == self._of(arm, task) else None

    def _of(self, arm: str, task: str) -> str:
        """Digest of an arm and a task as the recipe has them."""
        arms = [
            [one.source.written(), [written_lever(lever) for lever in one.levers], list(one.seeds)]
            for name, one in self.recipe.arms.items()
            if arm in (name, ALL)
        ]
        return digest([arms, [spec.settings for spec in self.recipe.tasks if spec.name == task]])
