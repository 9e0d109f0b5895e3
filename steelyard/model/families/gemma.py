"""Gemma 1-3: scaled token vectors, norms stored as weight - 1, GeGLU, tied head (arXiv:2403.08295).

Gemma 2 (arXiv:2408.00118) adds norms after each part, soft caps, and windows in every other layer; Gemma 3 (arXiv:2503.19786)
normalises queries and keys, and has five windowed layers with their own rotary base for each full one.
"""

from __future__ import annotations

import math
from typing import Any

from steelyard.model.channels.gated import GatedPlan
from steelyard.model.depth.stacked import BlockPlan
from steelyard.model.families import gguf, llama
from steelyard.model.families.config import Config
from steelyard.model.families.family import Entry, Family
from steelyard.model.families.renaming import renamed
from steelyard.model.mixers.attention import AttentionPlan
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan

NAMES = llama.NAMES | {
    "mixer_after": "post_attention_layernorm",
    "channel_norm": "pre_feedforward_layernorm",
    "channel_after": "post_feedforward_layernorm",
}
TANH = "gelu_pytorch_tanh"
WINDOWED, FULL = "sliding_attention", "full_attention"
LAYERS_27B = {2: 46, 3: 62}
BIDIRECTIONAL = "attention to later tokens is not built for this family"


def norm_of(config: Config) -> NormPlan:
    return NormPlan("rms", config.epsilon("rms_norm_eps", 1e-6), offset=1.0)


def trunk_of(config: Config, attentions: list[AttentionPlan], activation: str, after: bool) -> TrunkPlan:
    """What the three have in common."""
    config.never("use_bidirectional_attention", BIDIRECTIONAL)
    norm, channel = norm_of(config), GatedPlan(config.integer("intermediate_size"), activation)
    blocks = tuple(BlockPlan(attention, channel, before=norm, after=norm if after else None) for attention in attentions)
    scale, cap = math.sqrt(config.integer("hidden_size")), config.positive("final_logit_softcapping", None)
    return llama.decoder(config, blocks, norm, tied=True, scale=scale, softcap=cap)


def plan1(config: Config) -> TrunkPlan:
    """The trunk a Gemma config describes."""
    config = config.with_defaults(num_key_value_heads=16, max_position_embeddings=8192)
    attention = llama.attention(config, head_width=config.integer("head_dim", 256))
    activation = config.activation("hidden_act", TANH)
    # The first configs said `gelu` and meant its approximation.
    activation = TANH if activation == "gelu" else activation
    return trunk_of(config, [attention] * config.integer("num_hidden_layers"), activation, after=False)


def plan2(config: Config) -> TrunkPlan:
    """The trunk a Gemma 2 config describes: windows in layers 0, 2, 4, ..."""
    config = config.with_defaults(
        num_key_value_heads=4, max_position_embeddings=8192, attn_logit_softcapping=50.0, final_logit_softcapping=30.0
    )
    count = config.integer("num_hidden_layers")
    default = [WINDOWED if index % 2 == 0 else FULL for index in range(count)]
    window, width = config.integer("sliding_window", 4096), config.integer("head_dim", 256)
    return trunk_of(
        config,
        [
            llama.attention(
                config,
                head_width=width,
                rotary=config.rotary(width),
                window=window if kind == WINDOWED else None,
                scale=config.positive("query_pre_attn_scalar", 256.0) ** -0.5,
                softcap=config.positive("attn_logit_softcapping", None),
            )
            for kind in config.words("layer_types", count, default, (WINDOWED, FULL))
        ],
        config.activation("hidden_activation", TANH),
        after=True,
    )


def plan3(config: Config) -> TrunkPlan:
    """The trunk a Gemma 3 text config describes: every sixth layer sees everything, at a longer rotary base."""
    config = config.with_defaults(num_key_value_heads=4, max_position_embeddings=131072)
    count, pattern = config.integer("num_hidden_layers"), config.integer("sliding_window_pattern", 6)
    default = [WINDOWED if (index + 1) % pattern else FULL for index in range(count)]
    window, width = config.integer("sliding_window", 4096), config.integer("head_dim", 256)
    attentions = []
    for kind in config.words("layer_types", count, default, (WINDOWED, FULL)):
        local = kind == WINDOWED
        attentions.append(
            llama.attention(
                config,
                head_width=width,
                rotary=local_rotary(config, width) if local else config.rotary(width, base=1_000_000.0, kind=FULL),
                window=window if local else None,
                scale=config.positive("query_pre_attn_scalar", 256.0) ** -0.5,
                softcap=config.positive("attn_logit_softcapping", None),
                query_key_norm="head",
                norm=norm_of(config),
            )
        )
    return trunk_of(config, attentions, config.activation("hidden_activation", TANH), after=True)


def local_rotary(config: Config, width: int):
    """Windowed layers: their own base and never a scaling. Older configs say `rope_local_base_freq`."""
    if config.mapping("rope_parameters"):
        return config.rotary(width, kind=WINDOWED)
    plain = {"rope_theta": config.positive("rope_local_base_freq", 10000.0)}
    return Config(plain, config.where).rotary(width)


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a Gemma 2 or 3 directory."""
    return renamed(trunk, NAMES, llama.BLOCK)


def gguf_config1(description: gguf.Description) -> dict[str, Any]:
    """config.json's values out of a GGUF file."""
    width = gguf.head_width(description)
    return {
        **gguf.sizes(description),
        "head_dim": width,
        "rms_norm_eps": description.values.epsilon("attention.layer_norm_rms_epsilon", ...),
        "rope_parameters": gguf.rotary(description, width),
    }


def gguf_config2(description: gguf.Description) -> dict[str, Any]:
    """The same for Gemma 2."""
    values = description.values
    return (
        gguf_config1(description)
        | {"query_pre_attn_scalar": query_scalar(description, LAYERS_27B[2]), "layer_types": layer_types(description, 2)}
        | {
            "sliding_window": values.integer("attention.sliding_window", 4096),
            "attn_logit_softcapping": values.positive("attn_logit_softcapping", 50.0),
            "final_logit_softcapping": values.positive("final_logit_softcapping", 30.0),
        }
    )


def gguf_config3(description: gguf.Description) -> dict[str, Any]:
    """The same for Gemma 3, whose windowed layers have a rotary base of their own and no scaling."""
    values = description.values
    config = gguf_config1(description)
    wide = config["rope_parameters"] | {"rope_theta": values.positive("rope.freq_base", 1_000_000.0)}
    near = {"rope_type": "default", "rope_theta": values.positive("rope.freq_base_swa", 10000.0)}
    return config | {
        "query_pre_attn_scalar": query_scalar(description, LAYERS_27B[3]),
        "layer_types": layer_types(description, 6),
        "sliding_window": values.integer("attention.sliding_window", 4096),
        "final_logit_softcapping": values.positive("final_logit_softcapping", None),
        "rope_parameters": {FULL: wide, WINDOWED: near},
    }


def query_scalar(description: gguf.Description, layers_27b: int) -> int:
    """What scores are divided by the root of: the files do not say, and only the 27B models, known by their depth, differ."""
    values = description.values
    if values.integer("block_count") == layers_27b:
        return values.integer("embedding_length") // values.integer("attention.head_count")
    return gguf.head_width(description)


def layer_types(description: gguf.Description, period: int) -> list[str]:
    return [WINDOWED if windowed else FULL for windowed in gguf.windowed(description, period)]


def gguf_entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a GGUF file, which keeps norms as they are used."""
    return renamed(trunk, gguf.NAMES, gguf.BLOCK, whole_norms=True)


FAMILIES = tuple(
    Family(
        name,
        architecture,
        plan,
        names,
        ignored=llama.IGNORED,
        gguf=in_gguf,
        gguf_config=gguf_config,
        gguf_entries=gguf_entries,
    )
    for name, architecture, plan, names, in_gguf, gguf_config in (
        ("gemma", "GemmaForCausalLM", plan1, llama.entries, "gemma", gguf_config1),
        ("gemma2", "Gemma2ForCausalLM", plan2, entries, "gemma2", gguf_config2),
        ("gemma3_text", "Gemma3ForCausalLM", plan3, entries, "gemma3", gguf_config3),
    )
)
