"""Opening a model: a name got before, a directory, a .gguf file, or hf:org/name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steelyard.core.errors import ModelFileError, SteelyardError
from steelyard.core.get import locate
from steelyard.model.families.config import Config
from steelyard.model.families.family import Entry, Family, find, find_gguf
from steelyard.model.files.check import check_tensors
from steelyard.model.files.directory import open_directory
from steelyard.model.files.gguf_file import GgufFile
from steelyard.model.files.source import TensorSource
from steelyard.model.linears.int8 import Int8Storage
from steelyard.model.linears.linear import Linear
from steelyard.model.model import Model
from steelyard.model.template import ChatTemplate
from steelyard.model.tokenizer import Tokenizer
from steelyard.model.trunk import Trunk, TrunkPlan

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
READABLE = 2**22
"""Most bytes of a JSON file beside the weights."""


def load(name_or_path: str | Path, dtype: str = "float32") -> Model:
    """Opens a model.

    Args:
        name_or_path: a name that `steelyard get` knows, a Hugging Face directory, a .gguf file, or hf:org/name.
        dtype: float type of the matrices in memory; float32 keeps every bit of what is stored.

    Raises:
        ModelFileError: for anything in the files that cannot be trusted or understood.
    """
    if dtype not in FLOATS:
        raise SteelyardError(f"dtype {dtype!r}", do=f"Known: {', '.join(FLOATS)}.")
    path = locate(str(name_or_path))
    name = str(name_or_path)
    if path.is_file():
        return load_gguf(path, name, FLOATS[dtype])
    return load_directory(path, name, FLOATS[dtype])


def load_directory(path: Path, name: str, dtype: torch.dtype) -> Model:
    """A Hugging Face directory: config.json, safetensors, tokenizer, template."""
    config = read_json(path / "config.json")
    family = find(config.get("model_type"), str(path / "config.json"))
    plan = family.plan(Config(config, str(path / "config.json")))
    source = open_directory(path)
    try:
        trunk = build(plan, family.entries(plan), without_prefix(source, family.prefixes), str(path), dtype, packed_kind(config, path))
    finally:
        source.close()
    record = read_json(path / "steelyard.json") if (path / "steelyard.json").exists() else {}
    return Model(trunk, family, config, Tokenizer.from_directory(path), ChatTemplate.from_directory(path), name, record)


def load_gguf(path: Path, name: str, dtype: torch.dtype) -> Model:
    """A GGUF file: everything is in it."""
    source = GgufFile(path)
    try:
        family = find_gguf(source.metadata.get("general.architecture"), str(path))
        assert family.gguf_config and family.gguf_entries
        config = gguf_config(family, source, path)
        plan = family.plan(Config(config, str(path)))
        trunk = build(plan, family.gguf_entries(plan), source, str(path), dtype, None)
        tokenizer = Tokenizer.from_gguf(source.metadata)
        template = ChatTemplate.from_gguf(source.metadata)
    finally:
        source.close()
    return Model(trunk, family, config | special_ids(tokenizer), tokenizer, template, name)


def gguf_config(family: Family, source: GgufFile, path: Path) -> dict[str, Any]:
    """The metadata as a config, with what only the tensors tell: vocabulary and whether the head is tied."""
    assert family.gguf_config
    try:
        config = family.gguf_config(source.metadata)
    except KeyError as error:
        raise ModelFileError(f"the metadata key {error} is missing", where=str(path), do="Convert the model to GGUF again.") from None
    names = set(source.names())
    if "token_embd.weight" not in names:
        raise ModelFileError("the tensor `token_embd.weight` is missing", where=str(path), do="Get the file again.")
    return {"vocab_size": source.shape("token_embd.weight")[0], "tie_word_embeddings": "output.weight" not in names, "torch_dtype": "float32"} | config


def special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """The special tokens a config.json names."""
    eos = list(tokenizer.eos_ids)
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": eos[0] if len(eos) == 1 else eos or None, "pad_token_id": tokenizer.pad_id}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object beside the weights."""
    try:
        if path.stat().st_size > READABLE:
            raise ModelFileError(f"{path.stat().st_size} bytes are too many for it", where=str(path), do="Restore the published file.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFileError("the file is missing", where=str(path), do="Point at a Hugging Face model directory or a .gguf file.") from None
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"not valid JSON: {error}", where=str(path), do="Restore the published file.") from None
    if not isinstance(value, dict):
        raise ModelFileError("not a JSON object", where=str(path), do="Restore the published file.")
    return value


def packed_kind(config: Mapping[str, Any], path: Path) -> str | None:
    """How packed weights are stored (`int8`), or None for plain floats.

    Raises:
        ModelFileError: for a quantization this loader does not read.
    """
    quantization = config.get("quantization_config")
    if not quantization:
        return None
    groups = quantization.get("config_groups", {}) if isinstance(quantization, dict) else {}
    weights = [group.get("weights") or {} for group in groups.values() if isinstance(group, dict)]
    known = isinstance(quantization, dict) and quantization.get("quant_method") == "compressed-tensors" and weights
    if known and all(w.get("num_bits") == 8 and w.get("type") == "int" and w.get("strategy") == "channel" and w.get("symmetric", True) for w in weights):
        return "int8"
    raise ModelFileError(f"quantization {quantization!r:.200} is not read here", where=str(path / "config.json"), do="Use the float weights, or 8-bit per-channel compressed-tensors.")


class without_prefix:
    """A source whose names lack a prefix that some checkpoints of a family write and others leave out."""

    def __init__(self, source: TensorSource, prefixes: Iterable[str]):
        self.source = source
        self.full = {self._strip(name, prefixes): name for name in source.names()}

    @staticmethod
    def _strip(name: str, prefixes: Iterable[str]) -> str:
        for prefix in prefixes:
            name = name.removeprefix(prefix)
        return name

    def names(self) -> list[str]:
        return list(self.full)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(self.full[name])

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        return self.source.read(self.full[name], dtype) if dtype else self.source.read(self.full[name])

    def close(self) -> None:
        self.source.close()


def build(plan: TrunkPlan, entries: list[Entry], source: TensorSource, where: str, dtype: torch.dtype, packed: str | None) -> Trunk:
    """A trunk with the source's weights: built without memory, checked by shape, filled tensor by tensor."""
    with torch.device("meta"):
        trunk = plan.build()
    names = set(source.names())
    expected = {}
    for entry in entries:
        if entry.optional and entry.theirs not in names:
            continue
        expected[entry.theirs] = their_shape(trunk, entry)
    scales = {f"{name}_scale" for name in expected if f"{name}_scale" in names} if packed else set()
    shapes = expected | {scale: (expected[scale.removesuffix("_scale")][0], 1) for scale in scales}
    if problems := check_tensors(source, shapes, where):
        raise ModelFileError("; ".join(problems), where=where, do="Get the model again, or correct its config.")
    for entry in entries:
        if entry.theirs not in expected:
            continue
        if f"{entry.theirs}_scale" in scales:
            weights, scale = source.read(entry.theirs), source.read(f"{entry.theirs}_scale").float()
            for ours, rows, row_scales in zip(entry.ours, entry.split(weights), replace_rows(entry, scale), strict=True):
                set_packed(trunk, ours, rows, row_scales)
            continue
        for ours, tensor in zip(entry.ours, entry.split(source.read(entry.theirs)), strict=True):
            set_parameter(trunk, ours, tensor.to(dtype if tensor.dim() >= 2 else torch.float32))
    tie(trunk)
    return trunk.requires_grad_(True)


def replace_rows(entry: Entry, scale: Tensor) -> list[Tensor]:
    """The per-row scales of each of ours: split as the weights are, never transposed."""
    return [scale] if entry.rows is None else [scale.index_select(0, index) for index in entry.rows()]


def their_shape(trunk: Trunk, entry: Entry) -> tuple[int, ...]:
    """The shape a tensor must have for the plan."""
    ours = [tuple(find_parameter(trunk, name)[0].get_parameter(find_parameter(trunk, name)[1]).shape) for name in entry.ours]
    shape = (sum(shape[0] for shape in ours), *ours[0][1:])
    return shape[::-1] if entry.transposed else shape


def find_parameter(trunk: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a parameter, and its name there. A linear's parameters are its storage's."""
    path, _, last = name.rpartition(".")
    module = trunk.get_submodule(path)
    return (module.storage, last) if isinstance(module, Linear) else (module, last)


def set_parameter(trunk: nn.Module, name: str, tensor: Tensor) -> None:
    module, last = find_parameter(trunk, name)
    setattr(module, last, nn.Parameter(tensor.contiguous()))


def set_packed(trunk: nn.Module, name: str, weight: Tensor, scale: Tensor) -> None:
    """Puts packed int8 rows into a linear."""
    linear = trunk.get_submodule(name.removesuffix(".weight"))
    assert isinstance(linear, Linear)
    bias = linear.storage.bias
    linear.storage = Int8Storage(weight, scale, None if bias is None else torch.zeros_like(bias, device=weight.device))


def tie(trunk: Trunk) -> None:
    """One parameter under two names again, where the head shares the token table."""
    head = trunk.plan.heads.get("lm")
    if head is not None and head.tied:  # type: ignore[union-attr]
        trunk.heads["lm"].linear.storage.weight = trunk.inputs.weight  # type: ignore[union-attr]


