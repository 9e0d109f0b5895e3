"""Phi-3: Llama with fused maps, a sliding window, rotary over part of each head, and longrope (arXiv:2404.14219)."""

from __future__ import annotations

from typing import Any

from steelyard.model.channels.gated import GatedPlan
from steelyard.model.depth.stacked import BlockPlan
from steelyard.model.families import gguf, llama
from steelyard.model.families.config import Config
from steelyard.model.families.family import Entry, Family
from steelyard.model.families.gpt2 import QUERY_KEY_VALUE
from steelyard.model.families.renaming import Fused, renamed, stacked_rows
from steelyard.model.mixers.attention import AttentionPlan
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan


def plan(config: Config) -> TrunkPlan:
    """The trunk a Phi-3 config describes."""
    config = config.with_defaults(max_position_embeddings=4096, original_max_position_embeddings=4096)
    norm = NormPlan("rms", config.epsilon("rms_norm_eps", 1e-5))
    width = config.multiple("hidden_size", "num_attention_heads") // config.integer("num_attention_heads")
    attention = llama.attention(
        config,
        head_width=width,
        bias=False,
        output_bias=False,
        rotary=config.rotary(width, share=1.0),
        window=config.integer("sliding_window", None),
    )
    block = BlockPlan(attention, llama.gated(config), before=norm)
    return llama.decoder(config, (block,) * config.integer("num_hidden_layers"), norm)


def query_key_value(block: BlockPlan):
    """Queries, keys and values, one after the other; keys and values may have fewer heads."""
    attention: AttentionPlan = block.mixer  # type: ignore[assignment]
    shared = attention.key_value_heads * attention.head_width
    return stacked_rows(attention.heads * attention.head_width, shared, shared)


def gate_up(block: BlockPlan):
    channel: GatedPlan = block.channel  # type: ignore[assignment]
    return stacked_rows(channel.hidden, channel.hidden)


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a Hugging Face directory."""
    fused = (
        Fused("self_attn.qkv_proj", QUERY_KEY_VALUE, query_key_value),
        Fused("mlp.gate_up_proj", ("channel.gate", "channel.up"), gate_up),
    )
    return renamed(trunk, llama.NAMES, llama.BLOCK, fused=fused)


def gguf_config(description: gguf.Description) -> dict[str, Any]:
    """config.json's values out of a GGUF file; a window of 0 is none."""
    values = description.values
    width = gguf.head_width(description, free=False)
    window = values.values.get("attention.sliding_window", 0)
    return {
        **gguf.sizes(description),
        "rms_norm_eps": values.epsilon("attention.layer_norm_rms_epsilon", ...),
        "rope_parameters": gguf.rotary(description, width, partial=True),
        "original_max_position_embeddings": values.integer("rope.scaling.original_context_length", values.integer("context_length")),
        "sliding_window": None if window == 0 else values.integer("attention.sliding_window"),
    }


def gguf_entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a GGUF file: fused as in the directory, the gate before the rest of `ffn_up`."""
    fused = (Fused("attn_qkv", QUERY_KEY_VALUE, query_key_value), Fused("ffn_up", ("channel.gate", "channel.up"), gate_up))
    return renamed(trunk, gguf.NAMES, gguf.BLOCK, fused=fused)


FAMILIES = (
    Family(
        "phi3",
        "Phi3ForCausalLM",
        plan,
        entries,
        ignored=llama.IGNORED,
        gguf="phi3",
        gguf_config=gguf_config,
        gguf_entries=gguf_entries,
        gguf_ignored=gguf.SETTINGS,
    ),
)
