"""Llama: RMS norms, rotary positions, grouped queries, SwiGLU (arXiv:2302.13971, arXiv:2407.21783). SmolLM2 is one.

Most later families vary it, so its pieces take what they vary: `decoder` the norms and blocks, `attention` its plan, `NAMES` the names.
"""

from __future__ import annotations

from typing import Any

from steelyard.model.channels.gated import GatedPlan
from steelyard.model.depth.stacked import BlockPlan, StackedPlan
from steelyard.model.families import gguf
from steelyard.model.families.config import Config
from steelyard.model.families.family import Entry, Family
from steelyard.model.families.renaming import halves_from_pairs, renamed
from steelyard.model.heads.lm import LMHeadPlan
from steelyard.model.inputs.tokens import TokensPlan
from steelyard.model.mixers.attention import AttentionPlan
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan

BLOCK = "model.layers.{}."
NAMES = {
    "inputs": "model.embed_tokens",
    "norm": "model.norm",
    "heads.lm.linear": "lm_head",
    "mixer_norm": "input_layernorm",
    "channel_norm": "post_attention_layernorm",
    "mixer.query": "self_attn.q_proj",
    "mixer.key": "self_attn.k_proj",
    "mixer.value": "self_attn.v_proj",
    "mixer.output": "self_attn.o_proj",
    "mixer.query_norm": "self_attn.q_norm",
    "mixer.key_norm": "self_attn.k_norm",
    "channel.gate": "mlp.gate_proj",
    "channel.up": "mlp.up_proj",
    "channel.down": "mlp.down_proj",
}
IGNORED = (r".*rotary_emb\.inv_freq",)


def attention(config: Config, **changes: Any) -> AttentionPlan:
    """The attention a Llama-like config describes; families say what they change."""
    heads = (
        config.multiple("num_attention_heads", "num_key_value_heads")
        if "num_key_value_heads" in config
        else config.integer("num_attention_heads")
    )
    width = changes.pop("head_width", None) or config.integer("head_dim", None)
    width = width or config.multiple("hidden_size", "num_attention_heads") // heads
    settings: dict[str, Any] = {"bias": config.flag("attention_bias", False), "output_bias": config.flag("attention_bias", False)}
    if "rotary" not in changes:
        settings["rotary"] = config.rotary(width)
    return AttentionPlan(heads, config.integer("num_key_value_heads", heads), width, **settings | changes)


def gated(config: Config, activation: str = "hidden_act") -> GatedPlan:
    """The gated channel of a Llama-like config."""
    return GatedPlan(config.integer("intermediate_size"), config.activation(activation, "silu"), config.flag("mlp_bias", False))


def decoder(
    config: Config, blocks: tuple[BlockPlan, ...], norm: NormPlan, *, tied: bool = False, scale: float = 1.0, softcap: float | None = None
) -> TrunkPlan:
    """A trunk from its blocks. `tied` is what a config that does not say means."""
    vocabulary = config.integer("vocab_size")
    return TrunkPlan(
        config.integer("hidden_size"),
        TokensPlan(vocabulary, scale),
        StackedPlan(blocks),
        {"lm": LMHeadPlan(vocabulary, config.flag("tie_word_embeddings", tied), softcap)},
        norm,
        config.integer("max_position_embeddings", 2048),
    )


def plan(config: Config) -> TrunkPlan:
    """The trunk a Llama config describes."""
    norm = NormPlan("rms", config.epsilon("rms_norm_eps", 1e-6))
    block = BlockPlan(attention(config), gated(config), before=norm)
    return decoder(config, (block,) * config.integer("num_hidden_layers"), norm)


def described(trunk: TrunkPlan, channel: type) -> dict[str, Any] | None:
    """What a Llama-like config.json would say of a trunk made here, whose channels are of a kind that has `hidden` and `activation`; None
    where its blocks are of another kind. Families add what is theirs."""
    block = trunk.depth.blocks[0] if isinstance(trunk.depth, StackedPlan) else None
    if block is None or not isinstance(block.mixer, AttentionPlan) or not isinstance(block.channel, channel) or trunk.norm is None:
        return None
    if block.mixer.rotary is None or not isinstance(head := trunk.heads["lm"], LMHeadPlan):
        return None
    return {
        "hidden_size": trunk.width,
        "num_hidden_layers": len(trunk.depth.blocks),
        "num_attention_heads": block.mixer.heads,
        "num_key_value_heads": block.mixer.key_value_heads,
        "head_dim": block.mixer.head_width,
        "intermediate_size": block.channel.hidden,  # type: ignore[union-attr]
        "hidden_act": block.channel.activation,  # type: ignore[union-attr]
        "rms_norm_eps": trunk.norm.epsilon,
        "rope_theta": block.mixer.rotary.base,
        "vocab_size": trunk.inputs.vocabulary,
        "max_position_embeddings": trunk.context,
        "tie_word_embeddings": head.tied,
    }


def describe(trunk: TrunkPlan) -> dict[str, Any] | None:
    """config.json of a trunk made here, if it is a Llama."""
    return described(trunk, GatedPlan)


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a Hugging Face directory."""
    return renamed(trunk, NAMES, BLOCK)


def gguf_config(description: gguf.Description) -> dict[str, Any]:
    """config.json's values out of a GGUF file."""
    width = gguf.head_width(description)
    return {
        **gguf.sizes(description),
        "head_dim": width,
        "rms_norm_eps": description.values.epsilon("attention.layer_norm_rms_epsilon", ...),
        "rope_parameters": gguf.rotary(description, width),
        "attention_bias": description.has("blk.0.attn_q.bias"),
        "mlp_bias": description.has("blk.0.ffn_up.bias"),
    }


def gguf_entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a GGUF file. Its writers pair neighbouring dimensions of queries and keys for rotation; we pair halves."""
    permuted = {
        "mixer.query": lambda block: halves_from_pairs(block.mixer.heads, block.mixer.head_width),
        "mixer.key": lambda block: halves_from_pairs(block.mixer.key_value_heads, block.mixer.head_width),
    }
    return renamed(trunk, gguf.NAMES, gguf.BLOCK, permuted=permuted)


def gguf_entries_unpermuted(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a GGUF file of the later families, whose writers leave the rows of queries and keys alone."""
    return renamed(trunk, gguf.NAMES, gguf.BLOCK)


FAMILIES = (
    Family(
        "llama",
        "LlamaForCausalLM",
        plan,
        entries,
        ignored=IGNORED,
        describe=describe,
        gguf="llama",
        gguf_config=gguf_config,
        gguf_entries=gguf_entries,
        gguf_ignored=gguf.SETTINGS,
    ),
)
