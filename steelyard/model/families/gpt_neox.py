"""GPT-NeoX (Pythia): mixer and channel in parallel, rotary over part of each head, layer norms (arXiv:2204.06745)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steelyard.model.channels.feed_forward import FeedForwardPlan
from steelyard.model.depth.stacked import BlockPlan, StackedPlan
from steelyard.model.families import gguf
from steelyard.model.families.config import Config
from steelyard.model.families.family import Entry, Family
from steelyard.model.families.gpt2 import QUERY_KEY_VALUE, query_key_value
from steelyard.model.families.renaming import Fused, renamed
from steelyard.model.heads.lm import LMHeadPlan
from steelyard.model.inputs.tokens import TokensPlan
from steelyard.model.mixers.attention import AttentionPlan
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan

NAMES = {
    "inputs": "embed_in",
    "norm": "final_layer_norm",
    "heads.lm.linear": "embed_out",
    "mixer_norm": "input_layernorm",
    "channel_norm": "post_attention_layernorm",
    "mixer.output": "attention.dense",
    "channel.up": "mlp.dense_h_to_4h",
    "channel.down": "mlp.dense_4h_to_h",
}


def plan(config: Config) -> TrunkPlan:
    """The trunk a GPT-NeoX config describes."""
    width, heads = config.multiple("hidden_size", "num_attention_heads"), config.integer("num_attention_heads")
    norm = NormPlan("layer", config.epsilon("layer_norm_eps", 1e-5), bias=True)
    bias = config.flag("attention_bias", True)
    share, base = config.positive("rotary_pct", 0.25), config.positive("rotary_emb_base", 10000.0)
    rotary = config.rotary(width // heads, base=base, share=share)
    attention = AttentionPlan(heads, heads, width // heads, bias, bias, rotary)
    channel = FeedForwardPlan(config.integer("intermediate_size"), config.activation("hidden_act", "gelu"))
    residual = "parallel" if config.flag("use_parallel_residual", True) else "sequential"
    block = BlockPlan(attention, channel, before=norm, residual=residual)
    vocabulary = config.integer("vocab_size")
    return TrunkPlan(
        width,
        TokensPlan(vocabulary),
        StackedPlan((block,) * config.integer("num_hidden_layers")),
        {"lm": LMHeadPlan(vocabulary, config.flag("tie_word_embeddings", False))},
        norm,
        config.integer("max_position_embeddings", 2048),
    )


def interleaved(block: BlockPlan):
    """Each head's query, key and value rows stand together."""
    attention: AttentionPlan = block.mixer  # type: ignore[assignment]

    def rows() -> list[Tensor]:
        index = torch.arange(3 * attention.heads * attention.head_width).view(attention.heads, 3, attention.head_width)
        return [index[:, part].reshape(-1) for part in range(3)]

    return rows


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a Hugging Face directory."""
    return renamed(trunk, NAMES, "layers.{}.", fused=(Fused("attention.query_key_value", QUERY_KEY_VALUE, interleaved),))


def gguf_config(description: gguf.Description) -> dict[str, Any]:
    """config.json's values out of a GGUF file."""
    values = description.values
    width = gguf.head_width(description, free=False)
    description.only("attention.head_count_kv", values.integer("attention.head_count"))
    rotary = gguf.rotary(description, width, partial=True)
    return {
        **gguf.sizes(description),
        "layer_norm_eps": values.epsilon("attention.layer_norm_epsilon", ...),
        "rope_parameters": {"partial_rotary_factor": 1.0} | rotary,
        "use_parallel_residual": values.flag("use_parallel_residual", True),
        "attention_bias": description.has("blk.0.attn_qkv.bias"),
    }


def gguf_entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a GGUF file, whose writers put all queries before all keys before all values."""
    return renamed(trunk, gguf.NAMES, gguf.BLOCK, fused=(Fused("attn_qkv", QUERY_KEY_VALUE, query_key_value),))


FAMILIES = (
    Family(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        plan,
        entries,
        prefixes=("gpt_neox.",),
        aliases={"lm_head.weight": "embed_out.weight"},
        gguf="gptneox",
        gguf_config=gguf_config,
        gguf_entries=gguf_entries,
        ignored=(r"layers\.\d+\.attention\.(masked_bias|bias|rotary_emb\.inv_freq)",),
    ),
)
