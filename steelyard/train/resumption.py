"""What a checkpoint holds of a training, and how the training goes on from it: to the same bits as if it had never ended."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from torch import Tensor

from steelyard.core.errors import SteelyardError
from steelyard.core.files import write_text
from steelyard.data.batching import Place
from steelyard.train import checkpoints
from steelyard.train.settings import Progress
from steelyard.train.training import Training

MEAN = "mean"
"""What a weight's running mean is called beside the optimizer's moments of it."""


def save(training: Training) -> None:
    """Writes a checkpoint; with several processes, whole tensors by the first of them."""
    company, trained = training.company, training.trained
    training.energy.pay(training.progress)
    names = {id(parameter): name for name, parameter in trained.items()}
    kept = {
        f"{names[id(parameter)]}/{key}": company.whole(value)
        for optimizer in training.optimizers
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }
    if training.average is not None:
        kept |= {f"{name}/{MEAN}": company.whole(tensor) for name, tensor in training.average.means.items()}
    weights = {name: company.whole(parameter) for name, parameter in trained.items()}
    state = {
        "identity": training.settings.identity,
        "budget": [training.budget.unit, training.budget.amount],
        "place": [training.place.epoch, training.place.index],
        "progress": vars(training.progress),
        "losses": training.spikes.losses,
    }
    if company.first:
        checkpoints.save(training.directory, training.progress.step, weights, kept, state, training.settings.keep)
    company.wait()


def resume(training: Training) -> None:
    """Goes back to the last checkpoint, and the metrics with it."""
    checkpoint = checkpoints.load_latest(training.directory)
    if checkpoint is not None:
        _check_same(training, checkpoint)
    step = checkpoint.step if checkpoint else 0
    metrics = training.run.directory / "metrics.jsonl"
    if metrics.exists() and training.company.first:
        write_text(metrics, "".join(_lines_up_to(metrics.read_text(encoding="utf-8", errors="replace"), step)))
    training.company.wait()
    if checkpoint is None:
        return
    _put_back(training, checkpoint)
    training.place = Place(*checkpoint.state["place"])
    training.progress = Progress(**checkpoint.state["progress"])
    training.spikes.losses = list(checkpoint.state["losses"])
    if not training.budget.finished(training.progress):
        training.say(f"{training.name}: going on from step {step}{_of(training)}")


def _of(training: Training) -> str:
    steps = training.settings.steps
    return f" of {steps}" if steps is not None else f", {training.budget.share(training.progress):.0%} of {training.budget}"


def _put_back(training: Training, checkpoint: checkpoints.Checkpoint) -> None:
    owners = {id(parameter): optimizer for optimizer in training.optimizers for g in optimizer.param_groups for parameter in g["params"]}
    kept: dict[str, dict[str, Tensor]] = {}
    for key, value in checkpoint.optimizer.items():
        name, _, what = key.rpartition("/")
        kept.setdefault(name, {})[what] = value
    with torch.no_grad():
        for name, parameter in training.trained.items():
            parameter.copy_(training.company.like(checkpoint.trained[name], parameter))
            moments = kept.get(name, {})
            mean = moments.pop(MEAN, None)
            if mean is not None and training.average is not None:
                training.average.means[name].copy_(training.company.like(mean, parameter))
            # The step count stays on the CPU and moments go where the parameter is, as the optimizer itself keeps them.
            placed = {key: value if key == "step" else training.company.like(value, parameter) for key, value in moments.items()}
            if placed:
                owners[id(parameter)].state[parameter] = placed


def _check_same(training: Training, checkpoint: checkpoints.Checkpoint) -> None:
    """Refuses to go on from what other settings, data or parameters have made."""
    shapes = {name: tensor.shape for name, tensor in checkpoint.trained.items()}
    same = shapes == {name: parameter.shape for name, parameter in training.trained.items()}
    asked = (training.settings.identity, [training.budget.unit, training.budget.amount])
    if (checkpoint.state["identity"], checkpoint.state.get("budget")) != asked or not same:
        raise SteelyardError(
            "the checkpoints here belong to a training with other settings or data",
            where=str(training.directory),
            do="Use another run directory, or delete this one to start again.",
        )


def _lines_up_to(text: str, step: int) -> Iterator[str]:
    """Whole metric lines of steps that the checkpoint holds; a killed run may have written more, or half a line."""
    for line in text.splitlines(keepends=True):
        try:
            number = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(number, int) and number <= step and line.endswith("\n"):
            yield line
