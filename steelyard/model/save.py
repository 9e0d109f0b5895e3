"""Writing a model as a Hugging Face directory: under its family's names, beside the old one, then renamed into place."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.files import write_json, write_text
from steelyard.model.families.family import Entry, Family
from steelyard.model.files import sentence_directory
from steelyard.model.files.check import write_digests
from steelyard.model.files.safetensors_file import write_safetensors
from steelyard.model.heads.pool import PoolPlan
from steelyard.model.linears.blocks import block_types
from steelyard.model.linears.float8 import Float8Storage
from steelyard.model.linears.int4 import GROUP, Int4Storage
from steelyard.model.linears.int8 import Int8Storage
from steelyard.model.linears.linear import Linear
from steelyard.model.linears.streamed import readers
from steelyard.model.linears.ternary import PackedTernaryStorage, TernaryPlan, TernaryStorage
from steelyard.model.stored_types import as_stored, type_of
from steelyard.model.template import ChatTemplate
from steelyard.model.tokenizer import Tokenizer
from steelyard.model.trunk import Trunk
from steelyard.model.weights import find_parameter

EIGHT_BITS = {"num_bits": 8, "symmetric": True}
FOUR_BITS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP, "dynamic": False}


def quantization(storage: Int8Storage | Int4Storage | Float8Storage, ignored: list[str]) -> dict[str, Any]:
    """How packed linears are described, in compressed-tensors' words.

    Args:
        storage: what each of them is like. Activations in two digits of 8 bits are its "none rounded"; for those of 8 bits for each 32,
            beside weights of 4 bits, it has no word: it says none.
        ignored: modules that are not packed, by their public names.
    """
    eight = EIGHT_BITS | {"type": "float" if isinstance(storage, Float8Storage) else "int"}
    rounds = storage.rounds if isinstance(storage, Float8Storage) else getattr(storage, "digits", None) == 1
    group = {
        "targets": ["Linear"],
        "weights": FOUR_BITS if isinstance(storage, Int4Storage) else eight | {"strategy": "channel", "dynamic": False},
        "input_activations": eight | {"strategy": "token", "dynamic": True} if rounds else None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": {"int4": "pack-quantized", "int8": "int-quantized", "float8": "float-quantized"}[storage.kind],
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignored,
    }


def ternary(plan: TernaryPlan) -> dict[str, Any]:
    """How ternary linears are described, in transformers' words."""
    mode = "offline" if plan.packed else "online"
    return {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": mode, "modules_to_not_convert": ["lm_head"]}


DROPPED = ("quantization_config", "torch_dtype", "dtype", "auto_map", sentence_directory.KEY)
"""Keys that are not copied: said anew, kept in files of their own, or pointing to code that is never copied."""


class Saveable(Protocol):
    """What a directory is written of: a `Model`, which says what each part is."""

    trunk: Trunk
    family: Family
    config: Mapping[str, Any]
    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    record: dict[str, Any]
    stored: Mapping[str, torch.dtype]


def save(model: Saveable, directory: Path) -> Path:
    """Writes the directory whole or not at all; an existing model there is replaced only when the new one is complete.

    Raises:
        SteelyardError: the disk is full, or something that is not a model stands in the way.
        UnsupportedError: branches (LoRA) that are not merged.
    """
    directory = Path(os.path.abspath(directory))
    # Not tempfile: its folders are open to their owner alone, and a model is for others too.
    temporary = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.part")
    try:
        check_place(directory)
        temporary.mkdir(parents=True)
        write_files(model, temporary)
        put_in_place(temporary, directory)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what, do = "the disk is full", "Free some space and save again; what stood there before is untouched."
        else:
            what, do = f"cannot be written ({error.strerror})", "Choose a folder you may write to."
        raise SteelyardError(what, where=str(directory), do=do) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def check_place(directory: Path) -> None:
    """Refuses to replace what is not a model."""
    if directory == Path.cwd():
        what = "is the folder this program runs in, which cannot be replaced"
    elif directory.exists() and not directory.is_dir():
        what = "a file is in the way of the folder"
    elif directory.exists() and any(directory.iterdir()) and not (directory / "config.json").exists():
        what = "the folder exists and holds no model"
    else:
        return
    raise SteelyardError(what, where=str(directory), do="Choose another folder.")


def put_in_place(new: Path, directory: Path) -> None:
    """Swaps directories; a crash between the two renames leaves both under names that say what they are."""
    old = directory.with_name(f".{directory.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if directory.exists():
        os.rename(directory, old)
    try:
        os.rename(new, directory)
    except OSError:
        if old.exists():
            os.rename(old, directory)
        raise
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(old)


def write_files(model: Saveable, directory: Path) -> None:
    """Everything a model directory holds."""
    tensors = dict(their_tensors(model))
    changed = narrow(model, tensors)
    write_safetensors(directory, tensors)
    write_json(directory / "config.json", config(model, tensors.values()) | ({"dtype": "float32"} if changed else {}))
    if model.tokenizer is not None:
        model.tokenizer.save(directory)
    if model.template is not None:
        model.template.save(directory)
    if isinstance(pool := model.trunk.plan.heads.get("pool"), PoolPlan):
        plan = model.trunk.plan
        said = {"pooling": pool.mode, "normalize": pool.normalize, "max_seq_length": plan.context, "width": plan.width}
        sentence_directory.write(directory, said)
    write_json(directory / "steelyard.json", model.record | {"files": write_digests(directory)})
    if isinstance(card := model.record.get("card"), str):
        write_text(directory / "README.md", card)


def narrow(model: Saveable, tensors: dict[str, Tensor]) -> bool:
    """Puts tensors that are what they were into the type of the file they came from, in place.

    Returns:
        Whether some no longer are: then float32 is the type in which others must open the model to lose nothing.
    """
    changed = False
    for entry in model.family.entries(model.trunk.plan):
        kind = type_of(model.stored, entry.ours)
        if kind is None or entry.theirs not in tensors or tensors[entry.theirs].dtype == kind:
            continue
        tensors[entry.theirs] = as_stored(tensors[entry.theirs], kind)
        changed |= tensors[entry.theirs].dtype in (torch.float32, torch.int8, torch.float8_e4m3fn)
    return changed


def config(model: Saveable, tensors: Iterable[Tensor]) -> dict[str, Any]:
    """config.json, saying how the tensors are stored."""
    stored = {
        tensor.dtype
        for tensor in tensors
        if tensor.is_floating_point() and tensor.itemsize > 1 and tensor.dim() >= 2 and tensor.shape[-1] > 1
    }
    dtype = str(stored.pop()).removeprefix("torch.") if len(stored) == 1 else "float32"
    out = {key: value for key, value in model.config.items() if key not in DROPPED}
    out |= {"architectures": [model.family.architecture], "model_type": model.family.name, "dtype": dtype}
    if isinstance(model.trunk.plan.linears, TernaryPlan):
        out["quantization_config"] = ternary(model.trunk.plan.linears)
    linears = {name: module.storage for name, module in model.trunk.named_modules() if isinstance(module, Linear)}
    packed = {name: storage for name, storage in linears.items() if isinstance(storage, Int8Storage | Int4Storage | Float8Storage)}
    if len({(storage.kind, storage.extra_repr()) for storage in packed.values()}) > 1:
        raise UnsupportedError("linears packed in several ways in one model", do="Quantize all of them alike.")
    if packed:
        out["quantization_config"] = quantization(next(iter(packed.values())), [] if "heads.lm.linear" in packed else ["lm_head"])
    return out


def their_tensors(model: Saveable):
    """(name, tensor) under the family's public names."""
    for name, module in model.trunk.named_modules():
        if isinstance(module, Linear) and module.branches:
            raise UnsupportedError(
                f"`{name}` has branches that are not merged", do="Merge the adapter before saving, or save the adapter alone."
            )
    if kept := block_types(model.trunk):
        raise UnsupportedError(
            f"the weights are kept in GGUF's blocks ({', '.join(kept)})", do='Load the model with dtype="float32" to save it.'
        )
    if readers(model.trunk):
        raise UnsupportedError("the weights are on disk, for answering only", do="Load the model with keep=1 to save it.")
    for entry in model.family.entries(model.trunk.plan):
        if entry.repeated:
            continue
        held = [find_parameter(model.trunk, ours) for ours in entry.ours]
        held = [(two_bits(module) if last == "weight" else module, last) for module, last in held]
        if all(isinstance(module, Int4Storage) for module, _ in held) and held[0][1] == "weight":
            yield from four_bits(entry, [module for module, _ in held])
            continue
        parts = [getattr(module, last) for module, last in held]
        if any(part is None for part in parts):
            continue
        yield entry.theirs, entry.join([part.detach() for part in parts]).cpu()
        if isinstance(held[0][0], PackedTernaryStorage) and held[0][1] == "weight":
            yield f"{entry.theirs}_scale", held[0][0].scale.cpu()
        scales = [module.scale for module, last in held if isinstance(module, Int8Storage | Float8Storage) and last == "weight"]
        if len(scales) == len(held):
            plain = torch.cat(scales) if entry.rows is None else permuted(scales, entry.rows())
            yield f"{entry.theirs}_scale", plain.cpu()


def four_bits(entry: Entry, storages: list[Any]):
    """(name, tensor) of a map in 4 bits, as compressed-tensors packs it; never transposed."""

    def joined(tensors: list[Tensor]) -> Tensor:
        return tensors[0] if entry.rows is None else permuted(tensors, entry.rows())

    packed = joined([storage.packed for storage in storages]).cpu()
    base = entry.theirs
    yield f"{base}_packed", packed.contiguous().view(torch.int32)
    yield f"{base}_scale", joined([storage.scale for storage in storages]).cpu()
    yield f"{base}_shape", torch.tensor([packed.shape[0], 2 * packed.shape[1]])


def two_bits(module: nn.Module) -> nn.Module:
    """The packed twin of ternary weights that are to be saved so; anything else as it is."""
    return PackedTernaryStorage.of(module) if isinstance(module, TernaryStorage) and module.packed else module


def permuted(scales: list[Tensor], indexes) -> Tensor:
    out = scales[0].new_empty(sum(len(index) for index in indexes), *scales[0].shape[1:])
    for index, part in zip(indexes, scales, strict=True):
        out[index] = part
    return out
