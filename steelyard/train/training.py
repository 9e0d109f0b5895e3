"""A training as it stands: what it learns from and with, how far it is, and what it keeps beside the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from steelyard.core.errors import SteelyardError
from steelyard.core.run import Run
from steelyard.data.batching import Batch, Place
from steelyard.train.average import Average
from steelyard.train.clock import Clock
from steelyard.train.energy import TrainingEnergy
from steelyard.train.objectives import Objective
from steelyard.train.optimizers import optimizers
from steelyard.train.parallel.company import Company
from steelyard.train.settings import Progress, TrainerSettings
from steelyard.train.spikes import SpikeWatch


class Stream(Protocol):
    """Batches from a place on, each with the place of the one after it (`data.batching.Batches`, `data.windows.Windows`)."""

    def iterate(self, place: Place = ...) -> Iterator[tuple[Batch, Place]]: ...


@dataclass
class Training:
    """Built once for a run (`trainer.train` says what each field is); checkpoints are written of it and put back into it."""

    module: nn.Module
    objective: Objective
    batches: Stream
    settings: TrainerSettings
    run: Run
    validation: Stream | None
    sample: Callable[[], Sequence[str]] | None
    flops: Callable[[Batch], int] | None
    company: Company
    name: str
    progress: Progress = field(default_factory=Progress)
    place: Place = field(default_factory=Place)
    spikes: SpikeWatch = field(default_factory=SpikeWatch)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        settings = self.settings
        self.energy = TrainingEnergy(self.company, torch.device(self.run.device))
        self.budget = settings.budget
        if self.budget.unit == "flops" and self.flops is None:
            raise SteelyardError("a budget of FLOPs needs somebody who counts them", do="Give `flops`, or another budget.")
        self.trained = {name: parameter for name, parameter in self.module.named_parameters() if parameter.requires_grad}
        if not self.trained:
            raise SteelyardError("there is nothing to train: no parameter takes a gradient")
        self.optimizers = optimizers(
            self.module,
            self.trained,
            settings.optimizer,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
            epsilon=settings.epsilon,
            products=torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32,
        )
        self.average = Average(self.trained, settings.average) if settings.average is not None else None

    @property
    def directory(self) -> Path:
        """Where checkpoints are."""
        return self.run.directory / "checkpoints"

    def say(self, line: str) -> None:
        if self.company.first:
            self.run.say(line)
            self.run.log(line)
