"""Measurements as cells: speed, memory, energy and money of an arm beside the base.

Each pass through the arms gives one pair of blocks, and the pairs are the samples of the statistics. Energy and money are often
modelled from stated coefficients (`steelyard.core.meters`); then a cell says so, and its interval also holds the doubt about
the coefficients, the same coefficients being taken on both sides. What the machine draws idle is not an arm's doing: counters have it
subtracted, and the model charges none. What trainings took is not measured here but read from the models' records.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from steelyard.core.axes import Axis
from steelyard.core.errors import SteelyardError
from steelyard.core.files import write_json
from steelyard.weigh.cells.cells import Draft, contrast, unmeasured
from steelyard.weigh.cells.verdicts import margin_of, verdict
from steelyard.weigh.report.report import ArmSummary, Cell
from steelyard.weigh.tasks.task import Metric, Value

MEGA = 1e6

METRICS: tuple[Metric, ...] = (
    Metric("tokens_per_second", "speed", "tokens/s", True, margin=0.05, relative=True, kind="ratio"),
    Metric("first_token_p50", "speed", "ms", False, margin=0.05, relative=True),
    Metric("first_token_p95", "speed", "ms", False, margin=0.05, relative=True),
    Metric("token_p50", "speed", "ms", False, margin=0.05, relative=True),
    Metric("token_p95", "speed", "ms", False, margin=0.05, relative=True),
    Metric("peak_memory", "memory", "MB", False, margin=0.05, relative=True),
    Metric("weights", "memory", "MB", False, margin=0.01, relative=True),
    Metric("joules_per_token", "energy", "J/token", False, margin=0.05, relative=True, kind="ratio"),
    Metric("watt_hours_per_request", "energy", "Wh/request", False, margin=0.05, relative=True, kind="ratio"),
    Metric("per_million_tokens", "money", "USD/Mtoken", False, margin=0.05, relative=True, kind="ratio"),
)
"""What is measured of a whole arm; the first of an axis is its default."""

TRAINING = Metric("watt_hours_of_training", "energy", "Wh", False, margin=0.05, relative=True)
RENT = Metric("price_of_training", "money", "USD", False, margin=0.05, relative=True)
"""What making an arm's model took and cost, each training run; see `training_cells`."""

MEASURED: tuple[Axis, ...] = ("speed", "memory", "energy", "money")


@dataclass(frozen=True)
class Measured:
    """One arm's blocks, pass by pass; `failure` says why there are none."""

    blocks: tuple[Mapping[str, Any], ...] = ()
    weight_bytes: int | None = None
    load_seconds: float | None = None
    failure: str | None = None


FILE = "measured.json"


def keep(directory: Path, found: Mapping[tuple[str, str], tuple[Measured, Measured]]) -> None:
    """Keeps what was measured beside a run, for a report that is written anew from records."""
    write_json(directory / FILE, [[list(pair), [dataclasses.asdict(side) for side in sides]] for pair, sides in found.items()])


def read(directory: Path, names: Sequence[str]) -> dict[tuple[str, str], tuple[Measured, Measured]]:
    """What was measured last of these arms beside the first of them; a failure in words where that is nothing.

    Raises:
        SteelyardError: the file is damaged.
    """
    base, rest = names[0], list(names[1:])
    try:
        told = json.loads((directory / FILE).read_text(encoding="utf-8"))
        kept = {(one, other): (_measured(left), _measured(right)) for (one, other), (left, right) in told}
    except FileNotFoundError:
        kept = {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SteelyardError("it does not say what was measured", where=str(directory / FILE), do="Delete it, and weigh again.") from error
    nothing = Measured(failure="not measured in this run")
    return {(base, arm): kept.get((base, arm), (nothing, nothing)) for arm in rest or [base]}


def _measured(told: Mapping[str, Any]) -> Measured:
    return Measured(**{**told, "blocks": tuple(told["blocks"])})


def draft_measured(arm: str, base: Measured, other: Measured, axes: Sequence[str], currency: str) -> list[Draft]:
    """One draft per measured metric of the axes asked for."""
    drafts = []
    for metric in METRICS:
        if metric.axis not in axes:
            continue
        if metric.axis == "money":
            metric = dataclasses.replace(metric, unit=f"{currency}/Mtoken")
        failure = other.failure or base.failure
        drafts.append(unmeasured(arm, "", metric, failure) if failure else _draft(arm, metric, base, other))
    return drafts


def _draft(arm: str, metric: Metric, base: Measured, other: Measured) -> Draft:
    left, right = (values(metric, side) for side in (base, other))
    clusters = [str(turn) for turn in range(len(left))]
    middle = contrast(metric, [_middle(value) for value in left], [[_middle(value) for value in right]], clusters)
    if middle is None:
        return unmeasured(arm, "", metric, _WHY_NOT.get(metric.axis, "no figure"))
    notes = ()
    if metric.name == "peak_memory" and not all(b["reading"]["peak_is_of_this_stretch"] for b in (*base.blocks, *other.blocks)):
        notes = ("the peak since the process began: this system does not let it be set back",)
    if metric.axis not in ("energy", "money"):
        return Draft(arm, "", metric, middle, notes=notes)
    sources = {b["reading"]["energy_source"] for b in (*base.blocks, *other.blocks)} if metric.axis == "energy" else {"modelled"}
    if "modelled" not in "+".join(sources):
        return Draft(arm, "", metric, middle, notes=(f"measured by {', '.join(sorted(sources))}{_idle_left_out(base, other)}",))
    ends = [contrast(metric, [_end(value, side) for value in left], [[_end(value, side) for value in right]], clusters) for side in (0, 1)]
    low, high = ends
    if low is None or high is None:
        return unmeasured(arm, "", metric, "no figure")
    middle = dataclasses.replace(
        middle,
        base=dataclasses.replace(middle.base, interval=_hull(low.base.value, high.base.value)),
        value=dataclasses.replace(middle.value, interval=_hull(low.value.value, high.value.value)),
    )
    spread = [end.difference - middle.difference for end in (low, high)]
    note = "from stated coefficients; the intervals of the values are the range of the coefficients"
    if metric.axis == "money":
        note = "from the price table; the intervals of the values are the range of its prices"
    if metric.axis == "energy":
        counted = sorted({part for source in sources for part in source.split("+")} - {"modelled"})
        note += _idle_left_out(base, other) or "; idling is in it"
        note += f"; in part measured by {', '.join(counted)}" if counted else ""
    return Draft(arm, "", metric, middle, notes=(note,), source="modelled", shift=(min(spread), max(spread)))


def _idle_left_out(base: Measured, other: Measured) -> str:
    """What was subtracted for idling, in words; "" where it was not."""
    found = [block["reading"].get("idle_watts") for side in (base, other) for block in side.blocks]
    watts = [value for value in found if value is not None]
    if not watts or len(watts) < len(found):
        return ""
    least, most = min(watts), max(watts)
    if not most:
        return "; no idle share"
    return (
        f"; {least:.3g} W of idling subtracted"
        if f"{least:.3g}" == f"{most:.3g}"
        else f"; {least:.3g} to {most:.3g} W of idling subtracted"
    )


def training_cells(
    summaries: Mapping[str, ArmSummary], seeds: Mapping[str, int], axes: Collection[str] = ("energy", "money")
) -> list[Cell]:
    """What each arm's trainings took in Wh and in rent, beside those of the base's own model, as the models' records tell.

    Args:
        summaries: arm -> who it was and what it cost; the base first.
        seeds: arm -> training runs its cost is the sum of.
        axes: of which cells are wanted.

    Returns:
        One cell of an axis for each arm that has a training on record which the base has not; a base that was not trained here counts
        as nothing.
    """
    return [cell for metric in (TRAINING, RENT) if metric.axis in axes for cell in _training_cells(metric, summaries, seeds)]


def _training_cells(metric: Metric, summaries: Mapping[str, ArmSummary], seeds: Mapping[str, int]) -> list[Cell]:
    base, *others = summaries
    ends = {name: _of_training(metric, summaries[name], max(1, seeds.get(name, 1))) for name in summaries}
    start = ends[base]
    low, high = start or (0.0, 0.0)
    out = []
    for name in others:
        found = ends[name]
        if found is None or found == start:
            continue
        changes = sorted((found[0] - low, found[1] - high))
        middle, before = sum(found) / 2, (low + high) / 2
        margin = margin_of(metric, before) or 0.0
        cost = summaries[name].cost
        source = str(cost.get("training_energy_source", "modelled")) if metric is TRAINING else "modelled"
        unit = metric.unit if metric is TRAINING else str(cost.get("training_currency", metric.unit))
        note = f"of {cost.get('training_seconds', 0):.4g} s of steps and what belongs to them; "
        note += (
            f"{source}, no idle share"
            if metric is TRAINING
            else "rent of the machine for that time; the interval is the price table's range"
        )
        note += "" if start else "; the base was not trained here, which counts as nothing"
        out.append(Cell(
            name, "", metric.axis, metric.name, unit, False, before, (low, high), middle, found, middle - before, changes[0], changes[1],
            max(1, seeds.get(name, 1)), False,
            verdict(measurable=True, floor=False, identical=False, interval=(changes[0], changes[1]), margin=margin, higher_is_better=False),
            "modelled" if "modelled" in source else "measured", margin, note,
        ))  # fmt: skip
    return out


def _of_training(metric: Metric, summary: ArmSummary, runs: int) -> tuple[float, float] | None:
    """Low and high end of Wh or rent for each training run; None where nobody counted."""
    what, per = ("joules", 3600) if metric is TRAINING else ("money", 1)
    ends = [summary.cost.get(f"training_{what}_{end}") for end in ("low", "high")]
    low, high = (None if end is None else end / per / runs for end in ends)
    return None if low is None or high is None else (low, high)


_WHY_NOT = {
    "speed": "the answers were too short to time",
    "memory": "the base or this arm runs elsewhere, or the system does not tell",
    "energy": "the base or this arm runs elsewhere",
    "money": "the price table has no price for it",
}


def _hull(one: float, other: float) -> tuple[float, float]:
    return min(one, other), max(one, other)


def values(metric: Metric, side: Measured) -> list[Any]:
    """A metric's value for each block; energy and money as the pair for low and high coefficients."""
    found: list[Any] = []
    for block in side.blocks:
        answers, reading = block["answers"], block["reading"]
        tokens = sum(answer["tokens"] for answer in answers)
        match metric.name:
            case "tokens_per_second":
                decoded, seconds = (sum(answer[key] for answer in answers) for key in ("decoded", "decode_seconds"))
                found.append((float(decoded), seconds) if decoded and seconds > 0 else None)
            case "first_token_p50" | "first_token_p95":
                found.append(_percentile([answer["first_token"] for answer in answers], metric.name))
            case "token_p50" | "token_p95":
                found.append(_percentile([gap for answer in answers for gap in answer["gaps"]], metric.name))
            case "peak_memory":
                host, device = reading["peak_resident_bytes"], reading["device_peak_bytes"]
                found.append(None if host is None or side.weight_bytes is None else (host + (device or 0)) / MEGA)
            case "weights":
                found.append(None if side.weight_bytes is None else side.weight_bytes / MEGA)
            case "joules_per_token":
                local = side.weight_bytes is not None
                found.append(tuple((reading[key], tokens) for key in ("joules_low", "joules_high")) if tokens and local else None)
            case "watt_hours_per_request":
                local = side.weight_bytes is not None
                ends = tuple((reading[key] / 3600, float(len(answers))) for key in ("joules_low", "joules_high"))
                found.append(ends if answers and local else None)
            case "per_million_tokens":
                ends = [reading["money_low"], reading["money_high"]]
                found.append(None if not tokens or None in ends else tuple((end, tokens / 1e6) for end in ends))
    return found


def _percentile(seconds: Sequence[float], name: str) -> Value:
    return float(numpy.percentile(seconds, int(name[-2:]))) * 1e3 if seconds else None


def _end(value: Any, side: int) -> Value:
    """The value under low (0) or high (1) coefficients."""
    return value[side] if isinstance(value, tuple) and isinstance(value[0], tuple) else value


def _middle(value: Any) -> Value:
    """The value halfway between low and high coefficients."""
    if isinstance(value, tuple) and isinstance(value[0], tuple):
        return (value[0][0] + value[1][0]) / 2, value[0][1]
    return value
