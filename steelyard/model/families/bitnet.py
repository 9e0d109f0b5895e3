"""BitNet b1.58 (arXiv:2402.17764, arXiv:2504.12285): Llama with ternary maps, a norm before each output map, and squared ReLUs for gates."""

from __future__ import annotations

from typing import Any

from steelyard.core.errors import ModelFileError
from steelyard.model.channels.gated import GatedPlan
from steelyard.model.depth.stacked import BlockPlan
from steelyard.model.families import llama
from steelyard.model.families.config import Config
from steelyard.model.families.family import Entry, Family
from steelyard.model.families.renaming import renamed
from steelyard.model.linears.ternary import IN_A_BYTE, TernaryPlan
from steelyard.model.norms import NormPlan
from steelyard.model.trunk import TrunkPlan

NAMES = llama.NAMES | {"mixer.output_norm": "self_attn.attn_sub_norm", "channel.inner_norm": "mlp.ffn_sub_norm"}
MODES = {"online": False, "offline": True}
"""How a quantization config says whether weights are floats or packed -> `TernaryPlan.packed`."""


def linears(config: Config) -> TernaryPlan | None:
    """How maps inside blocks keep their weights; None for floats that are never rounded."""
    said = config.mapping("quantization_config")
    if not said:
        return None
    mode = MODES.get(str(said.get("quantization_mode", "offline")))
    known = said.get("quant_method") == "bitnet" and said.get("linear_class") == "autobitlinear" and not said.get("use_rms_norm")
    if not known or mode is None:
        raise ModelFileError(
            f"quantization {dict(said)!r:.200} is not read here",
            where=config.where,
            do='Use weights of the class "autobitlinear", as microsoft/bitnet-b1.58-2B-4T has them.',
        )
    if mode and config.flag("attention_bias", False):
        raise ModelFileError("packed maps with constants, which transformers multiplies by the weights' scale", where=config.where)
    return TernaryPlan(mode)


def plan(config: Config) -> TrunkPlan:
    """The trunk a BitNet config describes."""
    config = config.with_defaults(num_key_value_heads=5, max_position_embeddings=2048, hidden_act="relu2")
    norm = NormPlan("rms", config.epsilon("rms_norm_eps", 1e-5))
    rotary = config.rotary(llama.attention(config).head_width, base=500_000.0)
    channel = GatedPlan(config.integer("intermediate_size"), config.activation("hidden_act", "relu2"), inner_norm=norm)
    block = BlockPlan(llama.attention(config, rotary=rotary, output_norm=norm), channel, before=norm)
    trunk = llama.decoder(config, (block,) * config.integer("num_hidden_layers"), norm)
    return TrunkPlan(trunk.width, trunk.inputs, trunk.depth, trunk.heads, trunk.norm, trunk.context, linears(config))


def describe(trunk: TrunkPlan) -> dict[str, Any] | None:
    """config.json of a trunk made here, if it is a BitNet."""
    said = llama.described(trunk, GatedPlan)
    mixer: Any = trunk.depth.blocks[0].mixer if said else None
    if said is None or not isinstance(trunk.linears, TernaryPlan) or mixer.output_norm is None:
        return None
    width = said.pop("head_dim")
    heads, shared = said["num_attention_heads"] * width, said["num_key_value_heads"] * width
    if heads != trunk.width or any(size % IN_A_BYTE for size in (trunk.width, heads, shared, said["intermediate_size"])):
        return None  # transformers packs whole bytes
    mode = next(name for name, packed in MODES.items() if packed == trunk.linears.packed)
    return said | {"quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": mode}}


def entries(trunk: TrunkPlan) -> list[Entry]:
    """Tensors of a Hugging Face directory."""
    return renamed(trunk, NAMES, llama.BLOCK)


FAMILIES = (Family("bitnet", "BitNetForCausalLM", plan, entries, ignored=llama.IGNORED, describe=describe),)
