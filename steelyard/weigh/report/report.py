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
class Training:
    """One pretraining from nothing: what scaling laws are fitted to.

    Attributes:
        family: digest of everything it was besides sizes, budget and learning rate; trainings of one family differ by these alone.
        name: what the family is, in words.
        parameters: weights trained.
        tokens: read in training.
        flops: operations, forward and backward.
        loss: nats a token on text kept aside, at the end.
        seed: of the training.
    """

    family: str
    name: str
    parameters: int
    tokens: int
    flops: float
    loss: float
    seed: int


@dataclass(frozen=True)
class ScalingPoint:
    """Trainings of one size and length: their mean loss, and the loss that the fitted law gives them (None without one)."""

    arms: list[str]
    parameters: int
    tokens: int
    flops: float
    loss: float
    runs: int
    fitted: float | None = None


@dataclass(frozen=True)
class ScalingFigure:
    """A number of a scaling law with its interval, None where there are too few points for one.

    `settled`: whether the interval is narrow enough to build on (see `weigh/statistics/scaling_law.py`).
    """

    name: str
    words: str
    value: float
    low: float | None
    high: float | None
    settled: bool


@dataclass(frozen=True)
class Foretold:
    """The costliest training's loss, foretold by a law that was fitted to all others, beside the one measured."""

    arms: list[str]
    loss: float
    foretold: float
    low: float
    high: float


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta over trainings of one family (`weigh/statistics/scaling_law.py`).

    Attributes:
        name: what the family is.
        points: in order of their cost.
        figures: the law's numbers; empty where no law could be fitted, and `verdict` says why.
        verdict: what the figures say about the best size for a budget, in a sentence.
        deviation: root mean square of log(measured / fitted), with the degrees of freedom that are left; None where none are.
        operations: k of C = k N D, the points' geometric mean.
        foretold: a test of the law on a point it did not see.
    """

    name: str
    points: list[ScalingPoint]
    figures: list[ScalingFigure]
    verdict: str
    deviation: float | None = None
    operations: float | None = None
    foretold: Foretold | None = None

    def figure(self, name: str) -> ScalingFigure:
        """A figure by name."""
        return next(figure for figure in self.figures if figure.name == name)


@dataclass(frozen=True)
class ArmSummary:
    """Who an arm was and what it cost to weigh. `parameters` counts its model's weights, where they are known; `trainings` are those
    that made it from nothing, one for each seed."""

    fingerprint: str
    levers: list[dict[str, Any]]
    cost: dict[str, Any]
    kernels: str = ""
    note: str = ""
    parameters: int | None = None
    trainings: list[Training] = field(default_factory=list)


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
class CurvePoint:
    """A point of a curve: `value` with its interval at `at`, over `n` samples."""

    at: float
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Curve:
    """How one arm's metric on a task runs along something.

    Attributes:
        kind: `reliability`: share right by stated probability; `risk_coverage`: share wrong among the surest answers by how many of them
            are given; `position`: the task's first metric by depth.
        metric, unit, higher_is_better: of the values.
        group: which of several lines of one arm it is (`512 tokens`), "" where there is one.
        points: in order of `at`, a share from 0 to 1.
    """

    kind: Literal["reliability", "risk_coverage", "position"]
    arm: str
    task: str
    metric: str
    unit: str
    higher_is_better: bool
    group: str
    points: list[CurvePoint]


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
        seconds: wall time of the call that wrote the report.
        earlier: answers that earlier calls in the same directory had left there; their time is not in `seconds`.
        confidence: of every interval, before adjustment.
        scaling: laws fitted to the arms' trainings, where these are enough to try.
        curves: reliability, risk against coverage, and accuracy by position, of every arm where its answers allow them.
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
    earlier: int = 0
    confidence: float = 0.95
    scaling: list[ScalingLaw] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return dataclasses.asdict(self)

    def cell(self, arm: str, metric: str, task: str | None = None) -> Cell:
        """The cell of an arm on a metric (of a task, where several tasks share it)."""
        for cell in self.cells:
            if cell.arm == arm and cell.metric == metric and task in (None, cell.task):
                return cell
        raise KeyError((arm, metric, task))
