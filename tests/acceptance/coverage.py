"""Do 95% intervals hold the truth 95 times in a hundred? Simulated pairs of known difference, in the forms a report meets.

Each simulation draws 300 samples of a base and an arm whose true difference is known, and asks whether the interval that a report
would show holds it. The forms: yes-or-no answers, the same in clusters of three, numbers, numbers in clusters of five, and ratios (bits
per byte of texts of unequal length). Between 94% and 96% counts as kept. The control reads the same pairs as if they were not paired and
not clustered, as most harnesses do: there the interval must miss that band.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy
from scipy import stats

from acceptance.experiment import Bench, Claim, Experiment, Finding, counted
from steelyard.core.seeds import derive
from steelyard.weigh.report.report import Cell
from steelyard.weigh.statistics.paired import ALPHA, Pairs, compare

SAMPLES = 300
BAND = (0.94, 0.96)
Drawn = tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]  # base [n, 2], arm [n, 2], clusters [n]


def _plain(base: numpy.ndarray, arm: numpy.ndarray, size: int) -> Drawn:
    ones = numpy.ones(SAMPLES)
    return numpy.stack([base, ones], 1), numpy.stack([arm, ones], 1), numpy.arange(SAMPLES) // size


def answers(rng: numpy.random.Generator, size: int = 1) -> Drawn:
    """Yes or no: on three questions of ten the arm answers anew, right nine times of ten; else as the base. Clusters change together."""
    hard, change = (rng.beta(2, 2, SAMPLES)[numpy.arange(SAMPLES) // size] for _ in range(2))
    changed = (change < numpy.quantile(BETA, 0.3)) if size > 1 else rng.random(SAMPLES) < 0.3
    base = rng.random(SAMPLES) < hard
    arm = numpy.where(changed, rng.random(SAMPLES) < 0.9, base)
    return _plain(base.astype(float), arm.astype(float), size)


def numbers(rng: numpy.random.Generator, size: int = 1) -> Drawn:
    """Numbers that share what makes a sample hard; a cluster shares part of the difference."""
    shared = rng.normal(0, 1, SAMPLES)
    joint = rng.normal(0, 0.5, SAMPLES)[numpy.arange(SAMPLES) // size] if size > 1 else 0.0
    return _plain(shared + rng.normal(0, 0.5, SAMPLES), shared + 0.1 + joint + rng.normal(0, 0.5, SAMPLES), size)


def ratios(rng: numpy.random.Generator) -> Drawn:
    """Bits and bytes of texts of unequal length; the arm needs 2% more."""
    size = rng.integers(50, 600, SAMPLES).astype(float)
    bits = size * rng.gamma(20, 0.05, SAMPLES)
    base, arm = (bits * factor * rng.gamma(100, 0.01, SAMPLES) for factor in (1.0, 1.02))
    return numpy.stack([base, size], 1), numpy.stack([arm, size], 1), numpy.arange(SAMPLES)


BETA = stats.beta(2, 2).ppf((numpy.arange(10_000) + 0.5) / 10_000)
FORMS: dict[str, tuple[Callable[[numpy.random.Generator], Drawn], float, bool]] = {
    "answers": (answers, 0.3 * (0.9 - 0.5), True),
    "answers in clusters": (lambda rng: answers(rng, 3), 0.3 * (0.9 - 0.5), True),
    "numbers": (numbers, 0.1, False),
    "numbers in clusters": (lambda rng: numbers(rng, 5), 0.1, False),
    "ratios": (ratios, 0.02, False),
}


def held(drawn: Drawn, truth: float, binary: bool) -> bool:
    """Whether the interval a report shows holds the true difference."""
    found = compare(Pairs(*drawn), binary=binary, bounded=binary)
    interval = found.interval(ALPHA) if found else None
    return interval is not None and interval[0] <= truth <= interval[1]


def held_unpaired(drawn: Drawn, truth: float) -> bool:
    """The same of the usual formula for two samples that have nothing to do with each other."""
    base, arm, _ = drawn
    ratio = [column[:, 0] / column[:, 1] for column in (base, arm)]
    error = numpy.sqrt(sum(column.var(ddof=1) / SAMPLES for column in ratio))
    return abs(ratio[1].mean() - ratio[0].mean() - truth) <= 1.96 * error


def run(bench: Bench) -> Finding:
    count = bench.pick(4000, 60)
    claims, controls = [], []
    for name, (draw, truth, binary) in FORMS.items():
        kept, unpaired = 0, 0
        for number in range(count):
            drawn = draw(numpy.random.default_rng(derive(bench.seed, "coverage", name, number)))
            kept += held(drawn, truth, binary)
            unpaired += held_unpaired(drawn, truth)
        bench.say(f"{name}: {kept} of {count} held the truth, unpaired {unpaired}")
        task = f"{count} simulations of {SAMPLES} pairs: {name}"
        claims.append(
            Claim(f"intervals of {name} hold the truth 94 to 96 times in a hundred", share(task, "paired", kept, count), ("equivalent",))
        )
        controls.append(share(task, "unpaired", unpaired, count, strict=True))
    far = max(controls, key=lambda cell: abs((cell.value or 0) - 0.95))
    control = Claim("read without pairs and clusters, coverage is off", far, ("better", "worse"), control=True)
    return Finding(
        [*claims, control], notes=["An interval that is drawn too wide counts as off too: it holds the truth more often than it says."]
    )


def share(task: str, arm: str, kept: int, count: int, strict: bool = False) -> Cell:
    """A coverage beside the stated one: equivalent in the band (or, of so few simulations, not shown to lie outside it)."""
    room = 0.0 if strict or count >= 1000 else 1.96 * (0.95 * 0.05 / count) ** 0.5
    verdict = "worse" if kept / count < BAND[0] - room else "better" if kept / count > BAND[1] + room else "equivalent"
    return counted(arm, task, "coverage", kept, count, verdict, base=0.95, note="equivalent: 94% to 96%")


EXPERIMENT = Experiment(
    "coverage",
    "",
    "On simulated pairs of known difference, the 95% intervals of a report hold it in 94% to 96% of 4,000 simulations, form by form.",
    "The usual formula for unpaired, independent samples must lie outside that band.",
    "mechanism",
    run,
)
