"""Models made here that no public class knows: config.json holds the plan they were built from, tensors have our own names.

Only this package opens them, and `inspect` says so. Where a plan is what a public family describes, `public` finds that family, and
the model is written in its form instead, which other tools open.
"""

from __future__ import annotations

import importlib
from typing import Any

import pydantic
import torch

from steelyard.core.errors import ModelFileError, SteelyardError
from steelyard.model.encoder_decoder import EncoderDecoderPlan
from steelyard.model.families.config import Config
from steelyard.model.families.family import FILES, Entry, Family
from steelyard.model.new import DecoderPlan
from steelyard.model.new_encoder_decoder import KIND, NewEncoderDecoder
from steelyard.model.trunk import TrunkPlan

PLAN = "plan"
BORDER = "decoder_start_token_id"


def plan(config: Config) -> TrunkPlan:
    """The trunk a saved plan describes; of an encoder-decoder, both."""
    told = config.mapping(PLAN) or {}
    try:
        if told.get("kind") == KIND:
            rows, border = config.integer("vocab_size"), config.values.get(BORDER)
            if type(border) is not int or not 0 <= border < rows:
                what = f"`{BORDER}` is {border!r:.60}, not the number of one of {rows} tokens"
                raise ModelFileError(what, where=config.where, do="Restore the config it was saved with.")
            both: Any = NewEncoderDecoder.model_validate(told).plan(rows, border)
            return both
        decoder = DecoderPlan.model_validate({**told, "vocabulary": config.integer("vocab_size")})
        return decoder.trunk(0)
    except pydantic.ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()[:5])
        raise ModelFileError(f"`plan` cannot be read: {what}", where=config.where, do="Restore the config it was saved with.") from None
    except SteelyardError as error:
        raise ModelFileError(f"`plan` cannot be built: {error.what}", where=config.where, do=error.do) from error


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Every tensor under its own name; a tied head stands in the token table."""
    with torch.device("meta"):
        built = trunk.build()
    parts = {"": trunk, **({"encoder.": trunk.encoder, "decoder.": trunk.decoder} if isinstance(trunk, EncoderDecoderPlan) else {})}
    tied = {f"{place}heads.lm.linear.weight" for place, part in parts.items() if getattr(part.heads.get("lm"), "tied", False)}
    names = [name.replace(".storage.", ".") for name, _ in built.named_parameters(remove_duplicate=False)]
    return [Entry(name, (name,)) for name in names if name not in tied]


FAMILIES = (Family("steelyard", "SteelyardForCausalLM", plan, entries),)


def public(trunk: TrunkPlan) -> tuple[Family, dict[str, Any]] | None:
    """A public family that describes exactly this trunk, with its config.json; None where there is none.

    Whether it does is not believed but tried: the family must read its own description back as an equal plan.
    """
    for name, file in FILES.items():
        module = importlib.import_module(f"steelyard.model.families.{file}")
        family = next(family for family in module.FAMILIES if family.name == name)
        if family.describe is None or (config := family.describe(trunk)) is None:
            continue
        try:
            if family.plan(Config(config)) == trunk:
                return family, config
        except SteelyardError:  # what it describes is outside what public configs may say
            continue
    return None


def written_pair(new: NewEncoderDecoder, pair: EncoderDecoderPlan) -> tuple[Family, dict[str, Any]]:
    """The same of a new encoder-decoder; no public class has its blocks, with cross-attention after each mixer."""
    told = {key: value for key, value in new.written().items() if key != "tokenizer"}
    sizes = {"vocab_size": pair.inputs.vocabulary, "max_position_embeddings": pair.context, BORDER: pair.border}
    return FAMILIES[0], {PLAN: told, "is_encoder_decoder": True, **sizes}


def written(decoder: DecoderPlan, trunk: TrunkPlan) -> tuple[Family, dict[str, Any]]:
    """The family a new model is saved as, and its config.json."""
    if found := public(trunk):
        return found
    told = {key: value for key, value in decoder.written().items() if key not in ("tokenizer", "vocabulary")}
    return FAMILIES[0], {PLAN: told, "vocab_size": trunk.inputs.vocabulary, "max_position_embeddings": trunk.context}
