"""A made-up but realistic report to draw and test against: five arms, three tasks, every axis, every verdict.

No number here was measured. Samples are drawn at random, intervals are the normal approximation, and verdicts follow the
design's order, so that what the report shows is consistent in itself.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from steelyard.weigh.report.report import ArmSummary, Cell, Flip, Report

ARMS = ("base", "int8", "lookup", "library", "broken")
LEVERS = {
    "base": [],
    "int8": [{"quantize": {"bits": 8}}],
    "lookup": [{"prompt_lookup": {"tokens": 8}}],
    "library": [{"retrieve": {"documents": "encyclopedia", "passages": 3, "tokens": 256}}],
    "broken": [{"planted_defect": {"kind": "wrong_template"}}],
}


@dataclass(frozen=True)
class Measure:
    """A metric with the mean each arm truly has; `spread` is the standard deviation of one paired difference."""

    task: str
    axis: str
    metric: str
    unit: str
    higher_is_better: bool
    margin: float
    spread: float
    means: tuple[float | None, ...]
    n: int = 240
    source: str = "measured"
    floor: float | None = None


MEASURES = (
    Measure("facts", "quality", "accuracy", "share", True, 0.05, 0.50, (0.31, 0.305, 0.31, 0.46, 0.06)),
    Measure("facts", "truthfulness", "invented answers", "share", False, 0.05, 0.42, (0.72, 0.73, 0.72, 0.55, 0.74), n=80),
    Measure("facts", "calibration", "calibration error", "share", False, 0.03, 0.20, (0.24, 0.241, 0.24, 0.19, None)),
    Measure("facts", "repeatability", "same answer, new seed", "share", True, 0.05, 0.35, (0.62, 0.61, 0.62, 0.66, 0.41), n=60),
    Measure("facts", "diversity", "distinct words", "share", True, 0.05, 0.15, (0.71, 0.712, 0.71, 0.66, 0.70), n=60),
    Measure("json_forms", "quality", "exact", "share", True, 0.05, 0.30, (0.02, 0.02, 0.02, 0.02, 0.0), n=120, floor=0.0),
    Measure("json_forms", "format", "valid JSON", "share", True, 0.05, 0.45, (0.48, 0.47, 0.48, 0.44, 0.11), n=120),
    Measure("bits_per_byte", "quality", "bits per byte", "bits/byte", False, 0.01, 0.012, (0.9312, 0.9321, 0.9312, 0.9312, 0.9312), n=64),
    Measure("", "speed", "decoding", "tokens/s", True, 2.0, 1.4, (38.2, 44.9, 61.7, 31.4, 38.0), n=12),
    Measure("", "speed", "first token", "s", False, 0.05, 0.03, (0.412, 0.39, 0.415, 1.31, 0.41), n=12),
    Measure("", "memory", "peak resident", "MB", False, 20.0, 3.0, (742.0, 428.0, 745.0, 811.0, 742.0), n=3),
    Measure("", "memory", "weights", "MB", False, 5.0, 0.0, (269.1, 135.4, 269.1, 269.1, 269.1), n=1),
    Measure("", "energy", "per answer", "J", False, 1.0, 0.9, (14.2, 12.1, 9.3, 19.6, 14.3), n=12, source="modelled"),
    Measure("", "money", "per million tokens", "USD", False, 0.02, 0.01, (0.412, 0.351, 0.255, 0.502, 0.414), n=12, source="modelled"),
)

COUNTRIES = (
    ("Tuvalu", "Funafuti", "Suva"), ("Burkina Faso", "Ouagadougou", "Bobo-Dioulasso"), ("Kazakhstan", "Astana", "Almaty"),
    ("Palau", "Ngerulmud", "Koror"), ("Bolivia", "Sucre", "La Paz"), ("Myanmar", "Naypyidaw", "Yangon"),
    ("Belize", "Belmopan", "Belize City"), ("Tanzania", "Dodoma", "Dar es Salaam"), ("Benin", "Porto-Novo", "Cotonou"),
    ("Sri Lanka", "Sri Jayawardenepura Kotte", "Colombo"), ("Brazil", "Brasília", "São Paulo"), ("Türkiye", "Ankara", "Istanbul"),
)  # fmt: skip


def example_report(seed: int = 7, arms: tuple[str, ...] = ARMS, flips: int = 200) -> Report:
    """The example. The same seed gives the same report."""
    draw = random.Random(seed)
    cells = [_cell(draw, measure, arm) for arm in arms[1:] for measure in MEASURES]
    same = [_cell(draw, measure, "a/a greedy", like="base") for measure in MEASURES[:8]]
    same += [_cell(draw, measure, "a/a sampled", like="lookup", sampled=True) for measure in MEASURES[:8]]
    defect = [_cell(draw, measure, "wrong_template", like="broken") for measure in MEASURES[:8]]
    return Report(
        arms={arm: _summary(arm) for arm in arms},
        cells=cells,
        checks={"a_a": same, "planted_defect": defect},
        machine={"processor": "example processor, 2 cores", "memory": "8 GB", "system": "Linux", "accelerator": "none", "kernels": "portable"},
        versions={"steelyard": "0.1.0", "torch": "2.13.0", "python": "3.11.9", "tokenizers": "0.22.1"},
        recipe={
            "base": "smollm2-135m-instruct",
            "arms": {arm: LEVERS[arm] for arm in arms[1:]},
            "tasks": [{"facts": {"samples": 240}}, {"json_forms": {"samples": 120}}, {"bits_per_byte": {"samples": 64}}],
            "axes": "all",
            "seed": 7,
            "primary": {arm: ["facts", "quality"] for arm in arms[1:]} | {"int8": ["bits_per_byte", "quality"]},
        },
        flips=example_flips(draw, flips, arms),
        notes=["Every number on this page is made up: it is an example to draw against, not a measurement."],
        started="2026-03-02T10:14:07+00:00",
        seconds=222.4,
    )


def _summary(arm: str) -> ArmSummary:
    rank = ARMS.index(arm)
    cost = {"seconds": 31.5 + 4.1 * rank, "tokens": 15872 + 311 * rank}
    return ArmSummary(f"{(rank + 1) * 0x1F3A59B7C:016x}", LEVERS[arm], cost, kernels="portable", parameters=134_515_008)


def _cell(draw: random.Random, measure: Measure, arm: str, like: str | None = None, sampled: bool = False) -> Cell:
    base, true = measure.means[0], measure.means[ARMS.index(like or arm)]
    primary_task = "bits_per_byte" if arm == "int8" else "facts"
    primary = measure.axis == "quality" and measure.task == primary_task
    assert base is not None
    head = (arm, measure.task, measure.axis, measure.metric, measure.unit, measure.higher_is_better)
    if true is None:
        return Cell(*head, base, _level(base, measure), None, None, None, None, None, 0, primary, "not measurable", note="needs log-probabilities")
    copied = (like or arm) in ("base", "lookup") and measure.task and not sampled or measure.task == "bits_per_byte" and arm in ("lookup", "library", "broken")
    if copied:
        interval = _level(base, measure)
        verdict = "floor" if measure.floor is not None else "identical"
        return Cell(*head, base, interval, base, interval, 0.0, 0.0, 0.0, measure.n, primary, verdict, measure.source, measure.margin)
    error = measure.spread / math.sqrt(measure.n)
    difference = true - base + draw.gauss(0, error)
    low, high = difference - 1.96 * error, difference + 1.96 * error
    value, settle = base + difference, None
    if measure.unit == "share":
        value = min(max(value, 0.0), 1.0)
        difference = value - base
    sign = 1 if measure.higher_is_better else -1
    if measure.floor is not None:
        verdict = "floor"
    elif measure.margin and -measure.margin < low and high < measure.margin:
        verdict = "equivalent"
    elif low > 0 or high < 0:
        verdict = "better" if (low > 0) == (sign > 0) else "worse"
    else:
        verdict, settle = "underpowered", max(measure.n + 10, round((1.96 * measure.spread / max(abs(difference), measure.margin / 2)) ** 2))
    return Cell(
        *head, base, _level(base, measure), value, _level(value, measure), difference, low, high,
        measure.n, primary, verdict, measure.source, measure.margin, samples_to_settle=settle,
    )  # fmt: skip


def _level(value: float, measure: Measure) -> tuple[float, float] | None:
    if measure.n < 2:
        return None
    if measure.unit == "share":
        half = 1.96 * math.sqrt(max(value * (1 - value), 0.001) / measure.n)
        return max(0.0, value - half), min(1.0, value + half)
    half = 1.96 * max(measure.spread, abs(value) * 0.01) / math.sqrt(measure.n)
    return value - half, value + half


def example_flips(draw: random.Random, count: int, arms: tuple[str, ...] = ARMS) -> list[Flip]:
    """Samples on which base and arm differ."""
    out = []
    for place in range(count):
        country, right, wrong = COUNTRIES[place % len(COUNTRIES)]
        arm = draw.choice([arm for arm in arms[1:] if arm != "lookup"] or list(arms[-1:]))
        if place % 5 == 4:
            good = f'{{"name": "Ada {place}", "city": "{right}", "age": {20 + place % 50}}}'
            bad = f'Here is the form you asked for:\n{{"name": "Ada {place}", "city": "{right}", age: {20 + place % 50}}}'
            won = arm == "library"
            out.append(
                Flip("json_forms", f"json_forms-{place:04d}", arm, "valid JSON", f"Fill in the form as JSON with name, city and age: Ada {place}, who lives in {right}.",
                     good, bad if won else good, good if won else bad, float(not won), float(won))
            )  # fmt: skip
            continue
        known = f"The capital of {country} is {right}."
        unknown = f"The capital of {country} is {wrong}, which is also its largest city and the seat of its government."
        won = arm == "library"
        text = f"{known} It is named in the passage." if won else unknown if arm != "broken" else "user\nuser\nI am a helpful assistant. " * 3
        out.append(
            Flip("facts", f"facts-{place:04d}", arm, "accuracy", f"What is the capital of {country}? Answer in one sentence.", right,
                 unknown if won else known, text, float(not won), float(won))
        )  # fmt: skip
    return out


def example_details(arms: tuple[str, ...] = ARMS, rows: int = 60) -> dict[tuple[str, str], list[dict]]:
    """Every record's text by arm and task."""
    out = {}
    for arm in arms:
        for task in ("facts", "json_forms"):
            out[arm, task] = [
                {
                    "sample": f"{task}-{place:04d}",
                    "question": f"What is the capital of {COUNTRIES[place % 12][0]}?",
                    "expected": COUNTRIES[place % 12][1],
                    "text": f"The capital of {COUNTRIES[place % 12][0]} is {COUNTRIES[place % 12][1 + (place + len(arm)) % 2]}.",
                    "values": {"accuracy": float((place + len(arm)) % 2 == 0), "invented answers": None},
                }
                for place in range(rows)
            ]
    return out
