"""A llama of two small blocks with fresh weights and nothing around it: what tests of training train."""

from __future__ import annotations

from typing import Any

import torch

from steelyard.model.families.config import Config
from steelyard.model.families.family import find
from steelyard.model.trunk import Trunk

VOCABULARY = 60


def tiny_llama(seed: int = 0, **changes: Any) -> Trunk:
    """Weights drawn from the seed, all of them to be trained; `changes` are keys of config.json."""
    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(seed)
    return find("llama", "here").plan(Config(config | changes)).build().requires_grad_(True)
