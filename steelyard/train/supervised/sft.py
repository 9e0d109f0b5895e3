"""Supervised fine-tuning: the model learns to give the answers of examples, after reading their questions.

loss = - sum over the answers' tokens of log p(token | everything before it) / their number; questions, system prompts and the
template's own tokens are read but not learned; an answer's end token is. Papers: arXiv:2109.01652 (instruction tuning),
arXiv:2106.09685 (LoRA). Cost: forward and backward over every token, about 4 (LoRA) or 6 (full) operations per weight and token.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, model_validator

from steelyard.core.errors import RecipeError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.core.run import Run
from steelyard.core.seeds import derive
from steelyard.data.batching import Batches
from steelyard.data.encoding import Encoder, TokenRow, encode_all
from steelyard.data.formats import Example
from steelyard.data.sources import open_source
from steelyard.generate.spec import native_type
from steelyard.model.encoder_decoder import EncoderDecoder
from steelyard.model.linears.linear import DenseStorage, Linear
from steelyard.model.linears.lora import merge
from steelyard.model.model import Model
from steelyard.model.trunk import Trunk
from steelyard.train.adapters.lora import LoraPlan, attach, transfer
from steelyard.train.objectives import next_token_loss
from steelyard.train.supervised.pairs import train_on_pairs
from steelyard.train.trainer import TrainerSettings, train

Stream = Callable[[Sequence[Example]], Sequence[Example]]
"""What the recipe's `data` levers do to examples, in order."""


class Sft(Lever):
    """Fine-tunes on conversations, by low-rank adapters or in full."""

    model_config = ConfigDict(allow_inf_nan=False)

    name: ClassVar[str] = "sft"
    idea: ClassVar[str] = (
        "Show the model questions with the answers one wants and raise the probability of those answers. "
        "Low-rank adapters (LoRA, the default, and what the recorded results are of) learn a thin change of every map; "
        "`full` changes all weights."
    )
    equation: ClassVar[str] = "loss = - sum_{t in answers} log p(x_t | x_<t) / |answers|;  LoRA: W x + (alpha / r) B A x"
    paper: ClassVar[str] = "arXiv:2109.01652, arXiv:2106.09685"
    cost: ClassVar[str] = "about 4 (LoRA) or 6 (full) operations per weight and token; full also keeps 3 copies of the weights"
    main: ClassVar[str | None] = "data"
    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    identity: ClassVar[Any] = {"steps": 0}
    evidence: ClassVar[Any] = "real model"

    data: str = Field(description="JSONL file, folder of them, or `generated:NAME`")
    format: Literal["auto", "messages", "prompt_completion", "alpaca", "sharegpt"] = Field(
        "auto", description="kind of rows; auto recognises it"
    )
    examples: int | None = Field(None, ge=1, description="at most so many rows; how many to generate (200 if unset)")
    epochs: float = Field(1.0, gt=0, description="passes over the data")
    steps: int | None = Field(None, ge=0, description="optimizer steps, instead of epochs")
    learning_rate: float | None = Field(None, gt=0, lt=1, description="peak; unset: 2e-4 with LoRA, 2e-5 in full")
    batch: int = Field(8, ge=1, description="rows (lines, when packed) of a micro-batch")
    accumulation: int = Field(1, ge=1, description="micro-batches of a step")
    full: bool = Field(False, description="train all weights instead of adapters")
    rank: int = Field(16, ge=1, le=4096, description="of the adapters")
    alpha: float | None = Field(None, gt=0, description="adapters are scaled by alpha / rank; unset: twice the rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of an adapter's inputs dropped in training")
    targets: Literal["all"] | tuple[str, ...] = Field("all", description="maps that get adapters: all, or names such as q_proj")
    merge: bool = Field(True, description="take the adapters into the weights; false keeps them apart (an adapter directory)")
    warmup: float = Field(0.03, ge=0, le=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0, description="of matrices")
    clip: float = Field(1.0, ge=0, description="greatest norm of the gradient; 0 = no clipping")
    validation: float = Field(0.0, ge=0, le=0.5, description="share of the rows kept aside to measure the loss on")
    validate_every: int | None = Field(None, ge=1, description="steps between validations; unset: a tenth of the training")
    max_length: int | None = Field(None, ge=2, description="most tokens of a row; unset: the model's context")
    too_long: Literal["refuse", "skip", "cut"] = Field("refuse", description="what becomes of longer rows")
    bad_rows: Literal["stop", "skip"] = Field("stop", description="what becomes of rows that cannot be used")
    learn: Literal["all", "last"] = Field("all", description="answers of a conversation that are learned")
    plain: bool = Field(False, description="join the texts as they are, without the chat template")
    pack: bool = Field(False, description="put several rows on one line of max_length tokens")
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="of products; unset: bfloat16 where the hardware multiplies it, else float32. Trained weights stay float32"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Sft:
        if self.pack and self.max_length is None:
            raise ValueError("`pack` needs `max_length`, the tokens of a line")
        if self.full and not self.merge:
            raise ValueError("`merge: false` is about adapters; with `full` there are none")
        return self

    def train(self, model: Model, stream: Stream | None, run: Run) -> Model:
        """The fine-tuned model; the one given stays as it is.

        Args:
            model: with a language-model head, a tokenizer and (unless `plain`) a chat template.
            stream: maps the examples before they are encoded, or None.
            run: its directory receives metrics, checkpoints and the rows that could not be used.

        Raises:
            SteelyardError: see `open_source`, `encode_all` and `train`; UnsupportedError for packed weights.
        """
        if self.steps == 0:
            return model
        if isinstance(model.trunk, EncoderDecoder):
            return train_on_pairs(self, model, stream, run)
        self._check(model)
        rows, record = self._rows(model, stream, run)
        learned, kept = split(rows, self.validation, run.derive_seed("validation"))
        dtype: Any = self.dtype or native_type(torch.device(run.device))
        trunk = self._prepared(model, run, dtype)
        batches = Batches(
            learned, self.batch, run.derive_seed("order"), None if self.steps else self.epochs, self.max_length if self.pack else None
        )
        steps = self.steps or -(-len(batches) // self.accumulation)
        settings = TrainerSettings(
            steps=steps,
            learning_rate=self.learning_rate or (2e-5 if self.full else 2e-4),
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            clip=self.clip,
            accumulation=self.accumulation,
            dtype=dtype,
            validate_every=self.validate_every or max(1, steps // 10),
            identity=digest([model.fingerprint, self.fingerprint, record["fingerprint"], run.seed, dtype]),
        )
        validation = Batches(kept, self.batch, shuffle=False) if kept else None
        progress = train(trunk, next_token_loss(trunk), batches, settings, run, validation=validation, name="sft")
        record |= {"rows": len(learned), "validation_rows": len(kept)}
        return self._finished(model, trunk, record, asdict(progress) | {"dtype": dtype})

    def _check(self, model: Model) -> None:
        if "lm" not in model.trunk.heads or model.tokenizer is None:
            raise UnsupportedError(f"{model.name} has no language-model head or no tokenizer", do="Fine-tune a model that writes text.")
        packed = sorted(
            {str(m.storage.kind) for m in model.trunk.modules() if isinstance(m, Linear) and not isinstance(m.storage, DenseStorage)}
        )
        if packed:
            raise UnsupportedError(
                f"the weights of {model.name} are packed ({', '.join(packed)}) and take no gradients",
                do="Fine-tune first and quantize afterwards; adapters merged into packed weights would be rounded away.",
            )
        if self.max_length is not None and self.max_length > model.context_length:
            raise RecipeError(
                f"`max_length` is {self.max_length}, but {model.name} reads at most {model.context_length} tokens", where="sft"
            )

    def opened(self, stream: Stream | None, run: Run) -> tuple[Sequence[Example], list[str]]:
        """The examples, mapped by the stream, and what is to be said of them; rows that cannot be used go into the run's directory.

        Raises:
            DataError: see `open_source`.
        """
        source = open_source(
            self.data,
            kind=self.format,
            count=self.examples,
            seed=run.seed,
            bad_rows=self.bad_rows,
            quarantine=run.directory / "quarantine.jsonl",
        )
        return source.examples if stream is None else stream(source.examples), list(source.notes)

    def _rows(self, model: Model, stream: Stream | None, run: Run) -> tuple[list[TokenRow], dict[str, Any]]:
        examples, said = self.opened(stream, run)
        assert model.tokenizer is not None
        rows, notes = encode_all(
            Encoder(model.tokenizer, model.template, self.plain, self.learn),
            examples,
            max_length=self.max_length or model.context_length,
            too_long=self.too_long,
            bad_rows=self.bad_rows,
            quarantine=run.directory / "quarantine-encoding.jsonl",
        )
        for note in (*said, *notes):
            run.say(note)
            run.log(note)
        fingerprint = digest([row.key for row in rows])
        return rows, {"source": self.data, "fingerprint": fingerprint, "tokens_a_pass": sum(map(len, rows))}

    def _prepared(self, model: Model, run: Run, dtype: str) -> Trunk:
        if self.full:
            return copy.deepcopy(model.trunk.with_weights(torch.float32)).requires_grad_(True).to(run.device)
        base = model.trunk.with_weights(getattr(torch, dtype))
        plan = LoraPlan(self.rank, self.alpha or 2.0 * self.rank, self.dropout, self.targets)
        return attach(model, base, plan, run.derive_seed("adapters")).to(run.device)

    def _finished(self, model: Model, trunk: Trunk, record: dict[str, Any], result: dict[str, Any]) -> Model:
        if self.full:
            trained = trunk.to(model.trunk.device).with_weights(model.trunk.inputs.weight.dtype)
        else:
            trained = transfer(trunk.to(model.trunk.device), model.trunk)
            trained = merge(trained) if self.merge else trained
        steps = [
            *model.record.get("training", []),
            {"lever": self.name, "settings": self.settings, "data": record, "result": result},
        ]
        return model.with_trunk(trained.eval(), record=model.record | {"training": steps})


def split(rows: Sequence[TokenRow], share: float, seed: int) -> tuple[list[TokenRow], list[TokenRow]]:
    """(rows to learn, rows to validate on), by content: equal rows are always on the same side."""
    if share == 0:
        return list(rows), []
    ranked = sorted({row.key for row in rows}, key=lambda key: derive(seed, key))
    aside = set(ranked[: max(1, round(share * len(ranked)))])
    kept = [row for row in rows if row.key in aside]
    learned = [row for row in rows if row.key not in aside]
    if not learned:
        raise RecipeError("no row is left to learn from", where="sft: validation", do="Give more examples, or set `validation: 0`.")
    return learned, kept
