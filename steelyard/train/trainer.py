"""The only training loop. An objective gives the loss of a batch; the loop does the rest and can be stopped at any moment.

One step: g = (sum over micro-batches of d loss_sum / d w) / (learned tokens of all of them), clipped to a norm; AdamW
(arXiv:1711.05101) with decay on matrices only. Dividing once at the end makes accumulation equal one big batch, whatever the
lengths of its rows. Random numbers (dropout) are keyed by step, so a resumed training draws the same ones.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steelyard.core.errors import SteelyardError
from steelyard.core.files import write_text
from steelyard.core.run import Run
from steelyard.core.seeds import derive
from steelyard.data.batching import Batch, Batches, Place
from steelyard.train import checkpoints
from steelyard.train.schedule import Shape, rate_share


class TrainingStopped(SteelyardError):
    """Somebody stopped the training; everything up to its last step is saved."""


Objective = Callable[[Batch], tuple[Tensor, int]]
"""Loss of a batch: the sum over its learned tokens (or pairs, or rewards), and their number."""


@dataclass(frozen=True)
class TrainerSettings:
    """How to train.

    Attributes:
        steps: optimizer steps in all.
        learning_rate: peak.
        warmup: share of the steps in which the rate rises.
        shape: of the rate after the warm-up.
        floor: share of the peak left at the end.
        weight_decay: on parameters with two or more dimensions.
        betas, epsilon: of AdamW.
        clip: greatest norm of the gradient; 0 = no clipping.
        accumulation: micro-batches of a step.
        dtype: "float32", or "bfloat16" for activations under autocast (parameters and moments stay float32).
        validate_every: steps between two validations; the last step always has one.
        checkpoint_every: steps between two checkpoints, None for time alone.
        checkpoint_seconds: seconds after which there is one anyway.
        keep: checkpoints kept.
        identity: anything that must be equal for a checkpoint to be continued (data, levers, base).
    """

    steps: int
    learning_rate: float
    warmup: float = 0.03
    shape: Shape = "cosine"
    floor: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    clip: float = 1.0
    accumulation: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    validate_every: int | None = None
    checkpoint_every: int | None = None
    checkpoint_seconds: float = 120.0
    keep: int = 2
    identity: str = ""


@dataclass
class Progress:
    """Counters that a checkpoint carries on.

    Attributes:
        step: steps done.
        seconds: spent in steps (not in validation, saving or loading).
        tokens: read so far, without padding.
        learned: tokens the loss was taken on so far.
        loss: of the last step: mean over its learned tokens, in nats.
        validation_before: validation loss before the first step.
        validation_loss: the last one.
    """

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    learned: int = 0
    loss: float | None = None
    validation_before: float | None = None
    validation_loss: float | None = None


def train(
    module: nn.Module,
    objective: Objective,
    batches: Batches,
    settings: TrainerSettings,
    run: Run,
    *,
    validation: Batches | None = None,
    name: str = "training",
) -> Progress:
    """Trains every parameter of `module` that requires a gradient, in place, from the run's last checkpoint on.

    Args:
        module: holds the parameters; it is in training mode while steps are taken, in evaluation mode afterwards.
        objective: loss of a batch.
        batches: the stream; it must last for `settings.steps` steps, or training ends with it.
        settings: see there.
        run: its directory receives `metrics.jsonl` and `checkpoints/`; its seed keys all random numbers.
        validation: batches whose mean loss is reported.
        name: what progress is shown under.

    Returns:
        The counters at the end.

    Raises:
        SteelyardError: a loss or gradient that is not a number (step and rows are named), a full disk, too little memory,
            or a checkpoint that belongs to another training.
        TrainingStopped: stopped by Ctrl-C, SIGTERM or `run.cancelled`; a checkpoint was saved.
    """
    return _Training(module, objective, batches, settings, run, validation, name).run_to_the_end()


@dataclass
class _Training:
    module: nn.Module
    objective: Objective
    batches: Batches
    settings: TrainerSettings
    run: Run
    validation: Batches | None
    name: str
    progress: Progress = field(default_factory=Progress)
    place: Place = field(default_factory=Place)

    def __post_init__(self) -> None:
        self.trained = {name: parameter for name, parameter in self.module.named_parameters() if parameter.requires_grad}
        if not self.trained:
            raise SteelyardError("there is nothing to train: no parameter takes a gradient")
        matrices = [parameter for parameter in self.trained.values() if parameter.dim() >= 2]
        vectors = [parameter for parameter in self.trained.values() if parameter.dim() < 2]
        groups = [{"params": matrices, "weight_decay": self.settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.settings.learning_rate,
            betas=self.settings.betas,
            eps=self.settings.epsilon,
        )
        self.warmup = math.ceil(self.settings.warmup * self.settings.steps)

    @property
    def directory(self):
        return self.run.directory / "checkpoints"

    def run_to_the_end(self) -> Progress:
        settings = self.settings
        self._resume()
        if self.progress.step >= settings.steps:
            self.module.eval()
            return self.progress
        if self.validation is not None and self.progress.step == 0:
            self.progress.validation_before = self._validate()
        stream = self.batches.iterate(self.place)
        saved_at, saved_step = time.perf_counter(), self.progress.step
        with _stop_signals() as stopped, torch.random.fork_rng(self._random_devices()):
            while self.progress.step < settings.steps:
                if not self._step(stream):
                    break
                step = self.progress.step
                last = step == settings.steps
                asked_to_stop = stopped() or self.run.cancelled()
                due = settings.checkpoint_every and step % settings.checkpoint_every == 0
                if due or (asked_to_stop and not last) or time.perf_counter() - saved_at > settings.checkpoint_seconds:
                    self._save()
                    saved_at, saved_step = time.perf_counter(), step
                if asked_to_stop and not last:
                    raise TrainingStopped(
                        f"training was stopped after step {step} of {settings.steps}",
                        where=str(self.run.directory),
                        do="Everything up to there is saved; run the same command again to go on.",
                    )
        if saved_step != self.progress.step:
            self._save()
        self.module.eval()
        return self.progress

    def _step(self, stream: Iterator[tuple[Batch, Place]]) -> bool:
        """One optimizer step; False where the stream has ended."""
        settings, number = self.settings, self.progress.step + 1
        started = time.perf_counter()
        torch.manual_seed(derive(self.run.seed, "step", number))
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        total, learned, tokens = 0.0, 0, 0
        rows: list[str] = []
        for _ in range(settings.accumulation):
            taken = next(stream, None)
            if taken is None:
                break
            batch, self.place = taken
            rows += batch.where
            loss_sum, count = self._loss(batch, number)
            total, learned, tokens = total + loss_sum, learned + count, tokens + batch.tokens
        if not rows:
            return False
        if learned == 0:
            raise SteelyardError(f"no token of step {number} is learned", where=_named(rows), do="Check that these rows have answers.")
        rate = settings.learning_rate * rate_share(number - 1, settings.steps, self.warmup, settings.shape, settings.floor)
        norm = self._update(learned, rate, number, rows)
        progress = self.progress
        progress.step, progress.loss = number, total / learned
        progress.tokens, progress.learned = progress.tokens + tokens, progress.learned + learned
        progress.seconds += time.perf_counter() - started
        values: dict[str, Any] = {"loss": progress.loss, "learning_rate": rate, "grad_norm": norm}
        if self.validation is not None and self._validates(number):
            values["validation_loss"] = progress.validation_loss = self._validate()
        self.run.metric(step=number, seconds=round(progress.seconds, 4), tokens=progress.tokens, **values)
        self._report()
        return True

    def _loss(self, batch: Batch, number: int) -> tuple[float, int]:
        """Adds a micro-batch's gradient of the loss sum."""
        with _enough_memory(batch):
            with self._autocast():
                loss, count = self.objective(batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise self._not_a_number(f"the loss is {value}", number, list(batch.where))
            if loss.requires_grad:
                loss.backward()
        return value, count

    def _update(self, learned: int, rate: float, number: int, rows: list[str]) -> float:
        gradients = [parameter.grad for parameter in self.trained.values() if parameter.grad is not None]
        for gradient in gradients:
            gradient.div_(learned)
        limit = self.settings.clip or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained.values(), limit))
        if not math.isfinite(norm):
            raise self._not_a_number(f"the gradient's norm is {norm}", number, rows)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return norm

    def _not_a_number(self, what: str, number: int, rows: list[str]) -> SteelyardError:
        saved = checkpoints.steps_saved(self.directory)
        kept = f" The last checkpoint is {saved[-1].name}." if saved else ""
        return SteelyardError(
            f"{what} at step {number}",
            where=f"step {number}, batch of {_named(rows)}",
            do=f"Lower `learning_rate`, look at these rows, or train in float32; the step was not taken.{kept}",
        )

    def _validates(self, number: int) -> bool:
        every = self.settings.validate_every
        return number == self.settings.steps or bool(every and number % every == 0)

    def _validate(self) -> float:
        """Mean loss over the validation rows."""
        assert self.validation is not None
        self.module.eval()
        total, learned = 0.0, 0
        with torch.no_grad():
            for batch, _ in self.validation.iterate():
                with _enough_memory(batch), self._autocast():
                    loss, count = self.objective(batch)
                total, learned = total + float(loss), learned + count
        if not math.isfinite(total):
            raise SteelyardError(
                "the validation loss is not a number", where=f"after step {self.progress.step}", do="Lower `learning_rate`."
            )
        return total / max(1, learned)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.settings.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.run.device).type, torch.bfloat16)

    def _random_devices(self) -> list[torch.device]:
        device = torch.device(self.run.device)
        return [] if device.type == "cpu" else [device]

    def _report(self) -> None:
        progress, steps = self.progress, self.settings.steps
        validated = "" if progress.validation_loss is None else f", validation {progress.validation_loss:.3f}"
        note = f"loss {progress.loss:.3f}{validated}"
        self.run.progress(self.name, progress.step, steps, note)
        if progress.step in (1, steps) or progress.step * 10 // steps != (progress.step - 1) * 10 // steps:
            left = progress.seconds / progress.step * (steps - progress.step)
            self.run.say(f"{self.name}: step {progress.step}/{steps}, {note}, {_duration(left)} left")

    def _save(self) -> None:
        names = {id(parameter): name for name, parameter in self.trained.items()}
        moments = {
            f"{names[id(parameter)]}/{key}": value
            for parameter, values in self.optimizer.state.items()
            for key, value in values.items()
            if isinstance(value, Tensor)
        }
        state = {
            "identity": self.settings.identity,
            "steps": self.settings.steps,
            "place": [self.place.epoch, self.place.index],
            "progress": vars(self.progress),
        }
        checkpoints.save(self.directory, self.progress.step, self.trained, moments, state, self.settings.keep)

    def _check_same(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Refuses to go on from what other settings, data or parameters have made."""
        shapes = {name: tensor.shape for name, tensor in checkpoint.trained.items()}
        same = shapes == {name: parameter.shape for name, parameter in self.trained.items()}
        if checkpoint.state["identity"] != self.settings.identity or checkpoint.state["steps"] != self.settings.steps or not same:
            raise SteelyardError(
                "the checkpoints here belong to a training with other settings or data",
                where=str(self.directory),
                do="Use another run directory, or delete this one to start again.",
            )

    def _resume(self) -> None:
        """Goes back to the last checkpoint, and the metrics with it."""
        checkpoint = checkpoints.load_latest(self.directory)
        if checkpoint is not None:
            self._check_same(checkpoint)
        step = checkpoint.step if checkpoint else 0
        metrics = self.run.directory / "metrics.jsonl"
        if metrics.exists():
            write_text(metrics, "".join(_lines_up_to(metrics.read_text(encoding="utf-8", errors="replace"), step)))
        if checkpoint is None:
            return
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(checkpoint.trained[name])
        for name, parameter in self.trained.items():
            keys = [key for key in checkpoint.optimizer if key.startswith(f"{name}/")]
            # The step count stays on the CPU and moments go where the parameter is, as the optimizer itself keeps them.
            moments = {key.rpartition("/")[2]: checkpoint.optimizer[key] for key in keys}
            placed = {key: value if key == "step" else value.to(parameter.device) for key, value in moments.items()}
            if placed:
                self.optimizer.state[parameter] = placed
        self.place = Place(*checkpoint.state["place"])
        self.progress = Progress(**checkpoint.state["progress"])
        if step < self.settings.steps:
            self.run.say(f"{self.name}: going on from step {step} of {self.settings.steps}")


def _lines_up_to(text: str, step: int) -> Iterator[str]:
    """Whole metric lines of steps that the checkpoint holds; a killed run may have written more, or half a line."""
    for line in text.splitlines(keepends=True):
        try:
            number = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(number, int) and number <= step and line.endswith("\n"):
            yield line


def _named(rows: list[str]) -> str:
    shown = ", ".join(rows[:8])
    return shown + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@contextlib.contextmanager
def _enough_memory(batch: Batch) -> Iterator[None]:
    """Says so where memory ran out."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        shape = "x".join(map(str, batch.ids.shape))
        raise SteelyardError(
            "memory ran out in a training step",
            where=f"batch of {shape} tokens ({_named(list(batch.where))})",
            do="Lower `batch` and raise `accumulation` (the result is the same), lower `max_length`, or train with LoRA.",
        ) from error


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C (or SIGTERM) asks for a stop after the step; the second Ctrl-C interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
