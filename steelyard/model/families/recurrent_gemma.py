"""RecurrentGemma (arXiv:2404.07839): two blocks of a gated recurrence for each of attention over a window, and Gemma's norms and channel.

As its public class has it: token vectors are scaled by sqrt(width) rounded to bfloat16, half of each head turns, every map but those to
queries, keys and values has a bias, logits are capped, and `intermediate_size` counts both halves of the gated channel.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from steelyard.core.errors import ModelFileError
from steelyard.model.channels.gated import GatedPlan
from steelyard.model.depth.stacked import BlockPlan, StackedPlan
from steelyard.model.families import llama
from steelyard.model.families.config import Config
from steelyard.model.families.family import Entry, Family
from steelyard.model.families.mamba import CONTEXT
from steelyard.model.families.renaming import renamed
from steelyard.model.heads.lm import LMHeadPlan
from steelyard.model.inputs.tokens import TokensPlan
from steelyard.model.mixers.attention import AttentionPlan
from steelyard.model.mixers.recurrent_gemma import RecurrentGemmaPlan
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan

RECURRENT, ATTENTION = "recurrent", "attention"
PATTERN = (RECURRENT, RECURRENT, ATTENTION)
NAMES = {
    "inputs": "model.embed_tokens",
    "norm": "model.final_norm",
    "heads.lm.linear": "lm_head",
    "mixer_norm": "temporal_pre_norm",
    "channel_norm": "channel_pre_norm",
    "mixer.input": "temporal_block.linear_x",
    "mixer.gate": "temporal_block.linear_y",
    "mixer.convolution": "temporal_block.conv_1d.weight",
    "mixer.convolution_bias": "temporal_block.conv_1d.bias",
    "mixer.input_gate": "temporal_block.rg_lru.input_gate_weight",
    "mixer.input_gate_bias": "temporal_block.rg_lru.input_gate_bias",
    "mixer.recurrence_gate": "temporal_block.rg_lru.recurrent_gate_weight",
    "mixer.recurrence_gate_bias": "temporal_block.rg_lru.recurrent_gate_bias",
    "mixer.decay": "temporal_block.rg_lru.recurrent_param",
    "mixer.output": "temporal_block.linear_out",
    "mixer.query": "temporal_block.q_proj",
    "mixer.key": "temporal_block.k_proj",
    "mixer.value": "temporal_block.v_proj",
    "channel.gate": "mlp_block.gate_proj",
    "channel.up": "mlp_block.up_proj",
    "channel.down": "mlp_block.down_proj",
}


def plan(config: Config) -> TrunkPlan:
    """The trunk a RecurrentGemma config describes."""
    config = config.with_defaults(
        vocab_size=256000, hidden_size=2560, num_hidden_layers=26, num_attention_heads=10, intermediate_size=7680, logits_soft_cap=30.0
    )
    activation, width = config.activation("hidden_activation", "gelu_pytorch_tanh"), config.integer("hidden_size")
    heads, inner = config.integer("num_attention_heads"), config.multiple("lru_width", "num_attention_heads", width)
    recurrence = RecurrentGemmaPlan(inner, heads, config.integer("conv1d_width", 4), activation)
    hidden = config.integer("intermediate_size") // 2
    if not hidden:
        raise config._refuse("intermediate_size", 1, "at least 2")
    norm, channel = NormPlan("rms", config.epsilon("rms_norm_eps", 1e-6), offset=1.0), GatedPlan(hidden, activation, bias=True)
    kinds = block_types(config)
    mixers = {RECURRENT: recurrence, ATTENTION: attention(config) if ATTENTION in kinds else None}
    vocabulary = config.integer("vocab_size")
    return TrunkPlan(
        width,
        TokensPlan(vocabulary, float(torch.tensor(math.sqrt(width), dtype=torch.bfloat16))),
        StackedPlan(tuple(BlockPlan(mixers[kind], channel, before=norm) for kind in kinds)),  # type: ignore[arg-type]
        {"lm": LMHeadPlan(vocabulary, config.flag("tie_word_embeddings", True), config.positive("logits_soft_cap"))},
        norm,
        config.integer("max_position_embeddings", CONTEXT),
    )


def attention(config: Config) -> AttentionPlan:
    """Attention over the last tokens; half of each head turns."""
    width = config.multiple("hidden_size", "num_attention_heads") // config.integer("num_attention_heads")
    rotary = config.rotary(width, share=0.5)
    if rotary.scaling is not None:
        raise ModelFileError(
            "its positions are stretched, which the public class refuses too", where=config.where, do="Take the scaling out."
        )
    window = config.integer("attention_window_size", 2048)
    return llama.attention(config, head_width=width, rotary=rotary, window=window, output_bias=True)


def block_types(config: Config) -> tuple[str, ...]:
    """What mixes in each layer: the config's pattern, over and over."""
    pattern = config.values.get("block_types", PATTERN)
    known = isinstance(pattern, list | tuple) and len(pattern) > 0 and all(kind in PATTERN for kind in pattern)
    if not known:
        raise config._refuse("block_types", pattern, f"a list of the words {RECURRENT} and {ATTENTION}")
    return tuple(pattern[index % len(pattern)] for index in range(config.integer("num_hidden_layers")))


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a Hugging Face directory."""
    attending = {f"blocks.{index}.mixer.output" for index, block in enumerate(trunk.depth.blocks) if isinstance(block.mixer, AttentionPlan)}
    return [
        replace(entry, theirs=entry.theirs.replace("linear_out", "o_proj")) if entry.ours[0].rpartition(".")[0] in attending else entry
        for entry in renamed(trunk, NAMES, llama.BLOCK)
    ]


FAMILIES = (Family("recurrent_gemma", "RecurrentGemmaForCausalLM", plan, entries, ignored=llama.IGNORED),)
