"""Settings of supervised fine-tuning, whatever kind of model it trains, and the examples they name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from steelyard.core.levers import Lever
from steelyard.core.run import Run
from steelyard.data.formats import Example
from steelyard.data.sources import look_for, open_source

Stream = Callable[[Sequence[Example]], Sequence[Example]]
"""What the recipe's `data` levers do to examples, in order."""


class SftSettings(Lever):
    """What `sft` is told."""

    model_config = ConfigDict(allow_inf_nan=False)

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
    def _fits_together(self) -> Self:
        if self.pack and self.max_length is None:
            raise ValueError("`pack` needs `max_length`, the tokens of a line")
        if self.full and not self.merge:
            raise ValueError("`merge: false` is about adapters; with `full` there are none")
        return self

    def ready(self) -> None:
        """Refuses examples that are not there."""
        look_for(self.data)

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
