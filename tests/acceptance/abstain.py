"""Abstain: over 500 random splits of planted facts, the limit on wrong answers is broken as seldom as promised.

In each split 200 facts are judged and a threshold is chosen; the share of wrong answers above it is counted on all the others. Facts
that were guessed right by luck stand among the known ones and the other way round, as they do in life.
"""

from __future__ import annotations

import asyncio

import numpy

from acceptance.experiment import Bench, Claim, Experiment, Finding, counted
from acceptance.planted_exposure import asked, facts, measured, taught
from steelyard.augment.answerers import LocalAnswerer
from steelyard.augment.uncertainty.abstain import Abstain
from steelyard.augment.uncertainty.calibration import Calibration
from steelyard.augment.uncertainty.calibrators import fit
from steelyard.augment.uncertainty.measures import measure
from steelyard.augment.uncertainty.risk_control import candidates, threshold
from steelyard.augment.uncertainty.subject import subject
from steelyard.core.errors import DataError
from steelyard.core.protocols import AnswerSettings, collect
from steelyard.core.seeds import derive
from steelyard.generate.engine import Engine
from steelyard.weigh.report.report import Cell
from steelyard.weigh.statistics.intervals import wilson
from steelyard.weigh.statistics.paired import ALPHA as LEVEL

DELTA = 0.1
MEASURE = "joint_probability"


def broken(arm: str, count: int, splits: int) -> Cell:
    """The share of splits that broke the limit, beside the share that may: worse where Wilson's interval lies above it."""
    low, _ = wilson(count, splits, LEVEL)
    return counted(
        arm, f"{splits} random splits", "limits broken", count, splits, "worse" if low > DELTA else "equivalent", base=DELTA,
        higher_is_better=False, note="the base's figure is delta; equivalent: not shown to exceed it",
    )  # fmt: skip


def tuned(scores: numpy.ndarray, right: numpy.ndarray, alpha: float) -> float:
    """The threshold that answers most while at most alpha of what it answers was wrong among those judged: no correction, no bound."""
    kept = [one for one in candidates(scores) if (above := scores > one).any() and (~right[above]).mean() <= alpha]
    return min(kept, default=1.0)


def run(bench: Bench) -> Finding:
    alpha = bench.pick(0.1, 0.4)
    known = facts(bench.seed, bench.pick(400, 60))
    with Engine(taught(bench, known), dtype="float32", deterministic=True, slots=32, context=160) as engine:
        answerer = LocalAnswerer(engine)
        told = asked(answerer, known)
        numbers = [float(value or 0.0) for value in measured(answerer, told, measure(MEASURE))]
        scores, right = numpy.array(numbers), numpy.array([each.right for each in told])
        kept = by_lever(bench, answerer, told, scores, right, alpha)
    splits, judged = bench.pick(500, 100), len(known) // 2
    promised, guessed, refused, shares = 0, 0, {"sure": 0, "shuffled": 0}, []
    for number in range(splits):
        rng = numpy.random.default_rng(derive(bench.seed, "split", number))
        order = rng.permutation(len(known))
        here, there = order[:judged], order[judged:]
        try:
            found = threshold(scores[here].tolist(), right[here].tolist(), alpha, DELTA)
            above = scores[there] > found.above
            shares.append(float(above.mean()))
            promised += bool(above.any()) and float((~right[there][above]).mean()) > alpha
        except DataError:
            refused["sure"] += 1
        above = scores[there] > tuned(scores[here], right[here], alpha)
        guessed += bool(above.any()) and float((~right[there][above]).mean()) > alpha
        try:
            threshold(rng.permutation(scores[here]).tolist(), right[here].tolist(), alpha, DELTA)
        except DataError:
            refused["shuffled"] += 1
    bench.say(f"broken: {promised} with the bound, {guessed} without, of {splits}; refused: {refused}")
    low, _ = wilson(refused["shuffled"], splits, LEVEL)
    return Finding(
        [
            Claim(f"the limit is broken in no more than {DELTA:.0%} of splits", broken("abstain", promised, splits), ("equivalent",)),
            Claim(
                "the lever answers just what lies above the threshold, and says that it is not sure of the rest",
                counted("abstain", "planted facts", "answers as the file says", kept, len(known), "identical" if kept == len(known) else "worse"),
                ("identical",),
            ),
            Claim("the best-looking threshold, taken without the bound, breaks it more often", broken("tuned", guessed, splits), ("worse",), control=True),
            Claim(
                "shuffled confidences earn no right to answer",
                counted("shuffled", f"{splits} random splits", "refused", refused["shuffled"], splits, "equivalent" if low > 0.9 else "worse"),
                ("equivalent",),
                control=True,
            ),
        ],
        {"abstain": [Abstain.model_validate({})]},
        notes=(
            f"Limit: at most {alpha:.0%} wrong among what is answered, with probability {1 - DELTA:.0%}; {judged} facts are judged in a split.",
            f"Right without abstaining: {right.mean():.2f} of {len(known)}. With it {numpy.mean(shares or [0.0]):.2f} are answered on average; "
            f"{refused['sure']} splits showed no threshold and would answer nothing.",
            f"Confidence: {MEASURE.replace('_', ' ')}. The limit is broken far more seldom than it may be: the bound allows for 21 thresholds.",
        ),
    )  # fmt: skip


def by_lever(bench: Bench, answerer: LocalAnswerer, told, scores: numpy.ndarray, right: numpy.ndarray, alpha: float) -> int:
    """On how many facts the lever itself does what a threshold over all of them says."""
    limit = threshold(scores.tolist(), right.tolist(), alpha, DELTA)
    made = Calibration(
        subject=subject(answerer), model="planted", task="planted facts", task_fingerprint="planted", seed=bench.seed, made="now",
        measure=MEASURE, n=len(told), right=float(right.mean()), calibrator=fit(scores.tolist(), right.tolist())[0], threshold=limit,
    )  # fmt: skip
    made.write(bench.directory / "calibration.json")
    careful = Abstain(calibration=bench.directory / "calibration.json").wrap(answerer)
    settings = AnswerSettings(max_tokens=10)

    async def all_of_them():
        return [await collect(careful.answer(each.fact.asked, settings)) for each in told]

    answers = asyncio.run(all_of_them())
    expected = [each.answer.text if score > limit.above else "I am not sure." for each, score in zip(told, scores, strict=True)]
    return sum(answer.text == text for answer, text in zip(answers, expected, strict=True))


EXPERIMENT = Experiment(
    "abstain",
    "abstain",
    f"A threshold chosen by learn-then-test keeps wrong answers to 10% of those given in at least {1 - DELTA:.0%} of random splits.",
    "The best-looking threshold without the bound must break that limit more often, and shuffled confidences must be refused.",
    "mechanism",
    run,
)
