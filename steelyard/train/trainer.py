"""The only training loop. An objective gives the loss of a batch; the loop does the rest and can be stopped at any moment.

One step: g = (sum over micro-batches of d loss_sum / d w) / (learned tokens of all of them), clipped to a norm; then the optimizer
(train/optimizers.py). Dividing once at the end makes accumulation equal one big batch, whatever the lengths of its rows. Random
numbers (dropout) are keyed by step, so a resumed training draws the same ones. Training ends when its budget is used
(train/budget.py); a checkpoint holds all that decides what comes next, so that a killed training goes on to the same bits (but for a
budget of seconds, which no two runs use alike).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from steelyard.core.errors import SteelyardError
from steelyard.core.run import Run
from steelyard.core.seeds import derive
from steelyard.data.batching import Batch, Place
from steelyard.train import checkpoints, resumption
from steelyard.train.interruption import TrainingStopped, enough_memory, named, stop_signals
from steelyard.train.objectives import Objective
from steelyard.train.parallel.company import Alone, Company
from steelyard.train.schedule import rate_share
from steelyard.train.settings import Progress, TrainerSettings
from steelyard.train.training import Stream, Training

__all__ = ["Progress", "Stream", "TrainerSettings", "TrainingStopped", "train"]


def train(
    module: nn.Module,
    objective: Objective,
    batches: Stream,
    settings: TrainerSettings,
    run: Run,
    *,
    validation: Stream | None = None,
    sample: Callable[[], Sequence[str]] | None = None,
    flops: Callable[[Batch], int] | None = None,
    company: Company | None = None,
    name: str = "training",
) -> Progress:
    """Trains every parameter of `module` that requires a gradient, in place, from the run's last checkpoint on.

    Args:
        module: holds the parameters; it is in training mode while steps are taken, in evaluation mode afterwards.
        objective: loss of a batch.
        batches: the stream; it must last for the budget, or training ends with it.
        settings: see there.
        run: its directory receives `metrics.jsonl`, `log.txt` and `checkpoints/`; its seed keys all random numbers.
        validation: batches whose mean loss is reported.
        sample: called every `settings.sample_every` steps and at the end; what it returns goes into metrics and log.
        flops: floating-point operations of a batch, forward and backward.
        company: the processes that train together; None for this one alone.
        name: what progress is shown under.

    Returns:
        The counters at the end.

    Raises:
        SteelyardError: a loss or gradient that is not a number (step and rows are named), a loss spike where those stop a training,
            a full disk, too little memory, or a checkpoint that belongs to another training.
        TrainingStopped: stopped by Ctrl-C, SIGTERM or `run.cancelled`; a checkpoint was saved.
    """
    return _Loop(module, objective, batches, settings, run, validation, sample, flops, company or Alone(), name).run_to_the_end()


class _Loop(Training):
    """Takes a training's steps."""

    def run_to_the_end(self) -> Progress:
        resumption.resume(self)
        if not self.budget.finished(self.progress):
            self.energy.begin(self.progress)
            hearing = self.clock.hearing_the_compiler() if self.settings.compiles else contextlib.nullcontext()
            with hearing, stop_signals() as stopped, torch.random.fork_rng(self._random_devices()):
                if self.validation is not None and self.progress.step == 0:
                    self.progress.validation_before = self._validate()
                self._take_steps(stopped)
        if self.average is not None:
            self.average.put()
            self.company.refresh(self.module)
        self.module.eval()
        return self.progress

    def _take_steps(self, stopped: Callable[[], bool]) -> None:
        settings, progress = self.settings, self.progress
        stream = self.batches.iterate(self.place)
        saved_at, saved_step = time.perf_counter(), progress.step
        while not self.budget.finished(progress) and self._step(stream):
            last = self.budget.finished(progress)
            asked_to_stop = any(self.company.total([float(stopped() or self.run.cancelled())]))
            due = settings.checkpoint_every and progress.step % settings.checkpoint_every == 0
            due = due or self.company.agreed(time.perf_counter() - saved_at) > settings.checkpoint_seconds
            if due or (asked_to_stop and not last):
                resumption.save(self)
                saved_at, saved_step = time.perf_counter(), progress.step
            if asked_to_stop and not last:
                of = f" of {settings.steps}" if settings.steps is not None else f", {self.budget.share(progress):.0%} of {self.budget}"
                raise TrainingStopped(
                    f"training was stopped after step {progress.step}{of}",
                    where=str(self.run.directory),
                    do="Everything up to there is saved; run the same command again to go on.",
                )
        if saved_step != progress.step:
            resumption.save(self)

    def _step(self, stream: Iterator[tuple[Batch, Place]]) -> bool:
        """One optimizer step; False where the stream has ended."""
        progress, number, before = self.progress, self.progress.step + 1, self.place
        began, compiling = self.clock.seconds, self.clock.compiling
        with self.clock.running():
            torch.manual_seed(derive(self.run.seed, "step", number, *([self.company.number] if self.company.number else [])))
            self.module.train()
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            found = self._gradients(stream, number)
            if not found.rows:
                return False
            loss = found.plain / found.learned
            seconds = progress.seconds + self.company.agreed(self.clock.now - began)
            after = Progress(step=number, seconds=seconds, tokens=progress.tokens + found.tokens, flops=progress.flops + found.flops)
            rate = self._rate(after)
            norm = self._norm(found, number)
            spike = self.spikes.see(loss)
            if spike and self.settings.spikes == "stop":
                self.place = before
                resumption.save(self)
                raise self._spiked(loss, number, found.rows)
            skipped = spike and self.settings.spikes == "skip"
            if not skipped:
                self._update(rate)
                if self.average is not None:
                    self.average.update(number)
        progress.step, progress.loss, progress.tokens, progress.flops = number, loss, after.tokens, after.flops
        progress.learned += found.learned
        progress.seconds += self.company.agreed(self.clock.seconds - began)
        progress.compile_seconds += self.clock.compiling - compiling
        progress.spikes, progress.skipped = progress.spikes + spike, progress.skipped + skipped
        values: dict[str, Any] = {"loss": loss, "learning_rate": rate, "grad_norm": norm}
        values |= {f"loss_{part}": value / found.learned for part, value in found.parts.items()}
        values |= {"flops": progress.flops} if self.flops else {}
        if spike:
            values |= {"spike": True, "skipped": skipped}
            taken = "the step was left out" if skipped else "the step was taken all the same"
            self.say(f"{self.name}: the loss of step {number} is a spike ({loss:.3f}, batch of {named(found.rows)}); {taken}")
        self._observe(values)
        return True

    def _gradients(self, stream: Iterator[tuple[Batch, Place]], number: int) -> _Found:
        """The gradients of the loss sum of a step's micro-batches, over all processes."""
        found = _Found()
        for _ in range(self.settings.accumulation):
            taken = next(stream, None)
            if taken is None:
                break
            batch, self.place = taken
            found.rows += batch.where
            found.tokens += batch.tokens
            found.flops += self.flops(batch) if self.flops else 0
            self._add_loss(self.company.part(batch), number, found)
        if not found.rows:
            return found
        names = sorted(found.parts)
        plain, learned, *parts = self.company.total([found.plain, float(found.learned), *(found.parts[name] for name in names)])
        found.plain, found.learned, found.parts = plain, int(learned), dict(zip(names, parts, strict=True))
        if found.learned == 0:
            where = named(found.rows)
            raise SteelyardError(f"no token of step {number} is learned", where=where, do="Check that these rows have answers.")
        return found

    def _add_loss(self, batch: Batch, number: int, found: _Found) -> None:
        with enough_memory(batch):
            with self._autocast():
                loss, count, *more = self.objective(batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise self._not_a_number(f"the loss is {value}", number, list(batch.where))
            if loss.requires_grad:
                loss.backward()
        parts: dict[str, Tensor] = more[0] if more else {}
        for name, part in parts.items():
            found.parts[name] = found.parts.get(name, 0.0) + float(part)
            value -= float(part)
        found.plain, found.learned = found.plain + value, found.learned + count

    def _norm(self, found: _Found, number: int) -> float:
        """Gradients become means and are clipped; the norm they had."""
        self.company.share_gradients(self.trained.values())
        for parameter in self.trained.values():
            if parameter.grad is not None:
                parameter.grad.div_(found.learned)
        norm = self.company.clip(self.trained.values(), self.settings.clip or math.inf)
        if not math.isfinite(norm):
            raise self._not_a_number(f"the gradient's norm is {norm}", number, found.rows)
        return norm

    def _rate(self, after: Progress) -> float:
        settings, budget = self.settings, self.budget
        used, total = budget.used(self.progress), budget.amount
        # In steps the warm-up is a whole number of them, at least one where there is any.
        warmup = math.ceil(settings.warmup * total) if budget.unit == "steps" else settings.warmup * total
        size = max(budget.used(after) - used, 1e-9)
        return settings.learning_rate * rate_share(used, total, warmup, settings.shape, settings.floor, size=size, decay=settings.decay)

    def _update(self, rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("rate", 1.0)
            optimizer.step()

    def _observe(self, values: dict[str, Any]) -> None:
        """Validation and samples where they are due, and all that is written down about a step."""
        progress, settings = self.progress, self.settings
        number, last = progress.step, self.budget.finished(progress)
        due = lambda every: last or bool(every and number % every == 0)  # noqa: E731
        if self.validation is not None and due(settings.validate_every):
            values["validation_loss"] = progress.validation_loss = self._validate()
        if self.sample is not None and due(settings.sample_every):
            with self._as_finished():
                values["samples"] = list(self.sample())
        if not self.company.first:
            return
        self.run.metric(step=number, seconds=round(progress.seconds, 4), tokens=progress.tokens, **values)
        for text in values.get("samples", ()):
            self.run.log(f"{self.name}: step {number}, sample: {text!r}")
        self._report(last)

    def _validate(self) -> float:
        """Mean loss over the validation rows."""
        assert self.validation is not None
        total, learned = 0.0, 0.0
        with self._as_finished(), torch.no_grad():
            for batch, _ in self.validation.iterate():
                part = self.company.part(batch)
                with enough_memory(part), self._autocast():
                    loss, count, *_ = self.objective(part)
                total, learned = total + float(loss), learned + count
        total, learned = self.company.total([total, learned])
        if not math.isfinite(total):
            raise SteelyardError(
                "the validation loss is not a number", where=f"after step {self.progress.step}", do="Lower `learning_rate`."
            )
        return total / max(1, learned)

    @contextlib.contextmanager
    def _as_finished(self) -> Iterator[None]:
        """The module as it would be if training ended now."""
        self.module.eval()
        with self.average.in_place() if self.average is not None and self.progress.step else contextlib.nullcontext():
            self.company.refresh(self.module)
            yield
        self.company.refresh(self.module)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.settings.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.run.device).type, torch.bfloat16)

    def _random_devices(self) -> list[torch.device]:
        device = torch.device(self.run.device)
        return [] if device.type == "cpu" else [device]

    def _report(self, last: bool) -> None:
        progress = self.progress
        done, total = self.budget.shown(progress)
        validated = "" if progress.validation_loss is None else f", validation {progress.validation_loss:.3f}"
        note = f"loss {progress.loss:.3f}{validated}"
        self.run.progress(self.name, done, total, note)
        tenth = int(10 * self.budget.share(progress))
        if progress.step == 1 or last or tenth != self._told:
            left = progress.seconds * (1 / max(self.budget.share(progress), 1e-9) - 1)
            of = f"/{total}" if self.budget.unit == "steps" else f" ({self.budget.share(progress):.0%} of {self.budget})"
            self.run.say(f"{self.name}: step {progress.step}{of}, {note}, {_duration(left)} left")
        self._told = tenth

    _told = 0

    def _spiked(self, loss: float, number: int, rows: list[str]) -> SteelyardError:
        return SteelyardError(
            f"the loss spikes at step {number}: {loss:.3f}, far above the {len(self.spikes.losses) - 1} losses before",
            where=f"step {number}, batch of {named(rows)}",
            do="Look at these rows, lower `learning_rate`, or let spikes be left out (`spikes: skip`); the step was not taken.",
        )

    def _not_a_number(self, what: str, number: int, rows: list[str]) -> SteelyardError:
        saved = checkpoints.steps_saved(self.directory)
        kept = f" The last checkpoint is {saved[-1].name}." if saved else ""
        return SteelyardError(
            f"{what} at step {number}",
            where=f"step {number}, batch of {named(rows)}",
            do=f"Lower `learning_rate`, look at these rows, or train in float32; the step was not taken.{kept}",
        )


@dataclass
class _Found:
    """What the micro-batches of a step come to.

    Attributes:
        plain: sum of the loss itself, without what was added to it.
        learned: tokens it was taken on.
        parts: sums of what was added to it, by name.
        tokens, flops, rows: of the whole step, whichever process took them.
    """

    plain: float = 0.0
    learned: int = 0
    parts: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    flops: int = 0
    rows: list[str] = field(default_factory=list)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
