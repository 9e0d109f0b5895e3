"""Small decoders for the tests that hold every part to the same promises: one entry for each mixer, channel, stack, input and head."""

from __future__ import annotations

from typing import Any

import torch

from steelyard.model.new import DecoderPlan, initialize
from steelyard.model.state import Dense
from steelyard.model.trunk import Trunk

VOCABULARY = 61
SMALL: dict[str, Any] = {"width": 32, "depth": 2, "context": 96}

PARTS: dict[str, dict[str, Any]] = {
    "attention": {"mixer": "attention"},
    "attention window": {"mixer": {"attention": {"window": 7}}},
    "attention positions": {"mixer": {"attention": {"positions": "none"}}, "inputs": {"tokens": {"positions": "learned"}}},
    "linear_attention": {"mixer": "linear_attention"},
    "lstm": {"mixer": {"lstm": {"hidden": 24}}},
    "performer": {"mixer": {"performer": {"features": 24}}},
    "performer rotary off": {"mixer": {"performer": {"features": 16, "rotary": False}}},
    "sparse_attention": {"mixer": {"sparse_attention": {"window": 5, "stride": 3, "strided": 4, "globals": 2}}},
    "transformer_xl": {"mixer": {"transformer_xl": {"segment": 7}}},
    "s4": {"mixer": {"s4": {"state": 8, "least_step": 0.02}}},
    "s4 low rank": {"mixer": {"s4": {"state": 6, "kind": "low_rank", "least_step": 0.02}}},
    "monarch": {"mixer": {"monarch": {"inner": 16, "features": 5}}},
    "monarch_channel": {"channel": "monarch_channel"},
    "mamba": {"mixer": {"mamba": {"state": 5}}},
    "mamba2": {"mixer": {"mamba2": {"state": 6}}},
    "mamba2 groups": {"mixer": {"mamba2": {"heads": 4, "groups": 2, "state": 3, "taps": 1}}},
    "mamba as it varies": {"mixer": {"mamba": {"norms": True, "taps": 1, "expand": 1.5, "rank": 3}}, "channel": "gated"},
    "mamba time-invariant": {"mixer": {"mamba": {"selective": False, "taps": 2}}},
    "recurrent_gemma": {"mixer": "recurrent_gemma"},
    "recurrent_gemma as it varies": {"mixer": [{"recurrent_gemma": {"expand": 1.5, "heads": 3, "taps": 1}}, {"attention": {"window": 9}}]},
    "recurrent_gemma at constant rates": {"mixer": {"recurrent_gemma": {"selective": False, "taps": 2}}},
    "rwkv": {"mixer": "rwkv"},
    "rwkv as it is": {
        "mixer": {"rwkv": {"inner": 40}},
        "channel": "rwkv_channel",
        "norm": "layer",
        "inputs": {"tokens": {"norm": True}},
    },
    "rwkv7": {"mixer": {"rwkv7": {"rank": 6}}, "channel": {"rwkv_channel": {"receptance": False}}},
    "rwkv7 in a mixture": {"mixer": ["attention", {"rwkv7": {"heads": 4}}], "depth": 4},
    "rwkv_channel without its gate": {"channel": {"rwkv_channel": {"receptance": False, "hidden": 48}}},
    "feed_forward": {"channel": "feed_forward"},
    "moe": {"channel": {"moe": {"experts": 4}}},
    "reversible": {"stack": "reversible", "mixer": ["attention", "linear_attention"]},
    "universal": {"stack": {"universal": {"turns": 3}}, "mixer": ["attention", "linear_attention"]},
    "universal without halting": {"stack": {"universal": {"turns": 2, "halting": False}}},
    "recurrent_depth": {
        "stack": {"recurrent_depth": {"loops": 3, "random": False}},
        "depth": 3,
        "mixer": ["attention", "linear_attention"],
    },
    "multi_token": {"head": {"multi_token": {"tokens": 3}}},
    "ternary": {"linears": "ternary"},
    "ternary floats, mixture": {"linears": {"ternary": {"stored": "floats"}}, "channel": ["gated", {"moe": {"experts": 4}}]},
    "bitnet": {
        "linears": "ternary",
        "mixer": {"attention": {"output_norm": True}},
        "channel": {"gated": {"activation": "relu2", "inner_norm": True}},
    },
    "patches": {"inputs": "patches"},
    "patches of five, recurrent": {"inputs": {"patches": {"size": 5, "width": 24, "depth": 1}}, "mixer": ["linear_attention", "attention"]},
    "entropy patches": {"inputs": {"patches": {"size": 6, "ends": [3, 17, 18, 40, 41, 42, 55]}}},
    "patches, documents": {"inputs": {"patches": {"size": 7}}, "mixer": ["lstm", "sparse_attention"]},
    "mixture": {"mixer": ["attention", "linear_attention"]},
}
"""What `new:` says of each; all of them are decoders and must obey the state protocol."""


def decoder(name: str, seed: int = 0, **changes: Any) -> Trunk:
    """A trunk of one of the parts, with weights large enough that every token matters."""
    plan = DecoderPlan.model_validate(SMALL | {"initial": 0.2} | PARTS[name] | changes)
    trunk = initialize(plan.trunk(VOCABULARY).build(), plan, seed).eval().requires_grad_(False)
    # Where activations are rounded to steps, two orders of summation may fall on two sides of one; in float64 they hardly ever do.
    rounds = any(getattr(module, "rounds", False) for module in trunk.modules())
    if rounds:
        trunk.double().inputs.stream = torch.float64
    return trunk


def storage(trunk: Trunk, horizon: int = 0) -> Dense:
    """Memory as exact as the trunk is."""
    return Dense(trunk.inputs.weight.dtype, horizon=horizon)


def ids(rows: int, time: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, time), generator=torch.Generator().manual_seed(seed))
