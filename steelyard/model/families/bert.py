"""BERT encoders (MiniLM): every token sees every other, norms after the sums, one vector per text (arXiv:1810.04805)."""

from __future__ import annotations

from typing import Any

from steelyard.core.errors import UnsupportedError
from steelyard.model.channels.feed_forward import FeedForwardPlan
from steelyard.model.depth.stacked import BlockPlan, StackedPlan
from steelyard.model.families import gguf
from steelyard.model.families.config import Config
from steelyard.model.families.family import Entry, Family
from steelyard.model.families.renaming import renamed
from steelyard.model.files.sentence_directory import KEY
from steelyard.model.heads.pool import PoolPlan
from steelyard.model.inputs.tokens import TokensPlan
from steelyard.model.mixers.attention import AttentionPlan
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan

NAMES = {
    "inputs": "embeddings.word_embeddings",
    "inputs.positions": "embeddings.position_embeddings.weight",
    "inputs.types": "embeddings.token_type_embeddings.weight",
    "inputs.norm": "embeddings.LayerNorm",
    "mixer.query": "attention.self.query",
    "mixer.key": "attention.self.key",
    "mixer.value": "attention.self.value",
    "mixer.output": "attention.output.dense",
    "mixer_norm": "attention.output.LayerNorm",
    "channel.up": "intermediate.dense",
    "channel.down": "output.dense",
    "channel_norm": "output.LayerNorm",
}

GGUF_NAMES = gguf.NAMES | {
    "inputs.types": "token_types.weight",
    "inputs.norm": "token_embd_norm",
    "mixer_norm": "attn_output_norm",
    "channel_norm": "layer_output_norm",
}
TYPES = GGUF_NAMES["inputs.types"]
GGUF_POOLING = {1: "mean", 2: "first", 3: "last"}


def plan(config: Config) -> TrunkPlan:
    """The trunk a BERT config describes, with what a sentence-transformers directory says beside it."""
    config.never("is_decoder", "a BERT that sees only earlier tokens is not built here")
    config.never("add_cross_attention", "there is no encoder to attend to")
    config.choice("position_embedding_type", ("absolute",), "absolute")
    width, heads, positions = (
        config.multiple("hidden_size", "num_attention_heads"),
        config.integer("num_attention_heads"),
        config.integer("max_position_embeddings", 512),
    )
    norm = NormPlan("layer", config.epsilon("layer_norm_eps", 1e-12), bias=True)
    attention = AttentionPlan(heads, heads, width // heads, True, True, causal=False)
    channel = FeedForwardPlan(config.integer("intermediate_size"), config.activation("hidden_act", "gelu"))
    block = BlockPlan(attention, channel, before=norm, residual="after_residual")
    sentence = Config(config.mapping(KEY) or {}, config.where)
    pool = PoolPlan(sentence.choice("pooling", ("mean", "first", "last"), "mean"), sentence.flag("normalize", True))  # type: ignore[arg-type]
    return TrunkPlan(
        width,
        TokensPlan(config.integer("vocab_size"), positions=positions, types=config.integer("type_vocab_size", 2), norm=norm),
        StackedPlan((block,) * config.integer("num_hidden_layers")),
        {"pool": pool},
        None,
        min(positions, sentence.integer("max_seq_length", positions)),
    )


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a Hugging Face directory."""
    return renamed(trunk, NAMES, "encoder.layer.{}.")


def gguf_config(description: gguf.Description) -> dict[str, Any]:
    """config.json's values out of a GGUF file, and what a sentence-transformers directory says beside it.

    Files say nothing of the activation, of scaling to unit length, or of where texts are cut short of the position table: taken are
    the published models' exact GELU (llama.cpp computes its tanh form), unit vectors as llama.cpp gives them, and the whole table.
    """
    values = description.values
    gguf.head_width(description, free=False)
    heads = values.integer("attention.head_count")
    description.only("attention.head_count_kv", heads)
    description.only("attention.causal", False)
    pooling = values.values.get("pooling_type", 1)  # without it, the mean, as for a directory without a description
    if type(pooling) is not int or pooling not in GGUF_POOLING:
        raise UnsupportedError(
            f"`pooling_type` is {pooling!r:.40}, which is not built here",
            where=values.where,
            do=f"Known: {', '.join(f'{number} ({name})' for number, name in GGUF_POOLING.items())}.",
        )
    types = description.source.shape(TYPES) if description.has(TYPES) else (2,)
    return {
        "hidden_size": values.integer("embedding_length"),
        "num_attention_heads": heads,
        "num_hidden_layers": values.integer("block_count"),
        "intermediate_size": values.integer("feed_forward_length"),
        "max_position_embeddings": values.integer("context_length"),
        "layer_norm_eps": values.epsilon("attention.layer_norm_epsilon", ...),
        "hidden_act": "gelu",
        "type_vocab_size": types[0] if types else 0,
        "vocab_size": gguf.tokens(description)["vocab_size"],
        "torch_dtype": "float32",
        KEY: {"pooling": GGUF_POOLING[pooling], "normalize": True},
    }


def gguf_entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a GGUF file."""
    return renamed(trunk, GGUF_NAMES, gguf.BLOCK)


FAMILIES = (
    Family(
        "bert",
        "BertModel",
        plan,
        entries,
        prefixes=("bert.",),
        ignored=(r"pooler\..*", r"cls\..*", r"embeddings\.position_ids"),
        gguf="bert",
        gguf_config=gguf_config,
        gguf_entries=gguf_entries,
    ),
)
