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
    `margin` is in the metric's unit, also where the metric declared it as a share of the base's value.
    `samples_to_settle` is how many further samples would settle an underpowered cell, where that could be worked out.
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
    """Who an arm was and what it cost to weigh. `parameters` counts its model's weights, where they are known."""

    fingerprint: str
    levers: list[dict[str, Any]]
    cost: dict[str, Any]
    kernels: str = ""
    note: str = ""
    parameters: int | None = None


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
    """Everything a weighing found. The first arm is the base.

    Attributes:
        arms: who was weighed, base first.
        cells: one per arm, task and metric.
        checks: `a_a` and `planted_defect`: cells that show whether the balance itself is true.
        machine: what it ran on; plain values.
        versions: package name -> version.
        recipe: the resolved recipe (`base`, `tasks`, `seed`, ...).
        flips: samples whose outcome changed, most telling first.
        notes: further limits, one plain sentence each.
        title: what a person would call this weighing; "" = made from base and arms.
        started: when it began, ISO 8601 with offset.
        seconds: wall time of the whole weighing.
        confidence: of every interval, before adjustment.
    """

    arms: dict[str, ArmSummary]
    cells: list[Cell]
    checks: dict[str, list[Cell]]
    machine: dict[str, Any]
    versions: dict[str, str]
    recipe: dict[str, Any]
    flips: list[Flip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    title: str = ""
    started: str = ""
    seconds: float | None = None
    confidence: float = 0.95

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return dataclasses.asdict(self)

    def cell(self, arm: str, metric: str, task: str | None = None) -> Cell:
        """The cell of an arm on a metric (of a task, where several tasks share it)."""
        for cell in self.cells:
            if cell.arm == arm and cell.metric == metric and task in (None, cell.task):
                return cell
        raise KeyError((arm, metric, task))
