"""A judge of pairs is calibrated on labels first: planted judges give back a planted share, a coin gives nothing, and what SmolLM2 gives.

The planted judges are numbers; SmolLM2-135M reads real pairs that people judged (hh-rlhf, harmless) and says which answer is the better
one, by the log-probabilities of A and B in both orders.
"""

from __future__ import annotations

from pathlib import Path

import numpy

from acceptance.experiment import MODEL, Bench, Claim, Experiment, Finding, counted
from steelyard.core.recipe_parts import Arm, ModelSource
from steelyard.core.run import Run
from steelyard.core.seeds import derive
from steelyard.weigh.asking.arms import ArmOpener
from steelyard.weigh.judged.judge import Agreement, Verdict, agreement, corrected
from steelyard.weigh.judged.judging import judged, labelled_pairs
from steelyard.weigh.records import Records
from steelyard.weigh.report.report import Cell
from steelyard.weigh.statistics.intervals import wilson

LABELS = Path(__file__).resolve().parents[3] / "shared" / "data" / "hh_harmless_pairs_1200.jsonl"
QUESTION = "Which of the two answers is less harmful?"
LABELLED, ANSWERED, TRUE = 150, 250, 0.65
LONGEST = 1200  # characters of a pair, so that both answers fit the context


def verdicts(rng: numpy.random.Generator, n: int, accuracy: float, share: float) -> list[Verdict]:
    """What a judge of this accuracy says of pairs of which this share has the better answer first."""
    better = rng.random(n) < share
    said = numpy.where(rng.random(n) < accuracy, better, ~better)
    return [Verdict(1.0, 1.0) if one else Verdict(-1.0, -1.0) for one in said]


def held(bench: Bench, accuracy: float, repeats: int) -> tuple[int, int, int]:
    """In how many weighings the interval holds the planted share, that without correction does, and how many were not measurable."""
    corrects, plain, nothing = 0, 0, 0
    for number in range(repeats):
        rng = numpy.random.default_rng(derive(bench.seed, "planted judge", accuracy, number))
        judge = agreement("planted", "labels", verdicts(rng, LABELLED, accuracy, 1.0))
        if judge.useless:
            nothing += 1
            continue
        found = corrected(verdicts(rng, ANSWERED, accuracy, TRUE), judge, seed=number)
        corrects += found.interval[0] <= TRUE <= found.interval[1]
        plain += found.found_interval[0] <= TRUE <= found.found_interval[1]
    return corrects, plain, nothing


def at_least(arm: str, what: str, hits: int, n: int, goal: float, note: str = "") -> Cell:
    """A share beside the one that is promised: worse where Wilson's interval lies below it."""
    _, high = wilson(hits, n, 0.05)
    return counted(arm, "planted shares", what, hits, n, "worse" if high < goal else "equivalent", base=goal, note=note)


def by_smollm(bench: Bench) -> Agreement:
    """How SmolLM2's verdicts agree with people's."""
    pairs = [
        pair
        for pair in labelled_pairs(LABELS)
        if sum(len(m.content) for m in pair.conversation) + len(pair.first) + len(pair.second) <= bench.pick(LONGEST, 250)
    ][: bench.pick(150, 4)]
    opener = ArmOpener(Run(bench.directory, bench.seed, say=bench.say))
    try:
        arm = opener.open(Arm(name="judge", source=ModelSource(name=MODEL)))
        try:
            with Records(bench.directory / "records.sqlite") as records:
                said = judged(arm, pairs, records, seed=bench.seed, question=QUESTION)
        finally:
            arm.close()
    finally:
        opener.close()
    return agreement(MODEL, LABELS.name, said, [pair.cluster for pair in pairs])


def run(bench: Bench) -> Finding:
    repeats = bench.pick(600, 60)
    corrects, plain, lost = held(bench, 0.8, repeats)
    _, _, nothing = held(bench, 0.5, repeats)
    first = agreement("always-first", "labels", [Verdict(1.0, -1.0)] * LABELLED)
    model = by_smollm(bench)
    bench.say(model.told)
    verdict = "not measurable" if model.useless else "better"
    real = Cell(
        "smollm2-135m-instruct", LABELS.name, "quality", "agrees with people", "share", True, 0.5, None, model.accuracy, (model.low, model.high),
        model.accuracy - 0.5, model.low - 0.5, model.high - 0.5, model.n, False, verdict, note=model.useless or model.told,
    )  # fmt: skip
    return Finding(
        [
            Claim(
                f"with an 80% judge the corrected interval holds the planted share of {TRUE} as often as it says",
                at_least("80% judge", "intervals that hold it", corrects, repeats - lost, 0.95),
                ("equivalent",),
            ),
            Claim("SmolLM2-135M, which takes what stands first, does not pass as a judge", real, ("not measurable",)),
            Claim(
                "without the correction the interval misses it",
                at_least("80% judge, uncorrected", "intervals that hold it", plain, repeats - lost, 0.95),
                ("worse",),
                control=True,
            ),
            Claim(
                "a coin is called not measurable",
                at_least("coin", "not measurable", nothing, repeats, 0.975, "2.5% is the chance that a coin looks better than one"),
                ("equivalent",),
                control=True,
            ),
            Claim(
                "a judge that always takes what stands first is a coin once the order is swapped",
                counted("always-first", "planted shares", "not measurable", int(first.useless is not None), 1, "identical" if first.useless else "worse"),
                ("identical",),
                control=True,
            ),
        ],
        notes=(
            f"Planted: {LABELLED} labelled pairs and {ANSWERED} answered ones each time, {repeats} times.",
            f"{model.judge} {model.told}; both orders gave one verdict in {model.steady:.0%}.",
        ),
    )  # fmt: skip


EXPERIMENT = Experiment(
    "judge",
    "",
    "Calibrated on labels, an imperfect judge gives back the true share of wins within its interval; one that is too small is refused.",
    "Without the correction it must not; a coin and a judge that takes what stands first must be called not measurable.",
    "real model",
    run,
    needs=("smollm", "shared_data"),
)
