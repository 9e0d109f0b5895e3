"""A random model small enough to train in a second, with a byte tokenizer and a chat template; nothing is downloaded."""

from __future__ import annotations

import tokenizers
import torch
from tokenizers import decoders, pre_tokenizers

from steelyard.model.families.config import Config
from steelyard.model.families.family import find
from steelyard.model.model import Model
from steelyard.model.template import ChatTemplate
from steelyard.model.tokenizer import Tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|end|>", "<|im_start|>", "<|im_end|>", "<|begin|>"]


def tiny_tokenizer(eos: str | None = "<|im_end|>", begins: bool = False) -> Tokenizer:
    """One token a byte, four special tokens; `eos` ends an answer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    backend.add_special_tokens(SPECIAL)
    bos = backend.token_to_id("<|begin|>")
    eos_ids = () if eos is None else (backend.token_to_id(eos),)
    return Tokenizer(backend, bos_id=bos, eos_ids=eos_ids, pad_id=0, prefix_ids=(bos,) if begins else ())


def tiny_talker(template: str | None = CHATML, seed: int = 0, **config: object) -> Model:
    """A llama of 2 blocks of width 32."""
    tokenizer = tiny_tokenizer()
    values = {
        "model_type": "llama",
        "vocab_size": tokenizer.vocabulary_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_ids[0],
        **config,
    }
    torch.manual_seed(seed)
    family = find("llama", "tiny")
    trunk = family.plan(Config(values)).build().eval()
    return Model(trunk, family, values, tokenizer, ChatTemplate(template) if template else None, "tiny")
