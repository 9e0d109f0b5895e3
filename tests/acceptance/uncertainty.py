"""Uncertainty: seven measures tell the answers that were planted from the guesses, and the probe does so on facts it was not fitted on."""

from __future__ import annotations

import random
from collections.abc import Sequence

from acceptance.experiment import Bench, Claim, Experiment, Finding
from acceptance.planted_exposure import Told, asked, facts, measured, taught
from steelyard.augment.answerers import LocalAnswerer
from steelyard.augment.uncertainty.confidence import ConfidenceLever
from steelyard.augment.uncertainty.measures import measure
from steelyard.augment.uncertainty.p_ik import PIK, fit, states
from steelyard.core.seeds import derive
from steelyard.generate.engine import Engine
from steelyard.weigh.cells.cells import base_cell
from steelyard.weigh.report.report import Cell, Verdict
from steelyard.weigh.scorers.calibration import AUROC

GOAL = 0.8
TOKENS = ("joint_probability", "mean_probability", "least_probability", "entropy", "margin")
SAMPLES = ("semantic_entropy", "self_check")
WHAT = "planted facts"


def judged(arm: str, scores: Sequence[float | None], told: Sequence[Told], goal: float) -> Cell:
    """The AUROC beside a goal: better where its interval lies above, worse where it lies below."""
    pairs = [None if score is None else (score, float(each.right)) for score, each in zip(scores, told, strict=True)]
    cell = base_cell(WHAT, AUROC, pairs, [""] * len(pairs))
    assert cell is not None and cell.value_interval is not None and cell.value is not None
    low, high = cell.value_interval
    verdict: Verdict = "better" if low > goal else "worse" if high < goal else "underpowered"
    return Cell(
        arm, WHAT, "calibration", "auroc", "share", True, goal, None, cell.value, (low, min(high, 1.0)), cell.value - goal, low - goal,
        min(high, 1.0) - goal, cell.n, False, verdict, note="the base's figure is the goal",
    )  # fmt: skip


def run(bench: Bench) -> Finding:
    known = facts(bench.seed, bench.pick(400, 60))
    cells: dict[str, Cell] = {}
    with Engine(taught(bench, known), dtype="float32", deterministic=True, slots=32, context=160) as engine:
        answerer = LocalAnswerer(engine)
        told = asked(answerer, known)
        for name in (*TOKENS, *bench.pick(SAMPLES, ())):
            cells[name] = judged(name, measured(answerer, told, measure(name)), told, GOAL)
        half = len(told) // 2
        probe = fit(states(answerer, [each.fact.asked for each in told[:half]]), [each.right for each in told[:half]])
        cells["p_ik"] = judged("p_ik", measured(answerer, told[half:], PIK(probe)), told[half:], GOAL)
        shuffled = measured(answerer, told, measure("mean_probability"))
    random.Random(derive(bench.seed, "shuffled")).shuffle(shuffled)
    by = {exposure: [each.right for each in told if each.fact.exposure == exposure] for exposure in sorted({f.exposure for f in known})}
    for name, cell in cells.items():
        bench.say(f"{name}: AUROC {cell.value:.3f}")
    return Finding(
        [
            *(Claim(f"{name.replace('_', ' ')} tells right answers from guesses", cell, ("better",)) for name, cell in cells.items()),
            Claim(
                "a confidence dealt out by chance does not",
                judged("shuffled", shuffled, told, GOAL),
                ("worse", "underpowered"),
                control=True,
            ),
        ],
        {name: [ConfidenceLever.model_construct(**{"measure": name})] for name in cells},  # p_ik would ask for a file
        notes=(
            "Share right by how often a fact was shown: " + ", ".join(f"{n} times {sum(r) / len(r):.2f}" for n, r in by.items()) + ".",
            f"The probe was fitted on {half} facts and judged on the other {len(told) - half}.",
            "P(True) and the model's own word are not tried here: this model was taught no such questions.",
        ),
    )


EXPERIMENT = Experiment(
    "uncertainty",
    "confidence",
    f"Every measure of confidence puts facts that were planted before facts that are guessed, with an AUROC above {GOAL}.",
    "The same confidences dealt out by chance must not.",
    "mechanism",
    run,
)
