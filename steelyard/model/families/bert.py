"""BERT encoders (MiniLM): every token sees every other, norms after the sums, one vector per text (arXiv:1810.04805)."""

from __future__ import annotations

from steelyard.model.channels.feed_forward import FeedForwardPlan
from steelyard.model.depth.stacked import BlockPlan, StackedPlan
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


FAMILIES = (
    Family("bert", "BertModel", plan, entries, prefixes=("bert.",), ignored=(r"pooler\..*", r"cls\..*", r"embeddings\.position_ids")),
)
