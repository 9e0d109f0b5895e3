"""OLMo 2: norms only after each part, queries and keys normalised over their full width (arXiv:2501.00656)."""

from __future__ import annotations

from typing import Any

from steelyard.model.depth.stacked import BlockPlan
from steelyard.model.families import gguf, llama
from steelyard.model.families.config import Config
from steelyard.model.families.family import Entry, Family
from steelyard.model.families.renaming import renamed
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan

NAMES = llama.NAMES | {"mixer_after": "post_attention_layernorm", "channel_after": "post_feedforward_layernorm"}


def plan(config: Config) -> TrunkPlan:
    """The trunk an OLMo 2 config describes."""
    norm = NormPlan("rms", config.epsilon("rms_norm_eps", 1e-5))
    attention = llama.attention(config, query_key_norm="full", norm=norm)
    block = BlockPlan(attention, llama.gated(config), before=None, after=norm)
    return llama.decoder(config, (block,) * config.integer("num_hidden_layers"), norm)


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a Hugging Face directory."""
    return renamed(trunk, NAMES, llama.BLOCK)


def gguf_config(description: gguf.Description) -> dict[str, Any]:
    """config.json's values out of a GGUF file. OLMo 3 files bear the same architecture's name, but have windows."""
    description.only("attention.sliding_window", 0)
    width = gguf.head_width(description, free=False)
    return {
        **gguf.sizes(description),
        "rms_norm_eps": description.values.epsilon("attention.layer_norm_rms_epsilon", ...),
        "rope_parameters": gguf.rotary(description, width),
        "attention_bias": description.has("blk.0.attn_q.bias"),
    }


FAMILIES = (
    Family(
        "olmo2",
        "Olmo2ForCausalLM",
        plan,
        entries,
        ignored=llama.IGNORED,
        gguf="olmo2",
        gguf_config=gguf_config,
        gguf_entries=llama.gguf_entries_unpermuted,
    ),
)
