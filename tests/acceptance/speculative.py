"""A draft that shares the tokenizer guesses, the model verifies: the same distribution or the same text, in fewer passes."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from acceptance.experiment import MODEL, Bench, Experiment, Finding, untrained
from acceptance.guessing import finding
from steelyard.core.references import ModelRef
from steelyard.generate.speculation.speculative import Speculative
from steelyard.model.load import load
from steelyard.model.model import Model

NOISE = 0.08


def unlike(model: Model, noise: float) -> Model:
    """A draft of the same size: the model with noise on its matrices, in shares of their standard deviation.

    No smaller model with this tokenizer comes with the package, so passes are counted here, not seconds.
    """
    trunk, generator = copy.deepcopy(model.trunk), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trunk.parameters():
            if parameter.dim() >= 2:
                spread = parameter.float().std() * noise
                parameter += (spread * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)
    return model.with_trunk(trunk)


def small(model: Model) -> Model:
    """2 random blocks of width 64: whether guesses leave a distribution alone asks for no more."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = untrained(model, **sizes, head_dim=16)
    with torch.no_grad():
        for parameter in model.trunk.parameters():
            if parameter.dim() >= 2:
                parameter *= 12  # logits as far apart as a trained model's: else every draft agrees
    return model


def run(bench: Bench) -> Finding:
    model = load(MODEL)
    if bench.reduced:  # as many answers as in full, of a model that takes a thousandth of the time
        model, bench = small(model), replace(bench, reduced=False)
    drafts = [ModelRef(f"{MODEL} and noise of {noise}", unlike(model, noise)) for noise in (NOISE, 3.0)]
    near, far = (Speculative(draft=draft) for draft in drafts)
    found = finding(bench, model, "speculative", near, far, "a draft of noise")
    note = f"The draft is the model itself with noise on its weights ({NOISE} of their deviation), so it is no faster: passes are counted."
    return Finding(found.claims, found.arms, [*found.notes, note])


EXPERIMENT = Experiment(
    "speculative",
    "speculative",
    "Guesses of a draft leave the distribution (rejection) or the very text (coupled) as it was and save passes of the model.",
    "A replacement drawn from p and noise keyed wrongly must be caught, and a draft of noise must save nothing.",
    "mechanism",
    run,
    needs=("smollm",),
)
