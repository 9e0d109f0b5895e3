"""The report as data: what `report.json` holds and what terminal and page are drawn from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["not measurable", "floor", "identical", "equivalent", "better", "worse", "underpowered"]


@dataclass(frozen=True)
class Cell:
    """One arm on one metric of one task, compared with the base.

    `low` and `high` bound `difference` (value - base) at the stated confidence, adjusted for the primary cells.
    `task` is "" for metrics of the whole arm (speed, memory, energy, money). Numbers are None where not measurable.
    """

    arm: str
    task: str
    axis: str
    metric: str
    unit: str
    higher_is_better: bool
    base: float | None
    base_interval: tuple[float, float] | None
    value: float | None
    value_interval: tuple[float, float] | None
    difference: float | None
    low: float | None
    high: float | None
    n: int
    primary: bool
    verdict: Verdict
    source: Literal["measured", "modelled"] = "measured"
    margin: float | None = None
    note: str = ""
    samples_to_settle: int | None = None


@dataclass(frozen=True)
class ArmSummary:
    """Who an arm was and what it cost to weigh."""

    fingerprint: str
    levers: list[dict[str, Any]]
    cost: dict[str, Any]
    kernels: str = ""
    note: str = ""


@dataclass(frozen=True)
class Flip:
    """A sample on which base and arm differ in outcome (or, where none flips, in text)."""

    task: str
    sample: str
    arm: str
    metric: str
    question: str
    expected: str
    base_text: str
    arm_text: str
    base_value: float | None
    arm_value: float | None


@dataclass(frozen=True)
class Report:
    """Everything a weighing found. The first arm is the base."""

    arms: dict[str, ArmSummary]
    cells: list[Cell]
    checks: dict[str, list[Cell]]
    machine: dict[str, Any]
    versions: dict[str, str]
    recipe: dict[str, Any]
    flips: list[Flip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return dataclasses.asdict(self)

    def cell(self, arm: str, metric: str, task: str | None = None) -> Cell:
        """The cell of an arm on a metric (of a task, where several tasks share it)."""
        for cell in self.cells:
            if cell.arm == arm and cell.metric == metric and task in (None, cell.task):
                return cell
        raise KeyError((arm, metric, task))
