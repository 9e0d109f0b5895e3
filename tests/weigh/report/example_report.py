"""A made-up but realistic report to draw and test against: five arms, three tasks, every axis, every verdict.

No number here was measured. Samples are drawn at random, intervals are the normal approximation, and verdicts follow the
design's order, so that what the report shows is consistent in itself.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from steelyard.weigh.report.report import ArmSummary, Cell, Curve, CurvePoint, Flip, Report

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
    Measure("facts", "quality", "right", "share", True, 0.03, 0.50, (0.31, 0.305, 0.31, 0.46, 0.06)),
    Measure("facts", "truthfulness", "hallucinated", "share", False, 0.03, 0.42, (0.62, 0.63, 0.62, 0.45, 0.84), n=80),
    Measure("facts", "truthfulness", "right_when_answered", "share", True, 0.03, 0.45, (0.35, 0.346, 0.35, 0.51, 0.07)),
    Measure("facts", "calibration", "brier", "squared error", False, 0.02, 0.11, (0.241, 0.243, 0.241, 0.192, None)),
    Measure("facts", "repeatability", "agreement", "share", True, 0.05, 0.35, (0.62, 0.61, 0.62, 0.66, 0.41), n=60),
    Measure("facts", "diversity", "distinct_2", "share", True, 0.05, 0.15, (0.71, 0.712, 0.71, 0.66, 0.70), n=60),
    Measure("json_forms", "quality", "exact", "share", True, 0.03, 0.30, (0.02, 0.02, 0.02, 0.02, 0.0), n=120, floor=0.0),
    Measure("json_forms", "format", "valid", "share", True, 0.03, 0.45, (0.48, 0.47, 0.48, 0.44, 0.11), n=120),
    Measure("bits_per_byte", "quality", "bits_per_byte", "bits/byte", False, 0.0093, 0.012, (0.9312, 0.9321, 0.9312, 0.9312, 0.9312), n=64),
    Measure("", "speed", "tokens_per_second", "tokens/s", True, 1.91, 1.4, (38.2, 44.9, 61.7, 31.4, 38.0), n=6),
    Measure("", "speed", "first_token_p50", "ms", False, 20.6, 24.0, (412.0, 371.0, 415.0, 1310.0, 409.0), n=6),
    Measure("", "memory", "peak_memory", "MB", False, 37.1, 3.0, (742.0, 428.0, 745.0, 811.0, 742.0), n=6),
    Measure("", "memory", "weights", "MB", False, 2.69, 0.0, (269.1, 135.4, 269.1, 269.1, 269.1), n=1),
    Measure("", "energy", "joules_per_token", "J/token", False, 0.019, 0.02, (0.38, 0.31, 0.24, 0.52, 0.382), n=6, source="modelled"),
    Measure(
        "", "money", "per_million_tokens", "USD/Mtoken", False, 0.021, 0.01, (0.412, 0.351, 0.255, 0.502, 0.414), n=6, source="modelled"
    ),
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
    same = [_cell(draw, measure, "A/A greedy", like="base") for measure in MEASURES[:9]]
    same += [_cell(draw, measure, "A/A sampled", like="lookup", sampled=True) for measure in MEASURES[:9]]
    defect = [_cell(draw, measure, "planted defect", like="broken") for measure in MEASURES[:9]]
    return Report(
        arms={arm: _summary(arm) for arm in arms},
        cells=cells,
        checks={"a_a": same, "planted_defect": defect},
        machine={"cpu": "example processor", "cores": 2, "memory_bytes": 8_000_000_000, "gpus": [], "os": "Linux", "versions": {}},
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
        curves=example_curves(arms),
    )


def example_curves(arms: tuple[str, ...] = ARMS) -> list[Curve]:
    """Reliability and risk against coverage on one task, accuracy by depth and length on another."""
    curves = []
    for arm in arms:
        skill = MEASURES[0].means[ARMS.index(arm)] or 0.0
        bins = [(0.05 + 0.1 * k, min(1.0, skill * (0.4 + 0.12 * k))) for k in range(10)]
        curves.append(Curve("reliability", arm, "facts", "right", "share", True, "", [_at(x, y, 24) for x, y in bins]))
        risks = [(k / 20, (1 - skill) * (0.4 + 0.6 * k / 20)) for k in range(1, 21)]
        curves.append(Curve("risk_coverage", arm, "facts", "wrong", "share", False, "", [_at(x, y, round(240 * x)) for x, y in risks]))
        for length in (512, 2048, 8192):
            depths = [(d / 4, min(1.0, skill + 0.25 + abs(d / 4 - 0.5) - 0.08 * math.log2(length / 512))) for d in range(5)]
            points = [_at(x, max(0.0, y), 40) for x, y in depths]
            curves.append(Curve("position", arm, "needles", "found", "share", True, f"{length} tokens", points))
    return curves


def _at(at: float, value: float, n: int) -> CurvePoint:
    half = 1.96 * math.sqrt(max(value * (1 - value), 0.002) / n)
    return CurvePoint(at, value, max(0.0, value - half), min(1.0, value + half), n)


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
        nothing = (None, None, None, None, None, 0)
        return Cell(*head, base, _level(base, measure), *nothing, primary, "not measurable", note="needs log-probabilities")
    same_text = (like or arm) in ("base", "lookup") and measure.task and not sampled
    if same_text or measure.task == "bits_per_byte" and arm in ("lookup", "library", "broken"):
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
        verdict, settle = "underpowered", max(10, round((2.8 * measure.spread / max(abs(difference), measure.margin / 2)) ** 2) - measure.n)
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
            won, question = arm == "library", f"Fill in the form as JSON with name, city and age: Ada {place}, who lives in {right}."
            texts = (bad if won else good, good if won else bad, float(not won), float(won))
            out.append(Flip("json_forms", f"json_forms-{place:04d}", arm, "valid", question, good, *texts))
            continue
        known = f"The capital of {country} is {right}."
        unknown = f"The capital of {country} is {wrong}, which is also its largest city and the seat of its government."
        won = arm == "library"
        wrong_text = unknown if arm != "broken" else "user\nuser\nI am a helpful assistant. " * 3
        text = f"{known} It is named in the passage." if won else wrong_text
        out.append(
            Flip("facts", f"facts-{place:04d}", arm, "right", f"What is the capital of {country}? Answer in one sentence.", right,
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
                    "values": {"right": float((place + len(arm)) % 2 == 0), "hallucinated": None},
                }
                for place in range(rows)
            ]
    return out
