"""Pretraining: a model learns to go on with text, every token from all before it; a new model's first step, or more of it for another.

loss = - sum_t log p(x_t | x_<t) / tokens, over windows of a long row of tokens (documents end to end, each with its end of text).
Two arms trained with equal budgets (steps, tokens, FLOPs, seconds, or tokens for each parameter) on the same windows differ by their models alone.
Papers: GPT (Radford et al. 2018), arXiv:2001.08361, arXiv:2203.15556. Cost: 6 operations per weight and token, plus what mixing costs.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, model_validator

from steelyard.core.errors import RecipeError, SteelyardError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.get import home
from steelyard.core.hardware import memory_available
from steelyard.core.levers import Lever
from steelyard.core.protocols import AnswerSettings
from steelyard.core.run import Run
from steelyard.data.batching import Batch
from steelyard.data.texts.opening import BadFiles, look_for, open_texts
from steelyard.data.token_file import TokenFile, write_tokens
from steelyard.data.windows import Windows
from steelyard.generate.engine import Engine
from steelyard.generate.spec import native_type
from steelyard.model.cost import training_flops
from steelyard.model.linears.linear import Linear
from steelyard.model.model import Model
from steelyard.model.trunk import Trunk
from steelyard.train.budget import UNITS
from steelyard.train.compilation import check_compiler, compiled, compiled_blocks
from steelyard.train.objectives import next_token_loss
from steelyard.train.optimizers import Kind
from steelyard.train.parallel.company import Alone, Company, Way
from steelyard.train.parallel.launched import company
from steelyard.train.recompute import recomputed
from steelyard.train.schedule import Shape
from steelyard.train.settings import Progress
from steelyard.train.spikes import Answer
from steelyard.train.trainer import TrainerSettings, TrainingStopped, train

SAMPLE_TOKENS = 48
PROMPT_TOKENS = 16
BUDGETS = (*UNITS, "tokens_per_parameter")
"""The settings that say how long to train."""


class Pretrain(Lever):
    """Trains all weights on plain text."""

    model_config = ConfigDict(allow_inf_nan=False)

    name: ClassVar[str] = "pretrain"
    idea: ClassVar[str] = (
        "Show the model long stretches of text and raise the probability of every next token. "
        "The budget (steps, tokens, FLOPs, seconds, or tokens for each parameter) is what arms of a fair race have in common."
    )
    equation: ClassVar[str] = "loss = - sum_t log p(x_t | x_<t) / tokens (+ z (log sum exp logits)^2 + the parts' own losses)"
    paper: ClassVar[str] = "arXiv:2001.08361, arXiv:2203.15556"
    cost: ClassVar[str] = "about 6 operations per weight and token; AdamW keeps 4 copies of the weights, Muon 3"
    main: ClassVar[str | None] = "data"
    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    identity: ClassVar[Any] = {"steps": 0}
    evidence: ClassVar[Any] = "mechanism"

    data: str = Field(description="a file or folder of texts, `python`, `encyclopedia`, or `datasets:NAME[:split]`")
    column: str = Field("text", description="what the texts are called in rows of JSONL, Parquet and data sets")
    bad_files: BadFiles = Field("stop", description="what becomes of files that cannot be read")
    documents: int | None = Field(None, ge=1, description="at most so many documents, the first ones; unset: all")
    batch: int = Field(16, ge=1, description="windows of a micro-batch")
    time: int | None = Field(None, ge=2, description="tokens of a window; unset: the model's context")
    windows: Literal["random", "shuffled"] = Field(
        "shuffled", description="random: drawn anywhere, with replacement; shuffled: each token once a pass"
    )
    mask_documents: bool = Field(False, description="tokens see nothing of the documents before theirs")
    validation: float = Field(0.05, ge=0, le=0.5, description="share of the tokens kept aside to measure the loss on: the last ones")
    validation_batches: int | None = Field(20, ge=1, description="most batches a validation reads; unset: all")
    validate_every: int | None = Field(None, ge=1, description="steps between validations; unset: at the end alone")
    sample_every: int | None = Field(None, ge=1, description="steps between samples of what the model writes; unset: none")
    steps: int | None = Field(None, ge=0, description="budget: optimizer steps")
    tokens: int | None = Field(None, ge=1, description="budget: tokens read")
    flops: float | None = Field(None, gt=0, description="budget: operations, forward and backward")
    seconds: float | None = Field(None, gt=0, description="budget: seconds in training steps; compiling, validating and saving not counted")
    tokens_per_parameter: float | None = Field(
        None, gt=0, description="budget: tokens read for each of the model's parameters; 20 is about best for a given number of operations"
    )
    learning_rate: float = Field(1e-3, gt=0, lt=1, description="peak")
    rates: tuple[float, ...] = Field((), max_length=16, description="learning rates that are tried first; the best of them is then trained")
    trial: float = Field(
        0.2, gt=0, le=1, description="share of the budget that each of the `rates` is tried for, besides the budget itself"
    )
    optimizer: Kind = Field("adamw", description="muon: for matrices inside blocks, adamw for the rest")
    schedule: Shape = Field("cosine", description="of the learning rate after the warm-up")
    warmup: float = Field(0.03, ge=0, le=1, description="share of the budget in which the learning rate rises")
    decay: float = Field(0.2, gt=0, le=1, description="share of the budget in which the schedule wsd falls")
    floor: float = Field(0.1, ge=0, le=1, description="share of the learning rate left at the end")
    weight_decay: float = Field(0.1, ge=0, description="of matrices and tables")
    betas: tuple[float, float] = Field((0.9, 0.95), description="of adamw: share of its two moments that a step keeps")
    clip: float = Field(1.0, ge=0, description="greatest norm of the gradient; 0 = no clipping")
    accumulation: int = Field(1, ge=1, description="micro-batches of a step")
    z_loss: float = Field(0.0, ge=0, description="weight of the z-loss; 1e-4 is usual, 0 = none")
    ema: float | None = Field(
        None, gt=0, lt=1, description="keep a mean of the weights, of which a step keeps this share; it becomes the model"
    )
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="of products; unset: bfloat16 where the hardware multiplies it, else float32. Trained weights stay float32"
    )
    compile: bool = Field(False, description="compile blocks and loss; the seconds that takes are told apart")
    checkpoint_activations: bool = Field(False, description="compute blocks again for their gradients instead of keeping activations")
    parallel: Way = Field(
        "data", description="how processes started by torchrun share the work; sharded: each holds a share of the weights"
    )
    spikes: Answer = Field("report", description="what is done about a loss spike: report it, skip the step, or stop")

    @model_validator(mode="after")
    def _fits_together(self) -> Pretrain:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            named = f"{' and '.join(given)} are given" if given else "none is"
            raise ValueError(f"a training has one budget, but {named}: give exactly one of {', '.join(BUDGETS)}")
        if self.rates and (len(set(self.rates)) < 2 or not all(0 < rate < 1 for rate in self.rates) or not self.validation):
            raise ValueError("`rates` are two or more learning rates between 0 and 1, judged by a `validation` share above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"`betas` are {list(self.betas)}, but both must be from 0 to below 1")
        if self.validate_every and not self.validation:
            raise ValueError("`validate_every` needs a `validation` share above 0 to measure the loss on")
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(f"warm-up ({self.warmup:g}) and decay ({self.decay:g}) take more than the whole budget: lower one of them")
        return self

    def fits(self, plan: Any) -> None:
        """Refuses an encoder-decoder, windows that the new model cannot read, and those that some of its heads could learn nothing from."""
        if hasattr(plan, "encoder"):
            raise RecipeError("an encoder-decoder learns from pairs, not from plain text", do="Train it with `sft: {full: true, ...}`.")
        if self.time is not None and self.time > plan.context:
            raise RecipeError(
                f"`time` is {self.time}, but the new model reads at most {plan.context} tokens", do="Lower it, or raise `context`."
            )
        ahead = getattr(plan.head, "tokens", 1)
        if self.time is not None and ahead > self.time:
            raise RecipeError(
                f"{ahead} tokens ahead cannot be learned in windows of {self.time} tokens", do=f"Ask the head for at most {self.time}."
            )

    def ready(self) -> None:
        """Refuses texts that are not there."""
        look_for(self.data)

    def train(self, model: Model, stream: Callable[[Any], Any] | None, run: Run) -> Model:
        """The trained model; the one given stays as it is.

        Args:
            model: with a language-model head and a tokenizer, new or not.
            stream: maps the documents before they become tokens, or None.
            run: its directory receives metrics, checkpoints and samples.

        Raises:
            SteelyardError: see `open_texts`, `write_tokens`, `Windows` and `train`; RecipeError where `time` does not fit the model.
        """
        if self.steps == 0:
            return model
        time = self._checked_time(model)
        device = torch.device(run.device)
        if self.compile:
            check_compiler(device)
        crew = company(device)
        if device.type == "cpu" and self.parallel == "data":
            self._check_memory(model)
        if not isinstance(crew, Alone) and self.parallel == "sharded" and self.sample_every:
            raise UnsupportedError("a model whose weights are shared out cannot write samples", do="Leave `sample_every` out.")
        tokens, record = self._tokens(model, stream, run)
        learned, kept = self._windows(tokens, time, run)
        dtype: Any = self.dtype or native_type(device)
        settings = TrainerSettings(
            **self._budget(model),
            **{key: getattr(self, key) for key in ("learning_rate", "optimizer", "warmup", "decay", "floor", "weight_decay", "betas")},
            **{key: getattr(self, key) for key in ("clip", "accumulation", "spikes", "validate_every", "sample_every")},
            shape=self.schedule,
            dtype=dtype,
            compiles=self.compile,
            average=self.ema,
            identity=digest([model.fingerprint, self.fingerprint, record["fingerprint"], run.seed, dtype]),
        )
        tried: dict[str, Any] = {}
        if self.rates:
            settings, tried = self._tuned(model, learned, kept, settings, crew, run)
        trunk, progress = self._run(model, learned, kept, settings, crew, run, "pretrain")
        trained = trunk.to(model.trunk.device).with_weights(model.trunk.inputs.weight.dtype)
        entry = {"lever": self.name, "settings": self.settings, "data": record, "result": asdict(progress) | {"dtype": dtype} | tried}
        history = [*model.record.get("training", []), entry]
        return model.with_trunk(trained.eval(), record=model.record | {"training": history})

    def _run(
        self, model: Model, learned: Windows, kept: Windows | None, settings: TrainerSettings, crew: Company, run: Run, name: str
    ) -> tuple[Trunk, Progress]:
        """One training of a copy of the model's weights."""
        trunk = copy.deepcopy(model.trunk.with_weights(torch.float32)).requires_grad_(True).to(torch.device(run.device))
        crew.prepare(trunk, self.parallel)
        objective = next_token_loss(trunk, z_loss=self.z_loss, others=crew.others, **({"compiled": compiled} if self.compile else {}))
        with contextlib.ExitStack() as stack:
            stack.enter_context(recomputed(trunk, self.checkpoint_activations))
            stack.enter_context(compiled_blocks(trunk, self.compile))
            progress = train(
                trunk,
                objective,
                learned,
                settings,
                run,
                validation=kept,
                sample=self._sampler(model.with_trunk(trunk), kept, learned) if self.sample_every else None,
                flops=_counter(trunk, learned.time),
                company=crew,
                name=name,
            )
        return gathered(trunk, model.trunk, crew), progress

    def _tuned(
        self, model: Model, learned: Windows, kept: Windows | None, settings: TrainerSettings, crew: Company, run: Run
    ) -> tuple[TrainerSettings, dict[str, Any]]:
        """The settings with the best of `rates`, and what each of them reached; one that diverges or spikes too often is out."""
        losses: dict[float, float | None] = {}
        failure: SteelyardError | None = None
        for rate in self.rates:
            share = {unit: amount * self.trial for unit in UNITS if (amount := getattr(settings, unit)) is not None}
            whole = {unit: max(1, round(amount)) if unit in ("steps", "tokens") else amount for unit, amount in share.items()}
            shorter = replace(settings, learning_rate=rate, sample_every=None, validate_every=None, **whole)
            inner = run.inner(f"rate-{rate:g}", seed=run.seed)
            try:
                losses[rate] = self._run(model, learned, kept, shorter, crew, inner, f"rate {rate:g}")[1].validation_loss
            except TrainingStopped:
                raise
            except SteelyardError as error:
                losses[rate], failure = None, error
                run.say(f"learning rate {rate:g}: {error.what}; it is out")
        reached = {rate: loss for rate, loss in losses.items() if loss is not None}
        if not reached:
            assert failure is not None
            raise failure
        best = min(reached, key=lambda rate: reached[rate])
        told = ", ".join(f"{rate:g}: {'out' if loss is None else f'{loss:.3f}'}" for rate, loss in losses.items())
        run.say(f"learning rate {best:g} (validation loss after {self.trial:.0%} of the budget: {told})")
        return replace(settings, learning_rate=best), {"learning_rate": best, "rates": {f"{rate:g}": loss for rate, loss in losses.items()}}

    def _budget(self, model: Model) -> dict[str, Any]:
        """The amount of each unit; all but one are None."""
        amounts = {unit: getattr(self, unit) for unit in UNITS}
        if self.tokens_per_parameter is not None:
            amounts["tokens"] = max(1, round(self.tokens_per_parameter * model.trunk.parameter_count()))
        return amounts

    def _check_memory(self, model: Model) -> None:
        """Refuses, before a text is read, what the weights' copy, gradients, moments and mean surely have no room for."""
        moments = 1 if self.optimizer == "muon" else 2
        copies = 2 + moments + (self.ema is not None)
        needed, free = 4 * copies * model.trunk.parameter_count(), memory_available()
        if needed > free:
            raise UnsupportedError(
                f"training {model.trunk.parameter_count():,} weights takes {needed / 1e9:,.1f} GB besides the model ({copies} numbers a "
                f"weight); {free / 1e9:,.1f} GB of memory are free here",
                do="Train a smaller model or adapters (`sft`), leave `ema` out, or use a larger machine.",
            )

    def _checked_time(self, model: Model) -> int:
        if "lm" not in model.trunk.heads or model.tokenizer is None:
            raise UnsupportedError(f"{model.name} has no language-model head or no tokenizer", do="Pretrain a model that writes text.")
        linears = [module for module in model.trunk.modules() if isinstance(module, Linear)]
        packed = {str(linear.storage.kind) for linear in linears if not any(p.is_floating_point() for p in linear.storage.parameters())}
        if packed:
            raise UnsupportedError(
                f"the weights of {model.name} are packed ({', '.join(sorted(packed))}) and take no gradients",
                do="Train first and quantize afterwards.",
            )
        time = self.time or model.context_length
        if time > model.context_length:
            raise RecipeError(f"`time` is {time}, but {model.name} reads at most {model.context_length} tokens", where="pretrain")
        return time

    def _tokens(self, model: Model, stream: Callable[[Any], Any] | None, run: Run) -> tuple[TokenFile, dict[str, Any]]:
        texts = open_texts(self.data, column=self.column, bad_files=self.bad_files, limit=self.documents)
        for note in texts.notes:
            run.say(note)
            run.log(note)
        assert model.tokenizer is not None
        # In the common folder, so that the arms of a race read the same file.
        tokens = write_tokens(texts if stream is None else stream(texts), model.tokenizer, home() / "tokens")
        record = {"source": self.data, "fingerprint": tokens.fingerprint, "rows": tokens.documents, "tokens": len(tokens)}
        return tokens, record | {"bytes_per_token": tokens.bytes_per_token}

    def _windows(self, tokens: TokenFile, time: int, run: Run) -> tuple[Windows, Windows | None]:
        """(windows to learn, windows to validate on or None). Compiled code is made for one shape, so it meets whole batches only."""
        learned, kept = tokens.split(self.validation)
        whole = self.compile
        stream = Windows(
            learned, self.batch, time, run.derive_seed("windows"), self.mask_documents, order=self.windows, whole_batches=whole
        )
        if not self.validation:
            return stream, None
        aside = Windows(kept, self.batch, time, mask_documents=self.mask_documents, order="sequential", epochs=1.0, whole_batches=whole)
        if self.validation_batches is not None and self.validation_batches < len(aside):
            aside = replace(aside, epochs=self.validation_batches / len(aside))
        return stream, aside

    def _sampler(self, model: Model, kept: Windows | None, learned: Windows) -> Callable[[], Sequence[str]]:
        """Writes a little after the first tokens of the text that is kept aside: the likeliest, and one that is drawn."""
        tokenizer = model.tokenizer
        assert tokenizer is not None
        ids = (kept or learned).tokens.ids[: min(PROMPT_TOKENS, model.context_length // 2)].tolist()
        tokens = min(SAMPLE_TOKENS, model.context_length - len(ids))
        ways = [AnswerSettings(temperature=0.0, max_tokens=tokens), AnswerSettings(temperature=1.0, seed=0, max_tokens=tokens)]

        def sample() -> list[str]:
            with Engine(model, slots=len(ways), kernels="pytorch") as engine:
                written = engine.generate([ids] * len(ways), logprobs=False, settings=ways)
            return [tokenizer.decode(ids) + completion.text for completion in written]

        return sample


def gathered(trunk: Trunk, like: Trunk, crew: Company) -> Trunk:
    """A trunk of whole weights in this process."""
    if not any(hasattr(parameter, "full_tensor") for parameter in trunk.parameters()):
        return trunk
    whole = copy.deepcopy(like.with_weights(torch.float32)).to(trunk.device)
    with torch.no_grad():
        for (_, mine), (_, shared) in zip(whole.named_parameters(), trunk.named_parameters(), strict=True):
            mine.copy_(crew.whole(shared))
    return whole


def _counter(trunk: Trunk, time: int) -> Callable[[Batch], int]:
    """Operations of a batch of windows of `time` tokens."""
    of_a_window = training_flops(trunk, time)
    return lambda batch: of_a_window * len(batch.ids)
