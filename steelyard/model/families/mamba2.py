"""Mamba-2 (arXiv:2405.21060): blocks of one mixer each, heads that share B and C in groups."""

from __future__ import annotations

import math
from typing import Any

from steelyard.core.errors import ModelFileError
from steelyard.model.depth.stacked import BlockPlan
from steelyard.model.families.config import Config
from steelyard.model.families.family import Entry, Family
from steelyard.model.families.mamba import BLOCK, NAMES, decoder, stack
from steelyard.model.families.renaming import Fused, renamed, stacked_rows
from steelyard.model.mixers.mamba2 import Mamba2Plan
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan

OWN = {"mixer.step_bias": "mixer.dt_bias", "mixer.norm": "mixer.norm.weight"}


def plan(config: Config) -> TrunkPlan:
    """The trunk a Mamba-2 config describes."""
    config = config.with_defaults(
        vocab_size=32768, hidden_size=4096, num_hidden_layers=64, num_heads=128, head_dim=64, n_groups=8, state_size=128
    )
    heads, width, inner = config.multiple("num_heads", "n_groups"), config.integer("head_dim"), config.positive("expand", 2.0)
    if int(inner * config.integer("hidden_size")) != heads * width:
        raise ModelFileError(
            f"{heads} heads of {width} are not `expand` ({inner:g}) times `hidden_size`",
            where=config.where,
            do="Restore the config the model was published with.",
        )
    least, most = step_limit(config)
    epsilon = config.epsilon("layer_norm_epsilon", 1e-5)
    mixer = Mamba2Plan(
        heads,
        width,
        config.integer("state_size"),
        config.integer("n_groups"),
        config.integer("conv_kernel", 4),
        config.flag("use_bias", False),
        config.flag("use_conv_bias", True),
        config.activation("hidden_act", "silu"),
        least,
        most,
        epsilon,
    )
    return decoder(config, BlockPlan(mixer, None, before=NormPlan("rms", epsilon)), tied=False)


def step_limit(config: Config) -> tuple[float, float | None]:
    """Least and most of a step; no bound is written in several ways, because JSON has no infinity."""
    value = config.values.get("time_step_limit", (0.0, None))
    parts = value if isinstance(value, list | tuple) and len(value) == 2 else (None, None, None)
    least, most = [_number(part) for part in parts][:2] if len(parts) == 2 else (None, None)
    if least is None or least < 0 or most is None or most < least:
        raise ModelFileError(
            f"`time_step_limit` is {value!r:.100}, not two ascending numbers",
            where=config.where,
            do="Restore the config the model was published with.",
        )
    return least, None if math.isinf(most) else most


def _number(value: Any) -> float | None:
    if isinstance(value, dict) and len(value) == 1:
        value = value.get("__float__")
    if value is None or value in ("Infinity", "inf"):
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(value)


def describe(trunk: TrunkPlan) -> dict[str, Any] | None:
    """config.json of a trunk made here, if it is a Mamba-2."""
    if (described := stack(trunk, Mamba2Plan)) is None:
        return None
    mixer: Any = trunk.depth.blocks[0].mixer
    if mixer.inner % trunk.width:
        return None
    return described | {
        "num_heads": mixer.heads,
        "head_dim": mixer.head_width,
        "state_size": mixer.state,
        "n_groups": mixer.groups,
        "conv_kernel": mixer.taps,
        "expand": mixer.inner // trunk.width,
        "use_bias": mixer.bias,
        "use_conv_bias": mixer.convolution_bias,
        "hidden_act": mixer.activation,
    }


def parts_of_input(block: BlockPlan):
    """The gate, what is convolved, the steps."""
    mixer: Mamba2Plan = block.mixer  # type: ignore[assignment]
    return stacked_rows(mixer.inner, mixer.convolved, mixer.heads)


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a Hugging Face directory."""
    fused = Fused("mixer.in_proj", ("mixer.gate", "mixer.input", "mixer.time_step"), parts_of_input)
    return renamed(trunk, NAMES | OWN, BLOCK, fused=(fused,))


FAMILIES = (
    Family(
        "mamba2",
        "Mamba2ForCausalLM",
        plan,
        entries,
        aliases={"backbone.embedding.weight": "backbone.embeddings.weight"},
        describe=describe,
    ),
)
