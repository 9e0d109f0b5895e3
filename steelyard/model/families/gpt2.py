"""GPT-2: learned positions, layer norms, GELU, biases everywhere, matrices kept [in, out] (Radford et al., 2019)."""

from __future__ import annotations

from typing import Any

from steelyard.model.channels.feed_forward import FeedForwardPlan
from steelyard.model.depth.stacked import BlockPlan, StackedPlan
from steelyard.model.families import gguf
from steelyard.model.families.config import Config
from steelyard.model.families.family import Entry, Family
from steelyard.model.families.renaming import Fused, renamed, stacked_rows
from steelyard.model.heads.lm import LMHeadPlan
from steelyard.model.inputs.tokens import TokensPlan
from steelyard.model.mixers.attention import AttentionPlan
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan

NAMES = {
    "inputs": "wte",
    "inputs.positions": "wpe.weight",
    "norm": "ln_f",
    "mixer_norm": "ln_1",
    "channel_norm": "ln_2",
    "mixer.output": "attn.c_proj",
    "channel.up": "mlp.c_fc",
    "channel.down": "mlp.c_proj",
    "heads.lm.linear": "lm_head",
}
QUERY_KEY_VALUE = ("mixer.query", "mixer.key", "mixer.value")


def plan(config: Config) -> TrunkPlan:
    """The trunk a GPT-2 config describes."""
    config.never("add_cross_attention", "there is no encoder to attend to")
    width, heads, positions = config.multiple("n_embd", "n_head"), config.integer("n_head"), config.integer("n_positions", 1024)
    norm = NormPlan("layer", config.epsilon("layer_norm_epsilon", 1e-5), bias=True)
    channel = FeedForwardPlan(config.integer("n_inner", 4 * width), config.activation("activation_function", "gelu_new"))
    base = (width // heads) ** -0.5 if config.flag("scale_attn_weights", True) else 1.0
    by_layer = config.flag("scale_attn_by_inverse_layer_idx", False)
    blocks = tuple(
        BlockPlan(
            AttentionPlan(heads, heads, width // heads, True, True, scale=base / (index + 1) if by_layer else base), channel, before=norm
        )
        for index in range(config.integer("n_layer"))
    )
    vocabulary = config.integer("vocab_size")
    return TrunkPlan(
        width,
        TokensPlan(vocabulary, positions=positions),
        StackedPlan(blocks),
        {"lm": LMHeadPlan(vocabulary, config.flag("tie_word_embeddings", True))},
        norm,
        positions,
    )


def query_key_value(block: BlockPlan):
    """Queries, keys and values, one after the other."""
    attention: AttentionPlan = block.mixer  # type: ignore[assignment]
    width = attention.heads * attention.head_width
    return stacked_rows(width, width, width)


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a Hugging Face directory."""
    fused = (Fused("attn.c_attn", QUERY_KEY_VALUE, query_key_value),)
    return renamed(trunk, NAMES, "h.{}.", fused=fused, transposed=("attn.c_attn", "mixer.output", "channel.up", "channel.down"))


def gguf_config(description: gguf.Description) -> dict[str, Any]:
    """config.json's values out of a GGUF file."""
    values = description.values
    gguf.head_width(description, free=False)
    heads = values.integer("attention.head_count")
    description.only("attention.head_count_kv", heads)
    return {
        "n_embd": values.integer("embedding_length"),
        "n_head": heads,
        "n_layer": values.integer("block_count"),
        "n_inner": values.integer("feed_forward_length"),
        "n_positions": values.integer("context_length"),
        "layer_norm_epsilon": values.epsilon("attention.layer_norm_epsilon", ...),
        **gguf.tokens(description),
    }


def gguf_entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a GGUF file: fused as in the directory, but kept [out, in]."""
    return renamed(trunk, gguf.NAMES, gguf.BLOCK, fused=(Fused("attn_qkv", QUERY_KEY_VALUE, query_key_value),))


FAMILIES = (
    Family(
        "gpt2",
        "GPT2LMHeadModel",
        plan,
        entries,
        prefixes=("transformer.",),
        ignored=(r"h\.\d+\.attn\.(masked_)?bias",),
        gguf="gpt2",
        gguf_config=gguf_config,
        gguf_entries=gguf_entries,
    ),
)
