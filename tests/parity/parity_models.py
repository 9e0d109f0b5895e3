"""Two families of models that both sides open: SmolLM2 (llama) as it is, and a small GPT-NeoX with weights from a frozen generator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import torch

from steelyard.core.get import locate
from steelyard.model.load import load
from steelyard.model.model import Model

NEOX = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 160, "max_position_embeddings": 256}


def smollm(folder: Path) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face directory in float32."""
    out = folder / "smollm2"
    if not out.exists():
        load("smollm2-135m-instruct").save(out)
    return out


def neox(folder: Path) -> Path:
    """A GPT-NeoX of 3 layers. Its tokenizer is SmolLM2's, but begins every text with a token, as Llama's does.

    Weights come from numpy's legacy generator, whose numbers never change; they are large enough that its guesses differ.
    """
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    out = folder / "neox"
    if out.exists():
        return out
    tokenizer = load("smollm2-135m-instruct").tokenizer
    assert tokenizer is not None
    config = GPTNeoXConfig(
        vocab_size=tokenizer.vocabulary_size, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False, rotary_pct=0.5, **NEOX
    )
    model = GPTNeoXForCausalLM(config).float()
    draws = numpy.random.RandomState(20)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            drawn = torch.from_numpy(draws.standard_normal(tuple(weight.shape))).float()
            weight.copy_(1 + 0.1 * drawn if "norm" in name and name.endswith("weight") else 0.15 * drawn)
    model.save_pretrained(out)
    whole = json.loads(tokenizer.backend.to_str())
    begin = whole["added_tokens"][0]["content"]
    special = {begin: {"id": begin, "ids": [0], "tokens": [begin]}}
    first = {"SpecialToken": {"id": begin, "type_id": 0}}
    templates = {"single": [first, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}]}
    templates["pair"].append({"Sequence": {"id": "B", "type_id": 1}})
    whole["post_processor"] = {"type": "TemplateProcessing", **templates, "special_tokens": special}
    (out / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": begin, "add_bos_token": True}
    (out / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    return out


def opened(name: str, folder: Path) -> Model:
    """A family's model as Steelyard reads it."""
    return load(str(locate("smollm2-135m-instruct")) if name == "smollm2" else str(neox(folder)))


DIRECTORIES = {"smollm2": smollm, "neox": neox}
