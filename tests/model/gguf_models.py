"""Writes models of transformers as GGUF files the way llama.cpp's converter does, with the `gguf` package's own tables of names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import torch
from torch import Tensor
from transformers import PreTrainedModel

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "phi3": gguf.MODEL_ARCH.PHI3,
}
GEMMAS = ("gemma", "gemma2", "gemma3_text")


def write_gguf(model: PreTrainedModel, path: Path, drop: tuple[str, ...] = (), blocks: str | None = None, **changes: Any) -> Path:
    """One file: metadata, a small byte-level tokenizer, tensors in float32, or matrices in blocks of a type that `gguf` can write.

    Args:
        model: any of the ten architectures.
        path: the file.
        drop: metadata keys (without the architecture) to leave out.
        blocks: `Q4_0`, say; matrices whose rows are no multiple of 32 stay float32.
        changes: metadata keys, with `__` for `.`, to write instead; ints, floats, bools, texts or lists.
    """
    config, kind = model.config, model.config.model_type
    architecture = ARCHITECTURES[kind]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    written = {key: value for key, value in metadata(config, kind).items() if key not in drop}
    for key, value in (written | {key.replace("__", "."): value for key, value in changes.items()}).items():
        put(writer, f"{writer.arch}.{key}", value)
    add_tokenizer(writer, config.vocab_size)
    for name, tensor in tensors(model, architecture).items():
        data = tensor.detach().float().contiguous().numpy()
        if blocks is not None and data.ndim == 2 and data.shape[1] % 32 == 0:
            kind_of = gguf.GGMLQuantizationType[blocks]
            writer.add_tensor(name, gguf.quants.quantize(data, kind_of), raw_dtype=kind_of)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def put(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value) if value >= 0 else writer.add_int32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def add_tokenizer(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["a", "b", "ab", *(f"<{index}>" for index in range(3, vocabulary))])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(vocabulary - 1)
    writer.add_pad_token_id(0)


def metadata(config: Any, kind: str) -> dict[str, Any]:
    if kind == "gpt2":
        return {
            "block_count": config.n_layer,
            "context_length": config.n_positions,
            "embedding_length": config.n_embd,
            "feed_forward_length": config.n_inner or 4 * config.n_embd,
            "attention.head_count": config.n_head,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }
    out: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
    }
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if kind == "gpt_neox":
        return out | {
            "attention.layer_norm_epsilon": config.layer_norm_eps,
            "use_parallel_residual": config.use_parallel_residual,
            "rope.dimension_count": int(width * config.rope_parameters["partial_rotary_factor"]),
        }
    out |= {"attention.head_count_kv": config.num_key_value_heads, "attention.layer_norm_rms_epsilon": config.rms_norm_eps}
    if kind in (*GEMMAS, "qwen3", "llama", "mistral"):
        out |= {"attention.key_length": width, "attention.value_length": width}
    if kind in ("llama", "mistral"):
        out |= {"rope.dimension_count": width, "vocab_size": config.vocab_size}
    if kind in ("gemma2", "gemma3_text", "phi3"):
        out["attention.sliding_window"] = config.sliding_window or 0
    if kind == "gemma2":
        out["attn_logit_softcapping"] = config.attn_logit_softcapping
    if kind in ("gemma2", "gemma3_text") and config.final_logit_softcapping:
        out["final_logit_softcapping"] = config.final_logit_softcapping
    return out | rotary(config, kind, width)


def rotary(config: Any, kind: str, width: int) -> dict[str, Any]:
    given = config.rope_parameters.get("full_attention", config.rope_parameters)
    out: dict[str, Any] = {} if kind in ("gemma", "gemma2") else {"rope.freq_base": float(given["rope_theta"])}
    if given["rope_type"] in ("linear", "yarn"):
        out |= {"rope.scaling.type": given["rope_type"], "rope.scaling.factor": float(given["factor"])}
    if given["rope_type"] == "yarn":
        out["rope.scaling.original_context_length"] = given["original_max_position_embeddings"]
        out |= {f"rope.scaling.yarn_{key}": float(given[key]) for key in ("beta_fast", "beta_slow") if key in given}
    if kind == "phi3":
        original = given.get("original_max_position_embeddings", config.original_max_position_embeddings)
        out["rope.dimension_count"] = int(width * given["partial_rotary_factor"])
        out["rope.scaling.original_context_length"] = original
        if given["rope_type"] == "longrope":
            scale = config.max_position_embeddings / original
            out["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(scale) / math.log(original))
    return out


def tensors(model: PreTrainedModel, architecture: gguf.MODEL_ARCH) -> dict[str, Tensor]:
    config, kind = model.config, model.config.model_type
    layers = config.num_hidden_layers
    table = gguf.get_tensor_name_map(architecture, layers)
    out = {}
    for name, tensor in model.state_dict().items():
        if name in ("lm_head.weight", "embed_out.weight") and config.tie_word_embeddings:
            continue
        theirs = table.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        out[theirs] = as_converted(name, tensor, config, kind)
    given = getattr(config, "rope_parameters", None) or {}
    if kind == "llama" and given.get("rope_type") == "llama3":
        out["rope_freqs.weight"] = llama3_divisors(given, config.hidden_size // config.num_attention_heads)
    if kind == "phi3" and given.get("rope_type") == "longrope":
        out["rope_factors_long.weight"] = torch.tensor(given["long_factor"])
        out["rope_factors_short.weight"] = torch.tensor(given["short_factor"])
    return out


def as_converted(name: str, tensor: Tensor, config: Any, kind: str) -> Tensor:
    """A tensor as the converter leaves it: pairs side by side for llama, whole norms for Gemma, [out, in] for GPT-2, ..."""
    if kind in ("llama", "mistral") and (".q_proj." in name or ".k_proj." in name):
        heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
        return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
    if kind in GEMMAS and name.endswith("norm.weight"):
        return tensor + 1
    if kind == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return tensor.T
    if kind == "gpt_neox" and ".query_key_value." in name:
        parts = tensor.reshape(config.num_attention_heads, 3, -1, *tensor.shape[1:])
        return torch.cat([parts[:, part].reshape(-1, *tensor.shape[1:]) for part in range(3)])
    return tensor


def llama3_divisors(given: dict[str, Any], width: int) -> Tensor:
    """What the converter makes of llama3's scaling: a divisor for each frequency."""
    out = []
    for index in range(0, width, 2):
        length = 2 * math.pi * given["rope_theta"] ** (index / width)
        low = given["original_max_position_embeddings"] / given["low_freq_factor"]
        high = given["original_max_position_embeddings"] / given["high_freq_factor"]
        smooth = (given["original_max_position_embeddings"] / length - given["low_freq_factor"]) / (
            given["high_freq_factor"] - given["low_freq_factor"]
        )
        out.append(1.0 if length < high else given["factor"] if length > low else 1 / ((1 - smooth) / given["factor"] + smooth))
    return torch.tensor(out)
