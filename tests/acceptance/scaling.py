"""A scaling law finds planted numbers again within its intervals, and a law of small trainings foretells a larger one's loss."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Sequence

from acceptance.experiment import Bench, Claim, Experiment, Finding, counted
from acceptance.small_decoders import bits, library, new, reading, taught
from steelyard.core.seeds import derive
from steelyard.model.cost import training_flops
from steelyard.weigh.report.report import Cell, ScalingLaw, ScalingPoint, Training
from steelyard.weigh.statistics.scaling_law import points_of, scaling_law

PLANTED = {"E": 1.2, "A": 40.0, "alpha": 0.4, "B": 80.0, "beta": 0.4}
"""Of the size that bytes of text have in models as small as `recipes/scaling.yaml`'s."""
SIZES = (12_000, 20_000, 35_000, 96_000, 230_000, 468_000)
BUDGETS = ((3e10, SIZES[:4]), (1e11, SIZES[:5]), (3e11, SIZES[1:5]), (1e12, SIZES[2:]))
"""Operations, and the sizes trained with them: 17 points, as the recipe has them."""
OPERATIONS = 7.0
"""A weight and a token."""
SCATTER = 0.01
"""Standard deviation of log L about the planted law."""
BROKEN = 0.1
"""By how much the costliest loss is above the law where it is broken on purpose."""
ENOUGH = 0.9
"""Share of 95% intervals that are to hold the truth; 91 to 97% were found when they were built (docs/reports.md)."""
NUMBERS = ("E", "alpha", "beta", "size_exponent")

TRAINED: tuple[tuple[int, int, float], ...] = (
    (16, 2, 1e10), (16, 2, 3e10), (24, 2, 1e10), (24, 2, 3e10), (24, 2, 6e10),
    (32, 2, 1e10), (32, 2, 3e10), (32, 2, 6e10), (48, 2, 3e10), (48, 2, 1e11),
)  # fmt: skip
"""Width, depth and operations of the small trainings."""
LARGER = (64, 3, 2e11)
"""Of the one that is foretold: larger than all of them, and twice the operations of the costliest."""
SIZE, TIME = 8, 128
"""Windows of a batch, and bytes of a window."""
WHAT = "Python's standard library"


def simulated(rng: random.Random, broken: float = 0.0) -> list[ScalingPoint]:
    """Points about the planted law; the costliest lies `broken` above it."""
    points = []
    for budget, sizes in BUDGETS:
        for size in sizes:
            tokens = int(budget / OPERATIONS / size)
            loss = PLANTED["E"] + PLANTED["A"] / size ** PLANTED["alpha"] + PLANTED["B"] / tokens ** PLANTED["beta"]
            loss *= math.exp(SCATTER * rng.gauss(0, 1))
            points.append(ScalingPoint([f"{size} {budget:g}"], size, tokens, OPERATIONS * size * tokens, loss, 1))
    last = max(points, key=lambda point: (point.flops, point.parameters))
    return [dataclasses.replace(point, loss=point.loss * (1 + broken)) if point is last else point for point in points]


def holds(law: ScalingLaw) -> dict[str, bool]:
    """Which intervals hold the planted number, and whether the costliest training's holds what was measured."""
    truth = PLANTED | {"size_exponent": PLANTED["beta"] / (PLANTED["alpha"] + PLANTED["beta"])}
    figures = {name: law.figure(name) for name in NUMBERS}
    held = {
        name: figure.low is not None and figure.high is not None and figure.low <= truth[name] <= figure.high
        for name, figure in figures.items()
    }
    return held | {"foretold": inside(law)}


def inside(law: ScalingLaw) -> bool:
    told = law.foretold
    assert told is not None
    return told.low <= told.loss <= told.high


def trainings(bench: Bench, seeds: Sequence[int]) -> list[tuple[str, Training]]:
    """Every training, by size and budget, with the loss in nats a byte on text kept aside."""
    learned, kept = library(bench, 160)
    told = []
    for width, depth, budget in (*TRAINED, LARGER):
        for seed in seeds:
            name = f"{width}x{depth} {budget:g}"
            trunk = new({"width": width, "depth": depth, "context": TIME}, 257, seed)
            cost = training_flops(trunk, TIME) * SIZE
            steps = max(1, round(budget / cost))
            stream = reading(learned, seed, size=SIZE, time=TIME)
            taught(bench, name, trunk, stream, steps=steps, seed=seed, learning_rate=0.03, optimizer="muon")
            loss = statistics.fmean(bits(trunk, kept, 64, TIME)) * math.log(2)
            told.append((name, Training("decoders", WHAT, trunk.parameter_count(), steps * SIZE * TIME, cost * steps, loss, seed)))
            bench.say(f"{name}, seed {seed}: {loss:.3f} nats a byte")
    return told


def exchanged(points: Sequence[ScalingPoint], rng: random.Random) -> list[ScalingPoint]:
    """The same trainings with one another's losses."""
    losses = [point.loss for point in points]
    rng.shuffle(losses)
    return [dataclasses.replace(point, loss=loss) for point, loss in zip(points, losses, strict=True)]


def run(bench: Bench) -> Finding:
    rng, count, resamples = random.Random(derive(bench.seed, "scaling")), bench.pick(200, 10), bench.pick(200, 60)
    held = [holds(scaling_law(simulated(rng), resamples=resamples)) for _ in range(count)]
    shares = {name: statistics.fmean(one[name] for one in held) for name in (*NUMBERS, "foretold")}
    bench.say(f"planted: {shares}")
    broken = [not inside(scaling_law(simulated(rng, BROKEN), resamples=resamples)) for _ in range(count // 2)]
    blind = [scaling_law(exchanged(simulated(rng), rng), resamples=resamples).figure("size_exponent").settled for _ in range(count // 2)]
    bench.say(f"broken: {sum(broken)} of {len(broken)} outside; exchanged: {sum(blind)} of {len(blind)} settled")
    worst = min(NUMBERS, key=lambda name: shares[name])

    def kept(name: str) -> Cell:
        verdict = "equivalent" if shares[name] >= bench.pick(ENOUGH, 0.5) else "worse"
        return counted("law", "planted losses", f"intervals that hold {name}", round(shares[name] * count), count, verdict, base=0.95)

    def rare(arm: str, what: str, hits: Sequence[bool], base: float) -> Cell:
        verdict = "equivalent" if abs(statistics.fmean(hits) - base) <= 0.1 else "worse"
        return counted(arm, "planted losses", what, sum(hits), len(hits), verdict, base=base, higher_is_better=base == 1)

    real, notes = ([], []) if bench.reduced else larger(bench)
    return Finding(
        [
            Claim(f"of the planted E, alpha, beta and size exponent even the one held least often ({worst}) lies in nine of ten of its 95% intervals",
                  kept(worst), ("equivalent",)),
            Claim("the costliest of the planted trainings has its loss inside the interval that the others' law gives it, nine times in ten",
                  kept("foretold"), ("equivalent",)),
            *real,
            Claim(f"where the costliest loss is {BROKEN:.0%} above the planted law, nine intervals of ten do not hold it",
                  rare("broken law", "outside", broken, 1.0), ("equivalent",), control=True),
            Claim("where trainings have one another's losses, at most one law of ten settles how the best size grows",
                  rare("exchanged losses", "settled", blind, 0.0), ("equivalent",), control=True),
        ],
        {},
        [
            "95% intervals that held the planted number: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
            + f" of {count} simulations whose losses scatter by {SCATTER:.0%}; {resamples} resamples.",
            *notes,
        ],
    )  # fmt: skip


def larger(bench: Bench) -> tuple[list[Claim], list[str]]:
    """What a law of small trainings foretells of a larger one, and what that one reached."""
    seeds = (1, 2)
    points = points_of(trainings(bench, seeds))
    law = scaling_law(points)
    told, exponent, most = law.foretold, law.figure("size_exponent"), max(point.parameters for point in points[:-1])
    assert told is not None and exponent.low is not None and exponent.high is not None
    cell = Cell(
        "law", WHAT, "quality", "loss", "nats/byte", False, told.foretold, (told.low, told.high), told.loss, None, told.loss - told.foretold,
        told.loss - told.high, told.loss - told.low, len(points) - 1, False,
        "equivalent" if inside(law) else "worse" if told.loss > told.high else "better",
    )  # fmt: skip
    note = (
        f"Trainings: {len(points)} of {points[0].parameters} to {points[-1].parameters} weights and {points[0].flops:.2g} to "
        f"{points[-1].flops:.2g} operations, bytes, Muon at one rate, {len(seeds)} seeds. Foretold {told.foretold:.3f} [{told.low:.3f}, "
        f"{told.high:.3f}] nats a byte, measured {told.loss:.3f}. The best size grows with the operations to the power {exponent.value:.2f} "
        f"[{exponent.low:.2f}, {exponent.high:.2f}]{'' if exponent.settled else ', not settled'}."
    )
    claim = (
        f"the law of trainings of at most {most} weights foretells, within its interval, what a model of {points[-1].parameters} reaches"
    )
    return [Claim(claim, cell, ("equivalent",))], [note]


EXPERIMENT = Experiment(
    "scaling",
    "",
    "The fit of a scaling law holds planted numbers within its intervals, and a law of small trainings foretells a larger one within its own.",
    "A costliest loss that breaks the law lies outside, and losses exchanged among trainings settle nothing.",
    "mechanism",
    run,
)
