"""Mistral: Llama with a sliding window in every layer (arXiv:2310.06825)."""

from __future__ import annotations

from steelyard.model.depth.stacked import BlockPlan
from steelyard.model.families import llama
from steelyard.model.families.config import Config
from steelyard.model.families.family import Family
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan


def plan(config: Config) -> TrunkPlan:
    """The trunk a Mistral config describes."""
    config = config.with_defaults(num_key_value_heads=8, sliding_window=4096, max_position_embeddings=131072)
    norm = NormPlan("rms", config.epsilon("rms_norm_eps", 1e-6))
    attention = llama.attention(config, bias=False, output_bias=False, window=config.integer("sliding_window", None))
    block = BlockPlan(attention, llama.gated(config), before=norm)
    return llama.decoder(config, (block,) * config.integer("num_hidden_layers"), norm)


FAMILIES = (Family("mistral", "MistralForCausalLM", plan, llama.entries, ignored=llama.IGNORED),)
