"""Measurements as cells: speed, memory, energy and money of an arm beside the base.

Each pass through the arms gives one pair of blocks, and the pairs are the samples of the statistics. Energy and money are often
modelled from stated coefficients (`steelyard.core.meters`); then a cell says so, and its interval also holds the doubt about
the coefficients, the same coefficients being taken on both sides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from steelyard.core.axes import Axis
from steelyard.weigh.cells import Draft, contrast, unmeasured
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
    Metric("per_million_tokens", "money", "USD/Mtoken", False, margin=0.05, relative=True, kind="ratio"),
)
"""What is measured of a whole arm; the first of an axis is its default."""

MEASURED: tuple[Axis, ...] = ("speed", "memory", "energy", "money")


@dataclass(frozen=True)
class Measured:
    """One arm's blocks, pass by pass; `failure` says why there are none."""

    blocks: tuple[Mapping[str, Any], ...] = ()
    weight_bytes: int | None = None
    load_seconds: float | None = None
    failure: str | None = None


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
        return Draft(arm, "", metric, middle, notes=(f"measured by {', '.join(sorted(sources))}",))
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
    return Draft(arm, "", metric, middle, notes=(note,), source="modelled", shift=(min(spread), max(spread)))


_WHY_NOT = {
    "speed": "the answers were too short to time",
    "memory": "this arm runs elsewhere, or the system does not tell",
    "energy": "this arm runs elsewhere",
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
