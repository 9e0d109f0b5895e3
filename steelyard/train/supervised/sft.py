"""Supervised fine-tuning: the model learns to give the answers of examples, after reading their questions.

loss = - sum over the answers' tokens of log p(token | everything before it) / their number; questions, system prompts and the
template's own tokens are read but not learned; an answer's end token is. Papers: arXiv:2109.01652 (instruction tuning),
arXiv:2106.09685 (LoRA). Cost: forward and backward over every token, about 4 (LoRA) or 6 (full) operations per weight and token.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import torch

from steelyard.core.errors import RecipeError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.run import Run
from steelyard.core.seeds import derive
from steelyard.data.batching import Batches
from steelyard.data.encoding import Encoder, TokenRow, encode_all
from steelyard.generate.spec import native_type
from steelyard.model.encoder_decoder import EncoderDecoder
from steelyard.model.linears.linear import DenseStorage, Linear
from steelyard.model.linears.lora import merge
from steelyard.model.model import Model
from steelyard.model.trunk import Trunk
from steelyard.train.adapters.lora import LoraPlan, attach, transfer
from steelyard.train.objectives import next_token_loss
from steelyard.train.supervised.pairs import train_on_pairs
from steelyard.train.supervised.settings import SftSettings, Stream
from steelyard.train.trainer import TrainerSettings, train


class Sft(SftSettings):
    """Fine-tunes on conversations, by low-rank adapters or in full."""

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
