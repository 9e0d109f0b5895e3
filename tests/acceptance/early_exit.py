"""The model guesses with its first blocks and verifies with all. One that was never trained to agree early seldom does."""

from __future__ import annotations

from acceptance.experiment import MODEL, Bench, Experiment, Finding
from acceptance.guessing import finding
from acceptance.speculative import unlike
from steelyard.core.references import ModelRef
from steelyard.generate.speculation.early_exit import EarlyExit
from steelyard.generate.speculation.speculative import Speculative
from steelyard.model.load import load


def run(bench: Bench) -> Finding:
    model = load(MODEL)
    noise = Speculative(draft=ModelRef(f"{MODEL} and noise of 3", unlike(model, 3.0)), tokens=3)
    found = finding(bench, model, "early_exit", EarlyExit(exit=20), noise, "a draft of noise")
    # (The first block alone, tried as the control, guesses 1 token of 50 right: it is no more hopeless than that.)
    note = "This model was not trained for early exits: few guesses are right, and a guess costs 20 of 30 blocks, so it takes more time."
    return Finding(found.claims, found.arms, [*found.notes, note])


EXPERIMENT = Experiment(
    "early_exit",
    "early_exit",
    "Guesses of the first 20 of 30 blocks leave distribution (rejection) or text (coupled) as they were and save whole passes.",
    "A replacement drawn from p and noise keyed wrongly must be caught, and a draft of noise must save nothing.",
    "real model",
    run,
    needs=("smollm",),
)
