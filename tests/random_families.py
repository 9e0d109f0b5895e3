"""Models of transformers with random weights, of families whose maps are apart, fused and transposed."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from steelyard.model.load import load
from steelyard.model.model import Model

SIZES = {"vocab_size": 101, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = {
    "Llama": SIZES | {"num_key_value_heads": 2},
    "Phi3": SIZES | {"num_key_value_heads": 2, "pad_token_id": 0},
    "GPT2": {"vocab_size": 101, "n_embd": 64, "n_layer": 2, "n_head": 4},
}


def random_model(kind: str, folder: Path) -> Model:
    """A model of transformers with random weights, as we open it."""
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**FAMILIES[kind]))
    for name, parameter in theirs.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name or "ln_" in name else 0.0, std=0.1)
    theirs.save_pretrained(folder)
    return load(folder)
