"""RWKV-4 (arXiv:2305.13048): blocks of time mix and channel mix, layer norms everywhere, and one more after the token table.

At inference the public class halves the stream after every `rescale_every` blocks, and what later blocks add to it, so that float16
does not overflow. The stream here is float32 and stays as it is; all that is left of the halving is that norms see numbers 2^n times
as large beside their epsilon, which is therefore 4^n times theirs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from steelyard.model.channels.rwkv import RwkvChannelPlan
from steelyard.model.depth.stacked import BlockPlan, StackedPlan
from steelyard.model.families.config import Config
from steelyard.model.families.family import Entry, Family
from steelyard.model.families.renaming import renamed
from steelyard.model.heads.lm import LMHeadPlan
from steelyard.model.inputs.tokens import TokensPlan
from steelyard.model.mixers.rwkv import RwkvPlan
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan

BLOCK = "rwkv.blocks.{}."
NAMES = {
    "inputs": "rwkv.embeddings",
    "inputs.norm": "rwkv.blocks.0.pre_ln",
    "norm": "rwkv.ln_out",
    "heads.lm.linear": "head",
    "mixer_norm": "ln1",
    "channel_norm": "ln2",
    "mixer.decay": "attention.time_decay",
    "mixer.bonus": "attention.time_first",
    "mixer.mix_key": "attention.time_mix_key",
    "mixer.mix_value": "attention.time_mix_value",
    "mixer.mix_receptance": "attention.time_mix_receptance",
    "mixer.key": "attention.key",
    "mixer.value": "attention.value",
    "mixer.receptance": "attention.receptance",
    "mixer.output": "attention.output",
    "channel.mix_key": "feed_forward.time_mix_key",
    "channel.mix_receptance": "feed_forward.time_mix_receptance",
    "channel.up": "feed_forward.key",
    "channel.down": "feed_forward.value",
    "channel.receptance": "feed_forward.receptance",
}
LAST_EPSILON = 1e-5
"""Of the final norm, whatever the config says of the others."""


def plan(config: Config) -> TrunkPlan:
    """The trunk an RWKV-4 config describes."""
    config = config.with_defaults(vocab_size=50277, hidden_size=4096, num_hidden_layers=32, rescale_every=6)
    width, depth = config.integer("hidden_size"), config.integer("num_hidden_layers")
    every = int(config.number("rescale_every"))
    norm = NormPlan("layer", config.epsilon("layer_norm_epsilon", 1e-5), bias=True)
    mixer = RwkvPlan(config.integer("attention_hidden_size", width))
    channel = RwkvChannelPlan(config.integer("intermediate_size", 4 * width))

    def seen(norm: NormPlan, blocks: int) -> NormPlan:
        """A norm of what is halved after so many blocks."""
        return replace(norm, epsilon=norm.epsilon * 4.0 ** (blocks // every)) if every > 0 else norm

    vocabulary = config.integer("vocab_size")
    return TrunkPlan(
        width,
        TokensPlan(vocabulary, norm=norm),
        StackedPlan(tuple(BlockPlan(mixer, channel, before=seen(norm, index)) for index in range(depth))),
        {"lm": LMHeadPlan(vocabulary, config.flag("tie_word_embeddings", False))},
        seen(NormPlan("layer", LAST_EPSILON, bias=True), depth),
        config.integer("context_length", 1024),
    )


def describe(trunk: TrunkPlan) -> dict[str, Any] | None:
    """config.json of a trunk made here, if it is an RWKV-4."""
    block = trunk.depth.blocks[0] if isinstance(trunk.depth, StackedPlan) else None
    if block is None or not isinstance(block.mixer, RwkvPlan) or not isinstance(block.channel, RwkvChannelPlan) or block.before is None:
        return None
    if not isinstance(head := trunk.heads["lm"], LMHeadPlan):
        return None
    return {
        "hidden_size": trunk.width,
        "num_hidden_layers": len(trunk.depth.blocks),
        "attention_hidden_size": block.mixer.inner,
        "intermediate_size": block.channel.hidden,
        "layer_norm_epsilon": block.before.epsilon,
        "rescale_every": 0,
        "vocab_size": trunk.inputs.vocabulary,
        "context_length": trunk.context,
        "tie_word_embeddings": head.tied,
    }


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a Hugging Face directory."""
    return renamed(trunk, NAMES, BLOCK)


FAMILIES = (Family("rwkv", "RwkvForCausalLM", plan, entries, describe=describe),)
