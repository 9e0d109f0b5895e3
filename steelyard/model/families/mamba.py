"""Mamba (arXiv:2312.00752) and FalconMamba (arXiv:2410.05355): blocks of one mixer each, no positions, no channels."""

from __future__ import annotations

from typing import Any

from steelyard.core.errors import ModelFileError
from steelyard.model.depth.stacked import BlockPlan, StackedPlan
from steelyard.model.families.config import Config
from steelyard.model.families.family import Entry, Family
from steelyard.model.families.renaming import Fused, renamed, stacked_rows
from steelyard.model.heads.lm import LMHeadPlan
from steelyard.model.inputs.tokens import TokensPlan
from steelyard.model.mixers.mamba import MambaPlan
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan

CONTEXT = 2**20
"""Tokens of the longest text where a config names none: the memory is of fixed size, so nothing else bounds it."""

BLOCK = "backbone.layers.{}."
NAMES = {
    "inputs": "backbone.embeddings",
    "norm": "backbone.norm_f",
    "heads.lm.linear": "lm_head",
    "mixer_norm": "norm",
    "mixer.convolution": "mixer.conv1d.weight",
    "mixer.convolution_bias": "mixer.conv1d.bias",
    "mixer.selection": "mixer.x_proj",
    "mixer.time_step": "mixer.dt_proj",
    "mixer.log_decay": "mixer.A_log",
    "mixer.skip": "mixer.D",
    "mixer.output": "mixer.out_proj",
}


def decoder(config: Config, block: BlockPlan, *, tied: bool) -> TrunkPlan:
    """A trunk of equal blocks. `tied` is what a config that does not say means."""
    vocabulary = config.integer("vocab_size")
    assert block.before is not None
    return TrunkPlan(
        config.integer("hidden_size"),
        TokensPlan(vocabulary),
        StackedPlan((block,) * config.integer("num_hidden_layers")),
        {"lm": LMHeadPlan(vocabulary, config.flag("tie_word_embeddings", tied))},
        block.before,
        config.integer("max_position_embeddings", CONTEXT),
    )


def inner_width(config: Config) -> int:
    """Channels of the recurrence."""
    inner = config.integer("intermediate_size", None) or int(config.positive("expand", 2.0) * config.integer("hidden_size"))
    if not 0 < inner <= 2**20:
        raise ModelFileError(f"`expand` makes {inner} channels", where=config.where, do="Restore the config the model was published with.")
    return inner


def plan(config: Config, parameter_norm: float | None = None) -> TrunkPlan:
    """The trunk a Mamba config describes."""
    config = config.with_defaults(vocab_size=50280, hidden_size=768, num_hidden_layers=32)
    automatic = config.values.get("time_step_rank", "auto") == "auto"
    mixer = MambaPlan(
        inner_width(config),
        config.integer("state_size", 16),
        -(-config.integer("hidden_size") // 16) if automatic else config.integer("time_step_rank"),
        config.integer("conv_kernel", 4),
        config.flag("use_bias", False),
        config.flag("use_conv_bias", True),
        config.activation("hidden_act", "silu"),
        parameter_norm,
    )
    norm = NormPlan("rms", config.epsilon("layer_norm_epsilon", 1e-5))
    return decoder(config, BlockPlan(mixer, None, before=norm), tied=True)


def falcon_plan(config: Config) -> TrunkPlan:
    """The trunk a FalconMamba config describes."""
    return plan(config, config.epsilon("mixer_rms_eps", 1e-6))


def describe(trunk: TrunkPlan) -> dict[str, Any] | None:
    """config.json of a trunk made here, if it is a Mamba."""
    if (described := stack(trunk, MambaPlan)) is None:
        return None
    mixer: Any = trunk.depth.blocks[0].mixer
    return described | {
        "intermediate_size": mixer.inner,
        "state_size": mixer.state,
        "time_step_rank": mixer.rank,
        "conv_kernel": mixer.taps,
        "use_bias": mixer.bias,
        "use_conv_bias": mixer.convolution_bias,
        "hidden_act": mixer.activation,
    }


def falcon_describe(trunk: TrunkPlan) -> dict[str, Any] | None:
    """config.json of a trunk made here, if it is a FalconMamba."""
    if (described := describe(trunk)) is None:
        return None
    mixer: Any = trunk.depth.blocks[0].mixer
    return described | {"mixer_rms_eps": mixer.parameter_norm or 0.0}


def stack(trunk: TrunkPlan, mixer: type) -> dict[str, Any] | None:
    """What config.json says besides the mixer, of blocks that are a mixer of a kind each."""
    block = trunk.depth.blocks[0] if isinstance(trunk.depth, StackedPlan) else None
    if block is None or not isinstance(block.mixer, mixer) or block.channel is not None or trunk.norm is None:
        return None
    if not isinstance(head := trunk.heads["lm"], LMHeadPlan):
        return None
    return {
        "hidden_size": trunk.width,
        "num_hidden_layers": len(trunk.depth.blocks),
        "layer_norm_epsilon": trunk.norm.epsilon,
        "vocab_size": trunk.inputs.vocabulary,
        "max_position_embeddings": trunk.context,
        "tie_word_embeddings": head.tied,
    }


def input_and_gate(block: BlockPlan):
    """What is mixed, and then what gates it."""
    mixer: MambaPlan = block.mixer  # type: ignore[assignment]
    return stacked_rows(mixer.inner, mixer.inner)


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a Hugging Face directory."""
    return renamed(trunk, NAMES, BLOCK, fused=(Fused("mixer.in_proj", ("mixer.input", "mixer.gate"), input_and_gate),))


FAMILIES = (
    Family(
        "mamba",
        "MambaForCausalLM",
        plan,
        entries,
        aliases={"backbone.embedding.weight": "backbone.embeddings.weight"},
        describe=describe,
    ),
    Family("falcon_mamba", "FalconMambaForCausalLM", falcon_plan, entries, describe=falcon_describe),
)
