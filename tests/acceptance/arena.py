"""Arena: the intervals hold planted ratings as often as they say, and no order of the comparisons moves a rating; Elo's running numbers do.

Four arms of known strength; every item is judged five times, and a judge often says what the first one said, so that judgements of one
item depend on one another while each outcome has the chances that the strengths give it.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy

from acceptance.experiment import Bench, Claim, Experiment, Finding, counted
from steelyard.core.seeds import derive
from steelyard.weigh.judged.arena import POINTS, arena
from steelyard.weigh.judged.comparisons import Comparison
from steelyard.weigh.report.report import Cell
from steelyard.weigh.statistics.bradley_terry import chances
from steelyard.weigh.statistics.intervals import wilson

STRENGTHS = (-0.6, -0.2, 0.2, 0.6)
FIRST, TIE = 0.3, 0.5  # what standing first is worth; nu of the ties
ITEMS, EACH, ALIKE = 60, 5, 0.6
WINNERS = ("first", "second", "tie")
TASK = "planted comparisons"


def compared(seed: int) -> list[Comparison]:
    """Comparisons of the planted arms."""
    rng, out = numpy.random.default_rng(seed), []
    for item in range(ITEMS):
        i, j = (int(arm) for arm in rng.choice(len(STRENGTHS), 2, replace=False))
        odds = chances(numpy.array(STRENGTHS[i] - STRENGTHS[j] + FIRST), numpy.array(math.log(TIE)))
        said = rng.choice(3, p=odds)
        for number in range(EACH):
            outcome = said if number == 0 or rng.random() < ALIKE else rng.choice(3, p=odds)
            out.append(Comparison(f"arm{i}", f"arm{j}", WINNERS[outcome], f"q{item}"))  # type: ignore[arg-type]
    return out


def elo(comparisons: list[Comparison]) -> dict[str, float]:
    """Running Elo numbers (K = 32), as arenas began with."""
    rating = {f"arm{i}": 0.0 for i in range(len(STRENGTHS))}
    for one in comparisons:
        expected = 1 / (1 + 10 ** ((rating[one.second] - rating[one.first]) / 400))
        step = 32 * ({"first": 1.0, "second": 0.0, "tie": 0.5}[one.winner] - expected)
        rating[one.first] += step
        rating[one.second] -= step
    return rating


def held(comparisons: list[Comparison], draws: int) -> tuple[int, int]:
    """How many of the arms' intervals hold the planted rating, of how many."""
    found = arena(comparisons, draws=draws)
    hits = 0
    for i, strength in enumerate(STRENGTHS):
        arm, true = found.arm(f"arm{i}"), strength * POINTS
        hits += (arm.low is None or arm.low <= true) and (arm.high is None or true <= arm.high)
    return hits, len(STRENGTHS)


def held_cell(arm: str, hits: int, n: int) -> Cell:
    """The share of intervals that hold it beside 95%: worse where Wilson's interval lies below."""
    _, high = wilson(hits, n, 0.05)
    return counted(arm, TASK, "intervals that hold it", hits, n, "worse" if high < 0.95 else "equivalent", base=0.95)


def run(bench: Bench) -> Finding:
    times, draws = bench.pick((300, 300), (20, 100))
    clustered, alone = numpy.zeros(2, int), numpy.zeros(2, int)
    for number in range(times):
        one = compared(derive(bench.seed, "arena", number) % 2**32)
        clustered += held(one, draws)
        alone += held([replace(each, item="") for each in one], draws)
    bench.say(f"held: {clustered[0]} of {clustered[1]} by items, {alone[0]} of {alone[1]} as if independent")
    one = compared(bench.seed)
    plain, start, shuffles = arena(one, draws=100), elo(one), bench.pick(50, 10)
    same, moved, most = 0, 0, 0.0
    for number in range(shuffles):
        mixed = list(one)
        random.Random(derive(bench.seed, "shuffle", number)).shuffle(mixed)
        same += arena(mixed, draws=100) == plain
        apart = max(abs(value - start[name]) for name, value in elo(mixed).items())
        moved, most = moved + (apart >= 10), max(most, apart)
    return Finding(
        [
            Claim("the intervals hold the planted ratings as often as they say", held_cell("arena", int(clustered[0]), int(clustered[1])), ("equivalent",)),
            Claim(
                "however the comparisons are shuffled, ratings and intervals are the same to the last digit",
                counted("arena", TASK, "shuffles that change nothing", same, shuffles, "identical" if same == shuffles else "worse"),
                ("identical",),
            ),
            Claim(
                "taken for independent, judgements of one item make intervals that miss it",
                held_cell("as if independent", int(alone[0]), int(alone[1])),
                ("worse", "equivalent") if bench.reduced else ("worse",),
                control=True,
            ),
            Claim(
                "running Elo numbers move by 10 points or more when the same comparisons are shuffled",
                counted("Elo", TASK, "shuffles that change nothing", shuffles - moved, shuffles, "worse" if moved else "identical"),
                ("worse",),
                control=True,
            ),
        ],
        notes=(
            f"{ITEMS} items, {EACH} judgements each, {times} times; bootstrap of {draws} resamples. The intervals of the four arms of one time "
            "depend on one another, which the share's own interval does not know.",
            f"Shuffling moves an Elo number by up to {most:.0f} points (K = 32, {len(one)} comparisons).",
        ),
    )  # fmt: skip


EXPERIMENT = Experiment(
    "arena",
    "",
    "Bradley-Terry ratings with a clustered bootstrap hold planted ratings in 95% of intervals, whatever the order of the comparisons.",
    "Intervals that take judgements of one item for independent must miss more often, and running Elo numbers must depend on the order.",
    "mechanism",
    run,
)
