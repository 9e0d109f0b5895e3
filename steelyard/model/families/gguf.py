"""What GGUF files of all families have in common: names of metadata keys and of tensors, and how rotary scalings are written.

Keys and names are those of the format's own tables (the `gguf` package); what a missing key means is what llama.cpp takes it
to mean. Metadata is checked here by type, and again by value where the plan is made from the config it amounts to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from steelyard.core.errors import ModelFileError
from steelyard.model.families.config import Config
from steelyard.model.files.source import TensorSource

BLOCK = "blk.{}."
NAMES = {
    "inputs": "token_embd",
    "inputs.positions": "position_embd.weight",
    "norm": "output_norm",
    "heads.lm.linear": "output",
    "mixer_norm": "attn_norm",
    "mixer_after": "post_attention_norm",
    "channel_norm": "ffn_norm",
    "channel_after": "post_ffw_norm",
    "mixer.query": "attn_q",
    "mixer.key": "attn_k",
    "mixer.value": "attn_v",
    "mixer.output": "attn_output",
    "mixer.query_norm": "attn_q_norm",
    "mixer.key_norm": "attn_k_norm",
    "channel.gate": "ffn_gate",
    "channel.up": "ffn_up",
    "channel.down": "ffn_down",
}
TABLE = "token_embd.weight"
FREQUENCIES, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
"""Tensors that hold divisors of rotary frequencies: settings, not weights."""
SETTINGS = (r"rope_freqs\.weight", r"rope_factors_(long|short)\.weight")
MOST_DIVISORS = 2**16
WITHOUT = "Convert the model to GGUF again, or use its Hugging Face directory."


@dataclass(frozen=True)
class Description:
    """What a GGUF file says of its model.

    Attributes:
        values: the architecture's metadata, keys without its name.
        source: the tensors: their names and shapes say whether heads are tied and maps have biases.
        where: address for errors.
    """

    values: Config
    source: TensorSource
    where: str

    @classmethod
    def read(cls, metadata: Mapping[str, Any], source: TensorSource, where: str) -> Description:
        """The part of the metadata that belongs to `general.architecture`."""
        prefix = f"{metadata['general.architecture']}."
        own = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
        return cls(Config(own, f"{where}: metadata {prefix.removesuffix('.')}"), source, where)

    def has(self, name: str) -> bool:
        return name in self.source.names()

    def divisors(self, name: str) -> list[float]:
        """A tensor that is a list of settings."""
        shape = self.source.shape(name)
        if len(shape) != 1 or shape[0] > MOST_DIVISORS:
            raise ModelFileError(f"`{name}` has the shape {list(shape)}, not one row of divisors", where=self.where, do=WITHOUT)
        return [float(value) for value in self.source.read(name, torch.float32)]

    def only(self, key: str, value: Any) -> None:
        """Refuses a setting that would change what is computed in a way that is not built here."""
        given = self.values.values.get(key, value)
        if given != value:
            raise ModelFileError(f"`{key}` is {given!r:.60}, which is not built here", where=self.values.where, do=WITHOUT)


def sizes(description: Description) -> dict[str, Any]:
    """The sizes every decoder has, under the names of config.json."""
    values = description.values
    description.only("expert_count", 0)
    heads = values.integer("attention.head_count")
    return {
        "hidden_size": values.integer("embedding_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": values.integer("attention.head_count_kv", heads),
        "num_hidden_layers": values.integer("block_count"),
        "intermediate_size": values.integer("feed_forward_length"),
        "max_position_embeddings": values.integer("context_length"),
        **tokens(description),
    }


def tokens(description: Description) -> dict[str, Any]:
    """What only the tensors tell: how many tokens there are, and whether the head is the token table."""
    if not description.has(TABLE):
        raise ModelFileError(f"the tensor `{TABLE}` is missing", where=description.where, do="Get the file again.")
    shape = description.source.shape(TABLE)
    if len(shape) != 2:
        raise ModelFileError(f"`{TABLE}` has the shape {list(shape)}, not rows of token vectors", where=description.where, do=WITHOUT)
    return {"vocab_size": shape[0], "tie_word_embeddings": not description.has("output.weight"), "torch_dtype": "float32"}


def head_width(description: Description, free: bool = True) -> int:
    """Width of a head; where a family's class knows none but width / heads, another one is refused."""
    values = description.values
    heads = values.integer("attention.head_count")
    if free and "attention.key_length" in values:
        width = values.integer("attention.key_length")
    else:
        width = values.multiple("embedding_length", "attention.head_count") // heads
        description.only("attention.key_length", width)
    description.only("attention.value_length", width)
    return width


def rotary(description: Description, width: int, *, base: float = 10000.0, partial: bool = False) -> dict[str, Any]:
    """`rope_parameters` of a config.json.

    Args:
        description: the file's.
        width: of a head.
        base: theta where the file does not say.
        partial: whether the family may turn a part of each head only.
    """
    values = description.values
    out: dict[str, Any] = {"rope_type": "default", "rope_theta": values.positive("rope.freq_base", base)}
    dimensions = values.integer("rope.dimension_count", width)
    if partial and dimensions < width:
        share = dimensions / width
        while int(width * share) < dimensions:
            share = math.nextafter(share, 1.0)
        out["partial_rotary_factor"] = share
    else:
        description.only("rope.dimension_count", width)
    return out | scaling(description)


def scaling(description: Description) -> dict[str, Any]:
    """The part of `rope_parameters` that stretches the context."""
    values = description.values
    kind = values.choice("rope.scaling.type", ("none", "linear", "yarn", "longrope"), "linear")
    factor = values.number("rope.scaling.factor", None) or values.number("rope.scale_linear", None) or 1.0
    original = values.integer("rope.scaling.original_context_length", values.integer("context_length"))
    divisors = [name for name in (FREQUENCIES, LONG, SHORT) if description.has(name)]
    if divisors:
        if divisors not in ([FREQUENCIES], [LONG, SHORT]) or kind == "yarn" or (kind == "linear" and factor != 1):
            raise ModelFileError(
                f"`{'` and `'.join(divisors)}` beside `rope.scaling.type` {kind} and factor {factor:g}", where=description.where, do=WITHOUT
            )
        return {
            "rope_type": "longrope",
            "long_factor": description.divisors(divisors[0]),
            "short_factor": description.divisors(divisors[-1]),
            "original_max_position_embeddings": original,
            "attention_factor": values.positive("rope.scaling.attn_factor", 1.0),
        }
    if kind == "longrope":
        raise ModelFileError(f"longrope without `{LONG}` and `{SHORT}`", where=description.where, do=WITHOUT)
    description.only("rope.scaling.attn_factor", 1.0)
    if kind == "yarn":
        for key, neutral in (("yarn_ext_factor", 1.0), ("yarn_attn_factor", 1.0), ("yarn_log_multiplier", 0.0)):
            description.only(f"rope.scaling.{key}", neutral)
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
            "beta_fast": values.positive("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": values.positive("rope.scaling.yarn_beta_slow", 1.0),
        }
    if kind == "linear" and factor != 1:
        return {"rope_type": "linear", "factor": factor}
    return {}


def windowed(description: Description, period: int) -> list[bool]:
    """Which layers look back a window only: all but every `period`-th, unless the file gives another period or each layer's kind."""
    values, count = description.values, description.values.integer("block_count")
    given = values.values.get("attention.sliding_window_pattern", period)
    if isinstance(given, list):
        if len(given) != count or not all(item in (0, 1) for item in given):
            raise ModelFileError(
                f"`attention.sliding_window_pattern` does not say yes or no for each of {count} layers", where=values.where, do=WITHOUT
            )
        return [bool(item) for item in given]
    period = values.integer("attention.sliding_window_pattern", period)
    return [(index + 1) % period != 0 for index in range(count)]
