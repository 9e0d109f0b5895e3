"""How to train, and what a training counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from steelyard.train.budget import Budget, one_budget
from steelyard.train.optimizers import Kind
from steelyard.train.schedule import Shape
from steelyard.train.spikes import Answer


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How to train.

    Attributes:
        steps, tokens, flops, seconds: the budget; exactly one is given (see train/budget.py).
        learning_rate: peak.
        optimizer: see train/optimizers.py.
        warmup: share of the budget in which the rate rises.
        shape: of the rate after the warm-up.
        decay: share of the budget in which the shape `wsd` falls.
        floor: share of the peak left at the end.
        weight_decay: on parameters with two or more dimensions.
        betas, epsilon: of AdamW.
        clip: greatest norm of the gradient; 0 = no clipping.
        accumulation: micro-batches of a step.
        dtype: "float32", or "bfloat16" for activations under autocast (parameters and moments stay float32).
        compiles: whether module or objective go through torch.compile, whose seconds are then counted apart.
        average: share that a running mean of the weights keeps at each step; the mean is what is validated, sampled from and left in
            the module at the end. None = no mean.
        spikes: what is done about a loss spike (see train/spikes.py).
        validate_every: steps between two validations; the last step always has one.
        sample_every: steps between two samples; None for none.
        checkpoint_every: steps between two checkpoints, None for time alone.
        checkpoint_seconds: seconds after which there is one anyway.
        keep: checkpoints kept.
        identity: anything that must be equal for a checkpoint to be continued (data, levers, base).
    """

    learning_rate: float
    steps: int | None = None
    tokens: int | None = None
    flops: float | None = None
    seconds: float | None = None
    optimizer: Kind = "adamw"
    warmup: float = 0.03
    shape: Shape = "cosine"
    decay: float = 0.2
    floor: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    clip: float = 1.0
    accumulation: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    compiles: bool = False
    average: float | None = None
    spikes: Answer = "report"
    validate_every: int | None = None
    sample_every: int | None = None
    checkpoint_every: int | None = None
    checkpoint_seconds: float = 120.0
    keep: int = 2
    identity: str = ""

    @property
    def budget(self) -> Budget:
        return one_budget(steps=self.steps, tokens=self.tokens, flops=self.flops, seconds=self.seconds)


@dataclass
class Progress:
    """Counters that a checkpoint carries on.

    Attributes:
        step: steps done.
        seconds: spent in steps (not in compiling, validation, sampling, saving or loading).
        compile_seconds: spent in compiling, in this process and those it goes on from.
        tokens: read so far, without padding.
        learned: tokens the loss was taken on so far.
        flops: floating-point operations of forward and backward so far, where somebody counts them.
        loss: of the last step: mean over its learned tokens, in nats.
        spikes: steps that were loss spikes.
        skipped: those of them that were left out.
        validation_before: validation loss before the first step.
        validation_loss: the last one.
        joules_low, joules_high: energy of this process from its first step to its last and all between, without idling; equal where measured.
            Steps that a kill undid are not in it.
        energy_source: wall, rapl, nvml, modelled, or several with a plus; "" where nobody counted.
        wall_seconds: from the first step to the last and all between, as energy is counted: how long the machine was taken.
        machines: how many, 0 where nobody counted; `cores` of each, and the names of its `gpus`, empty where it trained on the processor.
    """

    step: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    tokens: int = 0
    learned: int = 0
    flops: int = 0
    loss: float | None = None
    spikes: int = 0
    skipped: int = 0
    validation_before: float | None = None
    validation_loss: float | None = None
    joules_low: float = 0.0
    joules_high: float = 0.0
    energy_source: str = ""
    wall_seconds: float = 0.0
    machines: int = 0
    cores: int = 0
    gpus: list[str] = field(default_factory=list)
