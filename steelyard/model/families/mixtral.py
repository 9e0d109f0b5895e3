"""Mixtral: Llama with a mixture of experts for its channels, perhaps a sliding window (arXiv:2401.04088)."""

from __future__ import annotations

from typing import Any

from steelyard.core.errors import ModelFileError
from steelyard.model.channels.moe import MoePlan
from steelyard.model.depth.stacked import BlockPlan
from steelyard.model.families import llama
from steelyard.model.families.config import Config
from steelyard.model.families.family import Entry, Family
from steelyard.model.families.renaming import renamed
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan

EXPERTS = "block_sparse_moe.experts"
MAPS = {"gate": "w1", "up": "w3", "down": "w2"}
"""Our maps of an expert -> theirs."""
MOST_EXPERTS = 4096


def channel(config: Config) -> MoePlan:
    """The mixture a config describes."""
    experts, active = config.integer("num_local_experts", 8), config.integer("num_experts_per_tok", 2)
    if not active <= experts <= MOST_EXPERTS:
        raise ModelFileError(
            f"{active} of {experts} experts",
            where=config.where,
            do=f"There can be {MOST_EXPERTS}, and no fewer than a token passes through.",
        )
    return MoePlan(
        experts,
        active,
        config.integer("intermediate_size"),
        config.activation("hidden_act", "silu"),
        config.epsilon("router_aux_loss_coef", 0.001),
        config.epsilon("router_z_loss_coef", 0.0),
    )


def plan(config: Config) -> TrunkPlan:
    """The trunk a Mixtral config describes."""
    config = config.with_defaults(num_key_value_heads=8, max_position_embeddings=131072)
    norm = NormPlan("rms", config.epsilon("rms_norm_eps", 1e-5))
    rotary = config.rotary(llama.attention(config).head_width, base=1_000_000.0)
    attention = llama.attention(config, bias=False, output_bias=False, window=config.integer("sliding_window", None), rotary=rotary)
    block = BlockPlan(attention, channel(config), before=norm)
    return llama.decoder(config, (block,) * config.integer("num_hidden_layers"), norm)


def describe(trunk: TrunkPlan) -> dict[str, Any] | None:
    """config.json of a trunk made here, if it is a Mixtral."""
    if (said := llama.described(trunk, MoePlan)) is None:
        return None
    block: Any = trunk.depth.blocks[0]
    return said | {
        "sliding_window": block.mixer.window,
        "num_local_experts": block.channel.experts,
        "num_experts_per_tok": block.channel.active,
        "router_aux_loss_coef": block.channel.balance,
        "router_z_loss_coef": block.channel.router_z,  # transformers keeps it, and has no use for it
    }


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a Hugging Face directory."""
    channel: Any = trunk.depth.blocks[0].channel
    names = {name: theirs for name, theirs in llama.NAMES.items() if not name.startswith("channel.")}
    names |= {"channel.router": "block_sparse_moe.gate"}
    names |= {
        f"channel.experts.{number}.{ours}": f"{EXPERTS}.{number}.{theirs}"
        for number in range(channel.experts)
        for ours, theirs in MAPS.items()
    }
    return renamed(trunk, names, llama.BLOCK)


FAMILIES = (Family("mixtral", "MixtralForCausalLM", plan, entries, ignored=llama.IGNORED, describe=describe),)
