"""Opening a model: a name got before, a directory (of a model or of an adapter for one), a .gguf file, or hf:org/name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steelyard.core.errors import ModelFileError, SteelyardError, UnsupportedError
from steelyard.core.get import locate
from steelyard.core.meters.memory import trim
from steelyard.core.threads import apart
from steelyard.model import adapters
from steelyard.model.families.config import Config
from steelyard.model.families.family import Family, find, find_gguf
from steelyard.model.families.gguf import Description
from steelyard.model.files import sentence_directory
from steelyard.model.files.directory import open_directory
from steelyard.model.files.gguf_file import GgufFile
from steelyard.model.files.strict_json import read_object
from steelyard.model.linears.int4 import GROUP
from steelyard.model.linears.lora import merge
from steelyard.model.linears.streamed import BlockReader, send_to_disk, stays
from steelyard.model.linears.ternary import TernaryPlan
from steelyard.model.model import Model
from steelyard.model.stored_types import stored_types
from steelyard.model.template import ChatTemplate
from steelyard.model.tokenizer import Tokenizer
from steelyard.model.weights import Packing, Renamed, build

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "tokenizer_config.json")
"""Where any of these lies, a tokenizer is meant, and one that cannot be read is an error."""

EIGHT_BITS = {"num_bits": (8,), "symmetric": (True, None)}
"""What compressed-tensors must say of weights and activations for them to be multiplied as ours are; None = it need not say."""

ENDLESS = ("time_step_limit",)
"""Keys of config.json that may say Infinity, as Mamba-2's older ones do."""

INT4 = {"num_bits": (4,), "type": ("int",), "symmetric": (True, None), "strategy": ("group",), "group_size": (GROUP,), "actorder": (None,)}
"""The same, of weights of 4 bits."""

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STORED = "stored"


def load(name_or_path: str | Path, dtype: str = "float32", keep: float = 1.0, folder: Path | None = None, device: str = "cpu") -> Model:
    """Opens a model.

    Args:
        name_or_path: a name that `steelyard get` knows, a Hugging Face directory, a .gguf file, or hf:org/name.
        dtype: float type of the matrices in memory; float32 keeps every bit of what is stored. `stored` leaves GGUF's blocks as
            they are: least memory and fastest, for answering only (matrices that are no blocks come as float32).
        keep: share of the decoder's blocks that stay in memory; the others are sent to a file as they are read, and streamed from
            there block by block (`linears/streamed.py`): a model larger than memory opens, for answering only.
        folder: on the disk that this file is to be on; None = the system's for temporary files.
        device: where the weights come to lie, and so where the model is computed: `cpu`, `cuda`, `cuda:1`.

    Raises:
        ModelFileError: for anything in the files that cannot be trusted or understood.
        UnsupportedError: there is no such device, or streamed weights are to lie on another than the CPU.
    """
    if dtype not in (*FLOATS, STORED):
        raise SteelyardError(f"dtype {dtype!r}", do=f"Known: {', '.join(FLOATS)}, {STORED}.")
    if not 0 <= keep <= 1:
        raise SteelyardError(f"keep {keep!r}", do="Give the share of blocks that stay in memory, from 0 to 1.")
    place = device_of(device)
    if keep < 1 and place.type != "cpu":
        raise UnsupportedError(f"weights streamed from disk on {device}", do="Use keep=1, or leave `device` out.")
    path = locate(str(name_or_path))
    model = apart(lambda: _load(path, str(name_or_path), dtype, to_disk(keep, folder)))
    trim()  # of what reading the tokenizer and unpacking blocks left behind
    return model if place.type == "cpu" else model.with_trunk(model.trunk.to(place))


def device_of(name: str) -> torch.device:
    """A device by its name.

    Raises:
        UnsupportedError: PyTorch knows no such device here.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter of a PyTorch built without CUDA
        said = str(error).splitlines()[0]
        raise UnsupportedError(
            f"device {name!r}: {said}", do="`steelyard doctor` lists what this machine has; `cpu` always works."
        ) from None


Filled = Callable[[int, nn.Module], None]


def to_disk(keep: float, folder: Path | None) -> Filled | None:
    """What becomes of each block once it is read: None where all stay in memory."""
    if keep == 1:
        return None
    reader = BlockReader(folder)
    return lambda index, block: None if stays(index, keep) else send_to_disk(block, reader)


def _load(path: Path, name: str, dtype: str, filled: Filled | None) -> Model:
    if path.is_file():
        return load_gguf(path, name, FLOATS.get(dtype, torch.float32), stored=dtype == STORED, filled=filled)
    if dtype == STORED:
        dtype = "float32"
    if holds_adapter(path):
        if filled:
            raise UnsupportedError(
                "an adapter's base cannot be left on disk", where=str(path), do="Merge the adapter: `steelyard.load(...).save(folder)`."
            )
        return load_adapted(path, name, dtype)
    return load_directory(path, name, FLOATS[dtype], filled)


def load_directory(path: Path, name: str, dtype: torch.dtype, filled: Filled | None = None) -> Model:
    """A Hugging Face directory: config.json, safetensors, tokenizer, template."""
    config = read_config(path)
    family = find(config.get("model_type"), str(path / "config.json"))
    plan = family.plan(Config(config, str(path / "config.json")))
    source = open_directory(path)
    try:
        renamed = Renamed(source, prefixes=family.prefixes, aliases=family.aliases, ignored=family.ignored)
        entries = family.entries(plan)
        packing = None if isinstance(plan.linears, TernaryPlan) else packing_of(config, path)
        trunk = build(plan, entries, renamed, str(path), dtype, packing, filled=filled)
        stored = stored_types(renamed, entries)
    finally:
        source.close()
    record = read_object(path / "steelyard.json") if (path / "steelyard.json").exists() else {}
    tokenizer = read_tokenizer(path)
    check_frame(tokenizer, plan.inputs.vocabulary, str(path))
    return Model(trunk, family, config, tokenizer, ChatTemplate.from_directory(path), name, record, stored)


def holds_adapter(path: Path) -> bool:
    """Whether a directory holds a low-rank adapter and no model of its own."""
    return (path / adapters.CONFIG).exists() and not (path / "config.json").exists()


def load_adapted(path: Path, name: str, dtype: str) -> Model:
    """A low-rank adapter in peft's format: the base that it names, with the adapter taken into the weights.

    Raises:
        ModelFileError: the adapter is damaged, does not fit, or its base cannot be found.
    """
    where = str(path / adapters.CONFIG)
    base = adapters.read_config(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelFileError("the adapter does not say what it stands on", where=where, do="Set `base_model_name_or_path`.")
    public = base.count("/") == 1 and not base.startswith((".", "~", "/")) and not Path(base).exists()
    base = f"hf:{base}" if public else base
    try:
        if holds_adapter(locate(base)):
            raise ModelFileError("its base is an adapter too", do="Merge that one first.")
        model = load(base, dtype)
    except SteelyardError as error:
        raise ModelFileError(f"the adapter's base `{base}` cannot be opened: {error.what}", where=where, do=error.do) from error
    trunk = merge(adapters.load_adapter(model.family, model.trunk, path)).eval()
    return replace(
        model,
        trunk=trunk,
        name=name,
        tokenizer=read_tokenizer(path) or model.tokenizer,
        template=ChatTemplate.from_directory(path) or model.template,
        record=read_object(path / "steelyard.json") if (path / "steelyard.json").exists() else {},
    )


def read_config(path: Path) -> dict[str, Any]:
    """The config of a directory, with what files beside config.json add to it.

    Raises:
        ModelFileError: it is missing or damaged; code that it names (`auto_map`) is never looked at.
    """
    if not (path / "config.json").exists():
        open_directory(path).close()  # whatever else is wrong with the directory is the better answer
        raise ModelFileError("there is no config.json", where=str(path), do="Copy the model's config.json beside its weights.")
    config = read_object(path / "config.json", ENDLESS)
    return config | ({sentence_directory.KEY: said} if (said := sentence_directory.read(path)) else {})


def read_tokenizer(path: Path) -> Tokenizer | None:
    """The directory's tokenizer, or None where it holds no file of one: such a model takes token ids only, and says so."""
    return Tokenizer.from_directory(path) if any((path / file).exists() for file in TOKENIZER_FILES) else None


def load_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """A model's tokenizer without the model.

    Args:
        name_or_path: what `load` opens, a folder that holds a tokenizer's files and nothing else, or one of these files.

    Raises:
        ModelFileError: there is none, or its files cannot be trusted or understood.
    """
    file = Path(name_or_path)
    path = file.parent if file.name in TOKENIZER_FILES and file.is_file() else locate(str(name_or_path))
    if path.is_file():
        source = GgufFile(path)
        try:
            return Tokenizer.from_gguf(source.metadata)
        finally:
            source.close()
    if (tokenizer := read_tokenizer(path)) is None:
        raise ModelFileError(
            "no tokenizer is here",
            where=str(path),
            do=f"Name the model it belongs to, or a folder with {' or '.join(TOKENIZER_FILES[:2])}.",
        )
    return tokenizer


def check_frame(tokenizer: Tokenizer | None, rows: int, where: str) -> None:
    """Refuses a tokenizer that puts a token without a row before or after every text: it belongs to another model.

    Other tokens beyond the last row are refused where a text holds one; `inspect --check` names them.
    """
    around = (*tokenizer.prefix_ids, *tokenizer.suffix_ids) if tokenizer is not None else ()
    if bad := [id for id in around if id >= rows]:
        assert tokenizer is not None
        raise ModelFileError(
            f"the tokenizer reads {tokenizer.token(bad[0])!r} ({bad[0]}) around every text, but the model has {rows} rows",
            where=where,
            do="Use the tokenizer that belongs to the model.",
        )


def load_gguf(path: Path, name: str, dtype: torch.dtype, stored: bool = False, filled: Filled | None = None) -> Model:
    """A GGUF file: everything is in it. `stored` leaves linears in its blocks."""
    source = GgufFile(path)
    try:
        family = find_gguf(source.metadata.get("general.architecture"), str(path))
        assert family.gguf_entries is not None
        config = gguf_config(family, source, path)
        plan = family.plan(Config(config, str(path)))
        tokenizer = Tokenizer.from_gguf(source.metadata)
        check_frame(tokenizer, plan.inputs.vocabulary, str(path))
        template = ChatTemplate.from_gguf(source.metadata)
        source.metadata = {}  # a vocabulary's hundred thousand texts: the trunk's many small objects take their room
        entries, renamed = family.gguf_entries(plan), Renamed(source, ignored=family.gguf_ignored)
        trunk = build(plan, entries, renamed, str(path), dtype, None, stored, filled)
        types = stored_types(renamed, entries)
    finally:
        source.close()
    return Model(trunk, family, config | special_ids(tokenizer), tokenizer, template, name, stored=types)


def gguf_config(family: Family, source: GgufFile, path: Path) -> dict[str, Any]:
    """What config.json would say of the model in a GGUF file."""
    assert family.gguf_config is not None
    return family.gguf_config(Description.read(source.metadata, source, str(path)))


def special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """The special tokens a config.json names."""
    eos = list(tokenizer.eos_ids)
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": eos[0] if len(eos) == 1 else eos or None, "pad_token_id": tokenizer.pad_id}


def packing_of(config: Mapping[str, Any], path: Path) -> Packing | None:
    """How a model's linears are packed, or None for plain floats.

    Integers of 8 bits whose activations are not rounded at all get two digits: 16 bits of each token's largest number.

    Raises:
        ModelFileError: for a quantization this loader does not read.
    """
    quantization = config.get("quantization_config")
    if not quantization:
        return None
    groups = quantization.get("config_groups") if isinstance(quantization, dict) else None
    known = isinstance(quantization, dict) and quantization.get("quant_method") == "compressed-tensors"
    packings = {_packing(group) for group in groups.values()} if known and isinstance(groups, dict) else set()
    if len(packings) == 1 and (packing := packings.pop()) is not None:
        return packing
    raise ModelFileError(
        f"quantization {quantization!r:.200} is not read here",
        where=str(path / "config.json"),
        do="Use the float weights, or compressed-tensors of 8 bits (integers or floats) per channel, with activations of 8 bits per token or "
        f"unrounded, or of 4 bits, symmetric, in groups of {GROUP}.",
    )


def _packing(group: object) -> Packing | None:
    if not isinstance(group, dict):
        return None
    if _fits(group.get("weights"), INT4) and group.get("input_activations") is None:
        return Packing("int4", 8)
    weights, activations = group.get("weights"), group.get("input_activations")
    if _is_eight_bits(weights, "int", "channel") and (activations is None or _is_eight_bits(activations, "int", "token")):
        return Packing("int8", 16 if activations is None else 8)
    if _is_eight_bits(weights, "float", "channel") and (activations is None or _is_eight_bits(activations, "float", "token")):
        return Packing("float8", 16 if activations is None else 8)
    return None


def _is_eight_bits(part: object, type: str, strategy: str) -> bool:
    return _fits(part, EIGHT_BITS | {"type": (type,), "strategy": (strategy,)})


def _fits(part: object, allowed: Mapping[str, tuple[Any, ...]]) -> bool:
    return isinstance(part, dict) and all(part.get(key) in values for key, values in allowed.items())
