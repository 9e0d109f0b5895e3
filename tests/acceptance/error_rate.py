"""The stated error rate: 500 reports in which nothing changed but chance, and how many of them claim that something did.

Each report has a base and four arms that are the base under other seeds, as the sampled A/A row of every report: on each question
an arm is right with that question's own probability. Whatever a report then calls better or worse on a primary cell is a false
claim; the share of reports with any must not exceed 5%. Beside them, intervals that rest on a handful of changed answers must hold the
true difference, be it none or one, and not by being as wide as the scale.
"""

from __future__ import annotations

import numpy

from acceptance.experiment import Bench, Claim, Experiment, Finding, counted
from steelyard.core.seeds import derive
from steelyard.weigh.cells.cells import Draft, contrast, finish_all
from steelyard.weigh.report.report import Cell
from steelyard.weigh.statistics.intervals import Interval, wilson
from steelyard.weigh.statistics.paired import ALPHA
from steelyard.weigh.tasks.task import Metric

ARMS = ("a", "b", "c", "d")
QUESTIONS = 80
LOOKS = range(10, QUESTIONS + 1, 10)
RIGHT = Metric("right", "quality", "share", True, margin=0.001, floor=None, binary=True)
SHARE = Metric("fields", "quality", "share", True, margin=0.001)
SCORE = Metric("truthful", "truthfulness", "score", True, margin=0.001, reach=(-1.0, 1.0))
CHANGED, UP = 0.05, 0.8
"""Share of questions that an arm answers otherwise, and of those how many better: about 4 of 80, where no formula for a variance holds."""
CLAIMS = ("better", "worse")


def drawn(rng: numpy.random.Generator, metric: Metric, clusters: numpy.ndarray) -> dict[str, list[float]]:
    """Per-question values of the base and of every arm. Questions of a cluster share their difficulty, and part of their luck."""
    hard = rng.beta(1.0, 1.0, clusters.max() + 1)[clusters]
    values = {}
    for arm in ("base", *ARMS):
        luck = rng.normal(0, 0.15, clusters.max() + 1)[clusters]
        chance = numpy.clip(hard + luck, 0, 1)
        parts = 1 if metric.binary else 4
        values[arm] = [float(value) for value in rng.binomial(parts, chance) / parts]
    return values


def claims(values: dict[str, list[float]], metric: Metric, clusters: list[str], primary: bool = True) -> bool:
    """Whether a report over these values calls any of its arms better or worse."""
    drafts = [Draft(arm, "task", metric, contrast(metric, values["base"], [values[arm]], clusters)) for arm in ARMS]
    cells = finish_all(drafts, {arm: ("task", metric.name) for arm in ARMS} if primary else {})
    return any(cell.verdict in CLAIMS for cell in cells)


def peeks(values: dict[str, list[float]], metric: Metric, clusters: list[str]) -> bool:
    """Whether somebody who looks after every ten questions, and stops at the first claim, makes one."""
    return any(claims({arm: each[:count] for arm, each in values.items()}, metric, clusters[:count]) for count in LOOKS)


def handful(rng: numpy.random.Generator, up: float) -> Interval:
    """The interval of a difference that rests on a handful of changes, of one or two points of a score from -1 to 1."""
    changes = (rng.random(QUESTIONS) < CHANGED) * numpy.where(rng.random(QUESTIONS) < up, 1, -1) * rng.choice((1.0, 2.0), QUESTIONS)
    base = numpy.where(changes > 0, -1.0, 1.0)
    found = contrast(SCORE, [float(value) for value in base], [[float(value) for value in base + changes]], [""] * QUESTIONS)
    interval = found.interval(ALPHA) if found else None
    assert interval is not None
    return interval


def run(bench: Bench) -> Finding:
    reports = bench.pick(500, 50)
    false = {"adjusted": 0, "unadjusted": 0, "peeking": 0}
    for number in range(reports):
        rng = numpy.random.default_rng(derive(bench.seed, "error rate", number))
        metric = (RIGHT, SHARE)[number % 2]
        size = (1, 1, 2, 4)[number // 2 % 4]
        codes = numpy.arange(QUESTIONS) // size
        values, clusters = drawn(rng, metric, codes), [f"cluster {code}" for code in codes]
        false["adjusted"] += claims(values, metric, clusters)
        false["unadjusted"] += claims(values, metric, clusters, primary=False)
        false["peeking"] += peeks(values, metric, clusters)
        if (number + 1) % 100 == 0:
            bench.say(f"{number + 1} reports: {false}")
    misses, widths = {"no effect": 0, "an effect": 0}, []
    for number in range(cells := 4 * reports):
        for name, up in (("no effect", 0.5), ("an effect", UP)):
            low, high = handful(numpy.random.default_rng(derive(bench.seed, "handful", name, number)), up)
            misses[name] += not low <= CHANGED * (2 * up - 1) * 1.5 <= high
            widths.append(high - low)
    task = f"{reports} reports of {len(ARMS)} arms, sampled A/A"
    few = f"{cells} differences, {CHANGED:.0%} of {QUESTIONS} answers changed"
    return Finding(
        [
            Claim(
                "at most 5% of reports make a false claim, as stated", rate(task, "adjusted", false["adjusted"], reports), ("equivalent",)
            ),
            *(
                Claim(
                    f"intervals of a handful of changes miss {name} at most as often", rate(few, "handful", missed, cells), ("equivalent",)
                )
                for name, missed in misses.items()
            ),
            Claim("without Holm's adjustment more do", rate(task, "unadjusted", false["unadjusted"], reports), ("worse",), control=True),
            Claim("peeking at every tenth question makes more", rate(task, "peeking", false["peeking"], reports), ("worse",), control=True),
        ],
        notes=[
            f"Widths of intervals that rest on a handful of changes: median {numpy.median(widths):.2f}, largest {max(widths):.2f}, of a scale of 2."
        ],
    )


def rate(task: str, arm: str, false: int, reports: int) -> Cell:
    """Share of reports with a false claim beside the stated rate: worse where Wilson's interval lies above it."""
    low, _ = wilson(false, reports, ALPHA)
    return counted(
        arm, task, "false claims", false, reports, "worse" if low > ALPHA else "equivalent", base=ALPHA, higher_is_better=False,
        note="the base's figure is the stated rate; equivalent: not shown to exceed it",
    )  # fmt: skip


EXPERIMENT = Experiment(
    "error_rate",
    "",
    "Of 500 simulated sampled A/A reports, no more than the stated 5% call an arm better or worse.",
    "The same reports read without Holm's adjustment, or by somebody who peeks and stops early, must exceed that rate.",
    "mechanism",
    run,
)
