"""Tiny random models of other people's classes: the references that our families are held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 101
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6}
GROUPED = SMALL | {"num_key_value_heads": 2}


def reference(config: Any, seed: int = 0) -> PreTrainedModel:
    """A model of transformers with weights large enough that every part of it shows in the logits."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.2)
    return model


def saved(model: PreTrainedModel, folder: Path, **changes: Any) -> Path:
    """The directory transformers writes, with keys of config.json changed (None: removed)."""
    model.save_pretrained(folder)
    if changes:
        change_config(folder, **changes)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def random_ids(rows: int = 2, time: int = 30, vocabulary: int = VOCABULARY, seed: int = 1) -> torch.Tensor:
    return torch.randint(1, vocabulary, (rows, time), generator=torch.Generator().manual_seed(seed))


def their_logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Row by row: rotary scalings that look at a text's length look at the longest row's there."""
    with torch.inference_mode():
        return torch.cat([model(row[None], use_cache=False).logits.float() for row in ids])


def config_of(kind: str, **values: Any) -> Any:
    """The config class of transformers by its short name: `Llama` -> `LlamaConfig`."""
    return getattr(transformers, f"{kind}Config")(**values)
