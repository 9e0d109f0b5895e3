"""Supervised training of an encoder-decoder: the encoder reads an example's question, the decoder learns to write its answer.

loss = - sum_t log p(y_t | y_<t, x)   (arXiv:1409.3215, section 2)

It is `sft` with `full: true`: all weights are trained, in float32, and each example is one question with one answer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.core.errors import DataError, RecipeError
from steelyard.core.fingerprint import digest
from steelyard.core.run import Run
from steelyard.core.seeds import derive
from steelyard.data.batching import NOT_LEARNED, Batch
from steelyard.data.formats import Example
from steelyard.data.pairs import Pair, PairBatch, Pairs
from steelyard.model.encoder_decoder import EncoderDecoder
from steelyard.model.model import Model
from steelyard.model.tokenizer import Tokenizer
from steelyard.train.objectives import Objective
from steelyard.train.supervised.settings import SftSettings, Stream
from steelyard.train.trainer import TrainerSettings, train

LEARNING_RATE = 1e-3
"""Peak, where the recipe says none: such models are trained from nothing."""
OUT_OF_PLACE = {"pack": False, "plain": False, "dropout": 0.0, "targets": "all", "max_length": None, "learn": "all"}
"""Settings of `sft` that mean nothing here, with the value that leaves them unsaid."""


def pair_loss(model: EncoderDecoder) -> Objective:
    """The objective of `train.trainer.train` for a stream of `data.pairs.Pairs`."""

    def objective(batch: Batch) -> tuple[Tensor, int]:
        assert isinstance(batch, PairBatch), "an encoder-decoder learns from pairs"
        source, ids, targets = (torch.from_numpy(part).to(model.device) for part in (batch.source, batch.ids, batch.targets))
        logits = model(source, batch.lengths, ids)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NOT_LEARNED, reduction="sum"), batch.learned

    return objective


def train_on_pairs(lever: SftSettings, model: Model, stream: Stream | None, run: Run) -> Model:
    """The trained encoder-decoder; the one given stays as it is.

    Args:
        lever: the settings.
        model: whose trunk is an `EncoderDecoder`.
        stream: maps the examples before they are encoded, or None.
        run: its directory receives metrics, checkpoints and the rows that could not be used.

    Raises:
        RecipeError: a setting that has no meaning for encoder-decoders.
        DataError: examples that are no pair, or too long.
    """
    check(lever)
    both: Any = model.trunk
    examples, said = lever.opened(stream, run)
    assert model.tokenizer is not None
    rows, notes = encoded(examples, model.tokenizer, both.plan.context, lever.too_long, lever.bad_rows)
    for note in (*said, *notes):
        run.say(note)
        run.log(note)
    learned, kept = split(rows, lever.validation, run.derive_seed("validation"))
    border = both.plan.border
    steps = lever.steps or max(1, -(-round(lever.epochs * -(-len(learned) // lever.batch)) // lever.accumulation))
    record: dict[str, Any] = {"source": lever.data, "fingerprint": digest([list(map(list, row)) for row in rows])}
    settings = TrainerSettings(
        steps=steps,
        learning_rate=lever.learning_rate or LEARNING_RATE,
        warmup=lever.warmup,
        weight_decay=lever.weight_decay,
        clip=lever.clip,
        accumulation=lever.accumulation,
        dtype="float32",
        validate_every=lever.validate_every or max(1, steps // 10),
        identity=digest([model.fingerprint, lever.fingerprint, record["fingerprint"], run.seed]),
    )
    trunk: Any = copy.deepcopy(both).requires_grad_(True).to(run.device)
    progress = train(
        trunk,
        pair_loss(trunk),
        Pairs(learned, lever.batch, run.derive_seed("order"), border),
        settings,
        run,
        validation=Pairs(kept, lever.batch, border=border, epochs=1) if kept else None,
        name="sft",
    )
    record |= {"rows": len(learned), "validation_rows": len(kept), "tokens_a_pass": sum(len(x) + len(y) + 1 for x, y in rows)}
    entry = {"lever": lever.name, "settings": lever.settings, "data": record, "result": asdict(progress) | {"dtype": "float32"}}
    history = [*model.record.get("training", []), entry]
    return model.with_trunk(trunk.to(both.device).eval(), record=model.record | {"training": history})


def check(lever: SftSettings) -> None:
    """Refuses settings that mean nothing for an encoder-decoder.

    Raises:
        RecipeError: the first of them, by name.
    """
    if not lever.full:
        raise RecipeError(
            "adapters are not trained in an encoder-decoder here", where="sft", do="Say `full: true`: all weights are trained."
        )
    if wrong := [key for key, unsaid in OUT_OF_PLACE.items() if getattr(lever, key) != unsaid]:
        raise RecipeError(f"`{wrong[0]}` has no meaning for an encoder-decoder", where="sft", do="Leave it out.")
    if lever.dtype == "bfloat16":
        raise RecipeError("encoder-decoders are trained in float32 here", where="sft", do="Leave `dtype` out.")


def encoded(examples: Sequence[Example], tokenizer: Tokenizer, context: int, too_long: str, bad_rows: str) -> tuple[list[Pair], list[str]]:
    """Examples as pairs of token rows, and what became of those that do not fit.

    Raises:
        DataError: an example that is not one question with one answer, either empty, or too long, where these are not to be skipped.
    """
    pairs: list[Pair] = []
    left: dict[str, int] = {}
    for example in examples:
        found = pair_of(example)
        if isinstance(found, str):
            if bad_rows == "stop":
                raise DataError(found, where=example.where, do="An encoder-decoder learns one answer to one question; or `bad_rows: skip`.")
            left[found] = left.get(found, 0) + 1
            continue
        source, target = (tokenizer.encode(text) for text in found)
        if max(len(source), len(target) + 1) > context:
            if too_long == "refuse":
                raise DataError(
                    f"{len(source)} tokens to read and {len(target) + 1} to write, where the model has room for {context}",
                    where=example.where,
                    do="Raise `context` in `new`, or say `too_long: skip` or `cut`.",
                )
            told = "longer than the context, " + ("left out" if too_long == "skip" else "cut")
            left[told] = left.get(told, 0) + 1
            if too_long == "skip":
                continue
            source, target = source[:context], target[: context - 1]
        pairs.append((source, target))
    if not pairs:
        raise DataError("no example is left to learn from", do="Give questions with one answer each.")
    return pairs, [f"{count} examples: {what}" for what, count in left.items()]


def pair_of(example: Example) -> tuple[str, str] | str:
    """Question and answer, or why the example is no pair."""
    roles = [turn.message.role for turn in example.turns]
    if roles != ["user", "assistant"] or not example.turns[1].learned:
        return f"the example has the turns {', '.join(roles)}, not one question and one answer that is learned"
    question, answer = (turn.message.content for turn in example.turns)
    return (question, answer) if question and answer else "the question or the answer is empty"


def split(rows: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(pairs to learn, pairs to validate on), by content: equal pairs are always on the same side.

    Raises:
        RecipeError: none is left to learn from.
    """
    if share == 0:
        return list(rows), []
    keys = [digest([list(source), list(target)]) for source, target in rows]
    ranked = sorted(set(keys), key=lambda key: derive(seed, key))
    aside = set(ranked[: max(1, round(share * len(ranked)))])
    learned = [row for row, key in zip(rows, keys, strict=True) if key not in aside]
    if not learned:
        raise RecipeError("no row is left to learn from", where="sft: validation", do="Give more examples, or set `validation: 0`.")
    return learned, [row for row, key in zip(rows, keys, strict=True) if key in aside]
