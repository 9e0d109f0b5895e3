"""Qwen 2 and 3: Llama with biases on queries, keys and values (Qwen 2, arXiv:2407.10671), or with normalised queries and keys
(Qwen 3, arXiv:2505.09388). Upper layers may use a sliding window."""

from __future__ import annotations

from typing import Any

from steelyard.model.depth.stacked import BlockPlan
from steelyard.model.families import gguf, llama
from steelyard.model.families.config import Config
from steelyard.model.families.family import Family
from steelyard.model.families.gemma import FULL, WINDOWED
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan

DEFAULTS = {"num_key_value_heads": 32, "sliding_window": 4096, "max_position_embeddings": 32768}


def windows(config: Config) -> list[int | None]:
    """The sliding window of each layer: `layer_types` says where, or all layers from `max_window_layers` on."""
    count = config.integer("num_hidden_layers")
    window = config.integer("sliding_window", None) if config.flag("use_sliding_window", False) else None
    first = config.number("max_window_layers", 28)
    default = [WINDOWED if window is not None and index >= first else FULL for index in range(count)]
    types = config.words("layer_types", count, default, (WINDOWED, FULL))
    return [window if kind == WINDOWED else None for kind in types]


def plan2(config: Config) -> TrunkPlan:
    """The trunk a Qwen 2 config describes."""
    config = config.with_defaults(**DEFAULTS)
    norm = NormPlan("rms", config.epsilon("rms_norm_eps", 1e-6))
    blocks = tuple(
        BlockPlan(llama.attention(config, bias=True, output_bias=False, window=window), llama.gated(config), before=norm)
        for window in windows(config)
    )
    return llama.decoder(config, blocks, norm)


def plan3(config: Config) -> TrunkPlan:
    """The trunk a Qwen 3 config describes."""
    config = config.with_defaults(**DEFAULTS)
    norm = NormPlan("rms", config.epsilon("rms_norm_eps", 1e-6))
    blocks = tuple(
        BlockPlan(
            llama.attention(config, window=window, query_key_norm="head", norm=norm, head_width=config.integer("head_dim", 128)),
            llama.gated(config),
            before=norm,
        )
        for window in windows(config)
    )
    return llama.decoder(config, blocks, norm)


def gguf_config2(description: gguf.Description) -> dict[str, Any]:
    """config.json's values out of a GGUF file; none of them has windows."""
    width = gguf.head_width(description, free=False)
    return {
        **gguf.sizes(description),
        "rms_norm_eps": description.values.epsilon("attention.layer_norm_rms_epsilon", ...),
        "rope_parameters": gguf.rotary(description, width),
    }


def gguf_config3(description: gguf.Description) -> dict[str, Any]:
    """The same for Qwen 3, whose heads have a width of their own."""
    width = gguf.head_width(description)
    return {
        **gguf.sizes(description),
        "head_dim": width,
        "rms_norm_eps": description.values.epsilon("attention.layer_norm_rms_epsilon", ...),
        "rope_parameters": gguf.rotary(description, width),
        "attention_bias": description.has("blk.0.attn_q.bias"),
    }


FAMILIES = (
    Family(
        "qwen2",
        "Qwen2ForCausalLM",
        plan2,
        llama.entries,
        ignored=llama.IGNORED,
        gguf="qwen2",
        gguf_config=gguf_config2,
        gguf_entries=llama.gguf_entries_unpermuted,
    ),
    Family(
        "qwen3",
        "Qwen3ForCausalLM",
        plan3,
        llama.entries,
        ignored=llama.IGNORED,
        gguf="qwen3",
        gguf_config=gguf_config3,
        gguf_entries=llama.gguf_entries_unpermuted,
    ),
)
