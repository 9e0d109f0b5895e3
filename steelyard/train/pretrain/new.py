"""A model out of nothing: a plan, a tokenizer (learned from a corpus or another model's) and fresh weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steelyard.core.errors import UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.hardware import memory_available
from steelyard.core.run import Run
from steelyard.core.seeds import derive
from steelyard.data.texts.opening import look_for, open_texts
from steelyard.data.tokenizer_training import train_tokenizer
from steelyard.model.encoder_decoder import initialize_both
from steelyard.model.families.steelyard import written, written_pair
from steelyard.model.load import load_tokenizer, read_tokenizer, special_ids
from steelyard.model.model import Model
from steelyard.model.new import VOCABULARY, DecoderPlan, TokenizerSettings, initialize
from steelyard.model.new_encoder_decoder import NewEncoderDecoder
from steelyard.model.template import ChatTemplate
from steelyard.model.tokenizer import Tokenizer

PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""A new model has learned no roles: what it is told is the text that it goes on with."""


def look_for_texts(plan: DecoderPlan | NewEncoderDecoder) -> None:
    """Raises DataError where the texts that a new model's tokenizer or inputs are learned from are not there; none is read."""
    inputs = () if isinstance(plan, NewEncoderDecoder) else (plan.inputs.learns_from,)
    for name in (plan.tokenizer.data, *inputs):
        if name is not None:
            look_for(name)


def new_model(plan: DecoderPlan | NewEncoderDecoder, run: Run, name: str = "new") -> Model:
    """A model with fresh weights.

    Args:
        plan: after the `build` hooks of all levers.
        run: its seed draws the weights; its directory keeps the tokenizer, so that a second call need not learn it again.
        name: what a person calls it.

    Raises:
        SteelyardError: a plan that does not fit together or not into memory, or a tokenizer that cannot be had.
    """
    _check_memory(plan)
    if isinstance(plan, NewEncoderDecoder):
        return new_encoder_decoder(plan, run, name)
    if (corpus := plan.inputs.learns_from) is not None:
        plan = plan.with_part(plan.inputs.learned(document.text for document in open_texts(corpus)))
    tokenizer = tokenizer_of(plan.tokenizer, run)
    trunk_plan = plan.trunk(tokenizer.vocabulary_size)
    trunk = initialize(trunk_plan.build(), plan, derive(run.seed, "weights")).eval()
    family, config = written(plan, trunk_plan)
    return Model(trunk, family, {**config, **special_ids(tokenizer)}, tokenizer, ChatTemplate(PLAIN_TEMPLATE, {}), name)


def _check_memory(plan: DecoderPlan | NewEncoderDecoder) -> None:
    """Refuses, before a text is read, more weights than there is memory for."""
    weights = sum(parameter.numel() for parameter in plan.check().parameters())
    if 4 * weights > (free := memory_available()):
        raise UnsupportedError(
            f"the new model has {weights:,} weights, which take {4 * weights / 1e9:,.1f} GB; {free / 1e9:,.1f} GB of memory are free here",
            do="Lower `width`, `depth` or what its parts are set to, or make it on a larger machine.",
        )


def new_encoder_decoder(plan: NewEncoderDecoder, run: Run, name: str = "new") -> Model:
    """An encoder-decoder with fresh weights: a `Model` whose trunk is both trunks. It has no chat template: it reads one message.

    Raises:
        UnsupportedError: its tokenizer has no end of text, which targets begin and end with.
    """
    tokenizer = tokenizer_of(plan.tokenizer, run)
    if not tokenizer.eos_ids:
        raise UnsupportedError(
            "the tokenizer has no end of text, which an encoder-decoder's answers begin and end with", do="Take another."
        )
    pair = plan.plan(tokenizer.vocabulary_size, tokenizer.eos_ids[0])
    trunk: Any = initialize_both(pair.build(), plan.encoder, plan.decoder, derive(run.seed, "weights")).eval()
    family, config = written_pair(plan, pair)
    return Model(trunk, family, {**config, **special_ids(tokenizer)}, tokenizer, None, name)


def tokenizer_of(settings: TokenizerSettings, run: Run) -> Tokenizer:
    """The tokenizer that a plan asks for."""
    if settings.model is not None:
        return load_tokenizer(settings.model)
    if settings.data is None:
        return train_tokenizer(settings.kind, (), settings.vocabulary, settings.special)
    texts = open_texts(settings.data, column=settings.column, bad_files=settings.bad_files)
    for note in texts.notes:
        run.say(note)
    place = run.directory / "tokenizers" / digest([settings.model_dump(mode="json"), texts.fingerprint])
    if (found := read_tokenizer(place) if place.exists() else None) is not None:
        return found
    learned = settings.kind in ("bpe", "unigram")
    run.say(f"learning a tokenizer ({settings.kind}) from {settings.data}")

    def passages() -> Iterator[str]:
        return (document.text for document in texts)

    tokenizer = train_tokenizer(settings.kind, passages(), settings.vocabulary or (VOCABULARY if learned else None), settings.special)
    tokenizer.save(place)
    return tokenizer
