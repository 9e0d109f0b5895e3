"""Do 95% intervals hold the truth 95 times in a hundred? Simulated pairs of known difference, in the forms a report meets.

Each simulation draws samples of a base and an arm whose true difference is known, and asks whether the interval that a report
would show holds it. The forms: yes-or-no answers at several levels, from 30 to 1,000 of them; the same in clusters, of equal and of
unequal size, near the ceiling too; numbers, numbers in clusters, and ratios (bits per byte of texts of unequal length). Between 94%
and 96% counts as kept. Where so few answers change that whole numbers forbid it, the interval must err to the wide side, and that is
asked instead. The control reads the same pairs as if they were not paired and not clustered, as most harnesses do: there the interval
must miss that band.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
from scipy import stats

from acceptance.experiment import Bench, Claim, Experiment, Finding, counted
from steelyard.core.seeds import derive
from steelyard.weigh.report.report import Cell
from steelyard.weigh.statistics.paired import ALPHA, Pairs, compare

SAMPLES = 300
BAND = (0.94, 0.96)
Drawn = tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]  # base [n, 2], arm [n, 2], clusters [n]
UNEQUAL = tuple(1 + size for size in (0, 1, 1, 2, 2, 3, 4, 5, 7, 9) for _ in range(6))
"""60 clusters of 1 to 10 samples, 264 in all."""


@dataclass(frozen=True)
class Form:
    """One kind of pairs.

    Attributes:
        draw: pairs from a random generator.
        truth: the true difference.
        binary: values are 0 or 1.
        wide: so few answers change that the interval can only err to the wide side.
    """

    draw: Callable[[numpy.random.Generator], Drawn]
    truth: float
    binary: bool = True
    wide: bool = False


def _plain(base: numpy.ndarray, arm: numpy.ndarray, clusters: numpy.ndarray) -> Drawn:
    ones = numpy.ones(len(base))
    return numpy.stack([base, ones], 1).astype(float), numpy.stack([arm, ones], 1).astype(float), clusters


def _codes(sizes: Sequence[int]) -> numpy.ndarray:
    return numpy.repeat(numpy.arange(len(sizes)), sizes)


def answers(sizes: Sequence[int], base: float, arm: float, same: float, shared: float = 0.0) -> Form:
    """Yes or no: right where a normal variable lies below a threshold.

    Args:
        sizes: samples of each cluster.
        base, arm: true shares right.
        same: correlation of the base's and the arm's variable on one sample.
        shared: variance that a cluster shares, and a third of it that the arm's change shares, beside one of each sample.
    """
    codes = _codes(sizes)
    own, moved = shared**0.5, (shared / 3) ** 0.5
    scale = ((1 + shared) ** 0.5, (1 + shared + shared / 3) ** 0.5)
    thresholds = [float(stats.norm.ppf(share)) * one for share, one in zip((base, arm), scale, strict=True)]

    def draw(rng: numpy.random.Generator) -> Drawn:
        one = rng.standard_normal(len(codes))
        other = same * one + (1 - same * same) ** 0.5 * rng.standard_normal(len(codes))
        easy, changed = own * rng.standard_normal(len(sizes))[codes], moved * rng.standard_normal(len(sizes))[codes]
        return _plain(one + easy < thresholds[0], other + easy + changed < thresholds[1], codes)

    return Form(draw, arm - base)


def numbers(sizes: Sequence[int], joint: float = 0.0) -> Form:
    """Numbers that share what makes a sample hard; a cluster shares part of the difference, with standard deviation `joint`."""
    codes = _codes(sizes)

    def draw(rng: numpy.random.Generator) -> Drawn:
        hard = rng.normal(0, 1, len(codes))
        moved = joint * rng.standard_normal(len(sizes))[codes]
        return _plain(hard + rng.normal(0, 0.5, len(codes)), hard + 0.1 + moved + rng.normal(0, 0.5, len(codes)), codes)

    return Form(draw, 0.1, binary=False)


def ratios() -> Form:
    """Bits and bytes of texts of unequal length; the arm needs 2% more."""

    def draw(rng: numpy.random.Generator) -> Drawn:
        size = rng.integers(50, 600, SAMPLES).astype(float)
        bits = size * rng.gamma(20, 0.05, SAMPLES)
        base, arm = (bits * factor * rng.gamma(100, 0.01, SAMPLES) for factor in (1.0, 1.02))
        return numpy.stack([base, size], 1), numpy.stack([arm, size], 1), numpy.arange(SAMPLES)

    return Form(draw, 0.02, binary=False)


def wide(form: Form) -> Form:
    """The same form, of which no more can be asked than to err to the wide side."""
    return Form(form.draw, form.truth, form.binary, wide=True)


FORMS: dict[str, Form] = {
    "30 answers": answers([1] * 30, 0.4, 0.55, 0.2),
    "300 answers": answers([1] * SAMPLES, 0.5, 0.62, 0.7),
    "1,000 answers, no difference": answers([1] * 1000, 0.6, 0.6, 0.9),
    "1,000 answers near the floor": answers([1] * 1000, 0.02, 0.03, 0.7),
    "1,000 answers near the ceiling": answers([1] * 1000, 0.97, 0.98, 0.7),
    "150 answers near the ceiling, 3 of them changed": wide(answers([1] * 150, 0.97, 0.98, 0.9)),
    "answers in 40 clusters of 5": answers([5] * 40, 0.6, 0.6, 0.7, shared=1.0),
    "answers in 120 clusters of 4": answers([4] * 120, 0.6, 0.66, 0.7, shared=1.0),
    "answers in 100 clusters of 3 that share little": answers([3] * 100, 0.6, 0.66, 0.7, shared=0.1),
    "answers in 60 clusters of 1 to 10": answers(UNEQUAL, 0.6, 0.66, 0.7, shared=1.0),
    "answers in 120 clusters of 4 near the ceiling": answers([4] * 120, 0.95, 0.97, 0.8, shared=1.0),
    "numbers": numbers([1] * SAMPLES),
    "numbers in 40 clusters of 5": numbers([5] * 40, 0.5),
    "numbers in 60 clusters of 1 to 10": numbers(UNEQUAL, 0.5),
    "ratios": ratios(),
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
    error = numpy.sqrt(sum(column.var(ddof=1) / len(column) for column in ratio))
    return abs(ratio[1].mean() - ratio[0].mean() - truth) <= 1.96 * error


def run(bench: Bench) -> Finding:
    count = bench.pick(4000, 60)
    claims, controls = [], []
    for name, form in FORMS.items():
        kept, unpaired = 0, 0
        for number in range(count):
            drawn = form.draw(numpy.random.default_rng(derive(bench.seed, "coverage", name, number)))
            kept += held(drawn, form.truth, form.binary)
            unpaired += held_unpaired(drawn, form.truth)
        bench.say(f"{name}: {kept} of {count} held the truth, unpaired {unpaired}")
        task = f"{count} simulations: {name}"
        cell = share(task, "paired", kept, count)
        if form.wide:
            claims.append(Claim(f"intervals of {name}, hold the truth 94 times in a hundred or more", cell, ("equivalent", "better")))
        else:
            claims.append(Claim(f"intervals of {name} hold the truth 94 to 96 times in a hundred", cell, ("equivalent",)))
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
