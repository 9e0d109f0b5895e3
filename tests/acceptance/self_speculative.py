"""The model guesses without some of its blocks and verifies with all: the same distribution or the same text, in fewer whole passes."""

from __future__ import annotations

from acceptance.experiment import MODEL, Bench, Experiment, Finding
from acceptance.guessing import finding
from steelyard.generate.speculation.self_speculative import SelfSpeculative
from steelyard.model.load import load


def run(bench: Bench) -> Finding:
    model = load(MODEL)
    hopeless = SelfSpeculative(skip=tuple(range(2, 29)))
    found = finding(bench, model, "self_speculative", SelfSpeculative(), hopeless, "guessing with 3 blocks of 30")
    note = "A guess costs 24 of 30 blocks, so fewer whole passes are not less time on this model."
    return Finding(found.claims, found.arms, [*found.notes, note])


EXPERIMENT = Experiment(
    "self_speculative",
    "self_speculative",
    "Guesses made without every fourth block leave distribution (rejection) or text (coupled) as they were and save whole passes.",
    "A replacement drawn from p and noise keyed wrongly must be caught, and guessing with 3 blocks of 30 must save nothing.",
    "real model",
    run,
    needs=("smollm",),
)
