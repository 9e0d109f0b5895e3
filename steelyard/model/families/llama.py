"""Llama: RMS norms, rotary positions, grouped queries, SwiGLU (arXiv:2302.13971, arXiv:2407.21783). SmolLM2 is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from steelyard.model.channels.gated import GatedPlan
from steelyard.model.depth.stacked import BlockPlan, StackedPlan
from steelyard.model.families.config import Config
from steelyard.model.families.family import Entry, Family
from steelyard.model.heads.lm import LMHeadPlan
from steelyard.model.inputs.tokens import TokensPlan
from steelyard.model.mixers.attention import AttentionPlan
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan


def plan(config: Config) -> TrunkPlan:
    """The trunk a Llama config describes."""
    width, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    head_width = config.integer("head_dim", None) or width // heads
    norm = NormPlan("rms", config.number("rms_norm_eps", 1e-6))
    attention = AttentionPlan(
        heads,
        config.integer("num_key_value_heads", heads),
        head_width,
        bias=config.flag("attention_bias", False),
        output_bias=config.flag("attention_bias", False),
        rotary=config.rotary(head_width),
    )
    channel = GatedPlan(config.integer("intermediate_size"), str(config.values.get("hidden_act", "silu")), config.flag("mlp_bias", False))
    block = BlockPlan(attention, channel, before=norm)
    vocabulary = config.integer("vocab_size")
    return TrunkPlan(
        width,
        TokensPlan(vocabulary),
        StackedPlan((block,) * config.integer("num_hidden_layers")),
        {"lm": LMHeadPlan(vocabulary, tied=config.flag("tie_word_embeddings", False))},
        norm,
        config.integer("max_position_embeddings", 2048),
    )


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a Hugging Face directory."""
    out = [Entry("model.embed_tokens.weight", ("inputs.weight",)), Entry("model.norm.weight", ("norm.weight",))]
    if not trunk.heads["lm"].tied:  # type: ignore[union-attr]
        out.append(Entry("lm_head.weight", ("heads.lm.linear.weight",)))
    for index, block in enumerate(trunk.depth.blocks):
        theirs, ours = f"model.layers.{index}.", f"blocks.{index}."
        attention: AttentionPlan = block.mixer  # type: ignore[assignment]
        out += [
            Entry(theirs + "input_layernorm.weight", (ours + "mixer_norm.weight",)),
            Entry(theirs + "post_attention_layernorm.weight", (ours + "channel_norm.weight",)),
        ]
        maps = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
        out += linears(theirs + "self_attn.", ours + "mixer.", maps, attention.bias)
        out += linears(theirs + "self_attn.", ours + "mixer.", {"o_proj": "output"}, attention.output_bias)
        channel: GatedPlan = block.channel  # type: ignore[assignment]
        out += linears(theirs + "mlp.", ours + "channel.", {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}, channel.bias)
    return out


def linears(theirs: str, ours: str, names: Mapping[str, str], bias: bool) -> list[Entry]:
    """Weights, and biases where there are any, of maps that differ by name only."""
    kinds = ("weight", "bias") if bias else ("weight",)
    return [Entry(f"{theirs}{their}.{kind}", (f"{ours}{our}.{kind}",)) for their, our in names.items() for kind in kinds]


def gguf_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json a GGUF file's metadata amounts to."""
    prefix = "llama."
    width, heads = metadata[prefix + "embedding_length"], metadata[prefix + "attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.get(prefix + "attention.head_count_kv", heads),
        "head_dim": metadata.get(prefix + "attention.key_length", metadata.get(prefix + "rope.dimension_count", width // max(heads, 1))),
        "num_hidden_layers": metadata[prefix + "block_count"],
        "intermediate_size": metadata[prefix + "feed_forward_length"],
        "rms_norm_eps": metadata[prefix + "attention.layer_norm_rms_epsilon"],
        "rope_theta": metadata.get(prefix + "rope.freq_base", 10000.0),
        "max_position_embeddings": metadata[prefix + "context_length"],
        "hidden_act": "silu",
    }


def gguf_entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a GGUF file. Its writers pair neighbouring dimensions of queries and keys for rotation; we pair halves."""
    out = [Entry("token_embd.weight", ("inputs.weight",)), Entry("output_norm.weight", ("norm.weight",))]
    if not trunk.heads["lm"].tied:  # type: ignore[union-attr]
        out.append(Entry("output.weight", ("heads.lm.linear.weight",)))
    for index, block in enumerate(trunk.depth.blocks):
        theirs, ours = f"blk.{index}.", f"blocks.{index}."
        attention: AttentionPlan = block.mixer  # type: ignore[assignment]
        out += [
            Entry(theirs + "attn_norm.weight", (ours + "mixer_norm.weight",)),
            Entry(theirs + "ffn_norm.weight", (ours + "channel_norm.weight",)),
            Entry(theirs + "attn_q.weight", (ours + "mixer.query.weight",), halves_from_pairs(attention.heads, attention.head_width)),
            Entry(theirs + "attn_k.weight", (ours + "mixer.key.weight",), halves_from_pairs(attention.key_value_heads, attention.head_width)),
        ]
        out += linears(theirs, ours + "mixer.", {"attn_v": "value", "attn_output": "output"}, False)
        out += linears(theirs, ours + "channel.", {"ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down"}, False)
    return out


def halves_from_pairs(heads: int, head_width: int):
    """Row order that turns neighbouring rotary pairs (0,1),(2,3),... into halves (0,2,...),(1,3,...) within each head."""

    def rows() -> list[Tensor]:
        within = torch.arange(head_width).view(-1, 2).t().reshape(-1)
        return [(torch.arange(heads)[:, None] * head_width + within).reshape(-1)]

    return rows


FAMILIES = (
    Family("llama", "LlamaForCausalLM", plan, entries, gguf="llama", gguf_config=gguf_config, gguf_entries=gguf_entries),
)
