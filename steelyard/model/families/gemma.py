"""Gemma 1-3: scaled token vectors, norms stored as weight - 1, GeGLU, tied head (arXiv:2403.08295).

Gemma 2 (arXiv:2408.00118) adds norms after each part, soft caps, and windows in every other layer; Gemma 3 (arXiv:2503.19786)
normalises queries and keys, and has five windowed layers with their own rotary base for each full one.
"""

from __future__ import annotations

import math

from steelyard.model.channels.gated import GatedPlan
from steelyard.model.depth.stacked import BlockPlan
from steelyard.model.families import llama
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
WINDOWED = "sliding_attention"


def norm_of(config: Config) -> NormPlan:
    return NormPlan("rms", config.number("rms_norm_eps", 1e-6), offset=1.0)


def channel_of(config: Config) -> GatedPlan:
    key = "hidden_activation" if "hidden_activation" in config else "hidden_act"
    return GatedPlan(config.integer("intermediate_size"), config.activation(key, "gelu_pytorch_tanh"))


def trunk_of(config: Config, attentions: list[AttentionPlan], after: bool) -> TrunkPlan:
    """What the three have in common."""
    norm = norm_of(config)
    blocks = tuple(BlockPlan(attention, channel_of(config), before=norm, after=norm if after else None) for attention in attentions)
    scale, cap = math.sqrt(config.integer("hidden_size")), config.number("final_logit_softcapping", None)
    return llama.decoder(config, blocks, norm, tied=True, scale=scale, softcap=cap)


def plan1(config: Config) -> TrunkPlan:
    """The trunk a Gemma config describes."""
    attention = llama.attention(config, head_width=config.integer("head_dim", 256))
    return trunk_of(config, [attention] * config.integer("num_hidden_layers"), after=False)


def plan2(config: Config) -> TrunkPlan:
    """The trunk a Gemma 2 config describes: windows in layers 0, 2, 4, ..."""
    count = config.integer("num_hidden_layers")
    default = [WINDOWED if index % 2 == 0 else "full_attention" for index in range(count)]
    window, width = config.integer("sliding_window", 4096), config.integer("head_dim", 256)
    return trunk_of(
        config,
        [
            llama.attention(
                config,
                head_width=width,
                rotary=config.rotary(width),
                window=window if kind == WINDOWED else None,
                scale=config.number("query_pre_attn_scalar", 256.0) ** -0.5,
                softcap=config.number("attn_logit_softcapping", None),
            )
            for kind in config.words("layer_types", count, default)
        ],
        after=True,
    )


def plan3(config: Config) -> TrunkPlan:
    """The trunk a Gemma 3 text config describes: every sixth layer sees everything, at a longer rotary base."""
    count, pattern = (
        config.integer("num_hidden_layers"),
        config.integer("sliding_window_pattern", config.integer("_sliding_window_pattern", 6)),
    )
    default = [WINDOWED if (index + 1) % pattern else "full_attention" for index in range(count)]
    window, width = config.integer("sliding_window", 4096), config.integer("head_dim", 256)
    attentions = []
    for kind in config.words("layer_types", count, default):
        local = kind == WINDOWED
        attentions.append(
            llama.attention(
                config,
                head_width=width,
                rotary=local_rotary(config, width) if local else config.rotary(width, base=1_000_000.0, kind="full_attention"),
                window=window if local else None,
                scale=config.number("query_pre_attn_scalar", 256.0) ** -0.5,
                softcap=config.number("attn_logit_softcapping", None),
                query_key_norm="head",
                norm=norm_of(config),
            )
        )
    return trunk_of(config, attentions, after=True)


def local_rotary(config: Config, width: int):
    """Windowed layers: their own base and never a scaling. Older configs say `rope_local_base_freq`."""
    if config.mapping("rope_parameters"):
        return config.rotary(width, kind=WINDOWED)
    plain = {"rope_theta": config.number("rope_local_base_freq", 10000.0)}
    return Config(plain, config.where).rotary(width)


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a Gemma 2 or 3 directory."""
    return renamed(trunk, NAMES, llama.BLOCK)


FAMILIES = (
    Family("gemma", "GemmaForCausalLM", plan1, llama.entries, ignored=llama.IGNORED),
    Family("gemma2", "Gemma2ForCausalLM", plan2, entries, ignored=llama.IGNORED),
    Family("gemma3_text", "Gemma3ForCausalLM", plan3, entries, ignored=llama.IGNORED),
)
