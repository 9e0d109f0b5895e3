"""One safetensors file: eight bytes of header length, a JSON header, then the tensors' bytes, nothing between or after.

The format has no checksum, so the header is held to all that can be held against it: every extent must match its shape
and type, follow the one before without a hole or an overlap, and the last must end where the file does. A header that
passes can still be wrong only in names, in types of equal width, or in sizes beside a zero; `check.py` compares those
with the model's config. Format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from steelyard.core.errors import ModelFileError, SteelyardError, UnsupportedError, nearest
from steelyard.core.files import write_json
from steelyard.model.files.extent import ExtentFile
from steelyard.model.files.source import converted, quoted, shape_problem
from steelyard.model.files.strict_json import MOST_BYTES, parse_object

FLOAT8 = "F8_E4M3"
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    FLOAT8: torch.float8_e4m3fn,
    "F64": torch.float64,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
}
OTHER_DTYPES = {"U16", "U32", "U64", "C64", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F6_E2M3", "F6_E3M2", "F4"}
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
AGAIN = "Download or copy the file again."


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies: `offset` and `size` in bytes from the start of the file; `dtype` as the file spells it."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


class SafetensorsFile:
    """A `TensorSource` over one safetensors file.

    Attributes:
        path: the file.
        tensors: name -> where it lies, in the order of the bytes.
        metadata: the header's free text pairs.

    Raises:
        ModelFileError: when anything the header declares does not fit the file.
        UnsupportedError: when a tensor has a type this package does not read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file = ExtentFile(self.path)
        try:
            self.tensors, self.metadata = _read_header(self._file)
        except BaseException:
            self._file.close()
            raise

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._find(name).shape

    def stored_type(self, name: str) -> str:
        """The type as the file spells it (`BF16`)."""
        return self._find(name).dtype

    def read(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        stored = self._find(name)
        data = self._file.read_tensor(stored.offset, stored.size)
        if stored.dtype == "BOOL" and bool((data > 1).any()):
            raise ModelFileError(f"tensor {quoted(name)} is boolean but has bytes other than 0 and 1", where=str(self.path), do=AGAIN)
        return converted(data.view(DTYPES[stored.dtype]).reshape(stored.shape), dtype)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _find(self, name: str) -> StoredTensor:
        if name not in self.tensors:
            raise ModelFileError(f"there is no tensor {quoted(name)}", where=str(self.path), do=nearest(name, self.tensors))
        return self.tensors[name]


def _read_header(file: ExtentFile) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    where = str(file.path)
    if file.size < 8:
        raise ModelFileError(f"not a safetensors file: only {file.size} bytes", where=where, do=AGAIN)
    start = file.read(0, 8)
    if reason := _other_format(start):
        raise ModelFileError(f"not a safetensors file but {reason}", where=where, do="Convert the model to safetensors where you trust it.")
    length = int.from_bytes(start, "little")
    if length > MOST_BYTES:
        raise ModelFileError(f"the header claims {length} bytes; the format allows {MOST_BYTES}", where=where, do=AGAIN)
    if 8 + length > file.size:
        raise ModelFileError(f"truncated: the header claims {length} bytes, but the file has {file.size}", where=where, do=AGAIN)
    header = parse_object(file.read(8, length), f"{where}: header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelFileError("`__metadata__` holds something other than text", where=f"{where}: header", do=AGAIN)
    tensors = {name: _entry(entry, 8 + length, f"{where}: tensor {quoted(name)}") for name, entry in header.items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].size)))
    end = 8 + length
    for name, stored in tensors.items():
        if stored.offset != end:
            fault = "overlaps the tensor before it" if stored.offset < end else f"leaves {stored.offset - end} bytes before it to no tensor"
            raise ModelFileError(f"{fault} (it starts at byte {stored.offset})", where=f"{where}: tensor {quoted(name)}", do=AGAIN)
        end += stored.size
    if end > file.size:
        raise ModelFileError(f"truncated: the tensors need {end} bytes, but the file has {file.size}", where=where, do=AGAIN)
    if end < file.size:
        raise ModelFileError(f"{file.size - end} bytes after the last tensor belong to none", where=where, do=AGAIN)
    return tensors, metadata


def _entry(entry: Any, data_start: int, where: str) -> StoredTensor:
    """One tensor's declaration, checked against itself; the caller checks it against its neighbours and the file."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ModelFileError("declares no `dtype`, `shape` and `data_offsets`", where=where, do=AGAIN)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        if isinstance(dtype, str) and dtype in OTHER_DTYPES:
            raise UnsupportedError(
                f"stored as {dtype}, which is not read here", where=where, do=f"Convert it to one of {', '.join(DTYPES)}."
            )
        raise ModelFileError(f"unknown type {quoted(dtype)}", where=where, do=AGAIN)
    if not isinstance(shape, list) or (problem := shape_problem(shape)):
        raise ModelFileError(f"declares {problem if isinstance(shape, list) else 'a shape that is no list'}", where=where, do=AGAIN)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise ModelFileError("`data_offsets` are not two byte positions", where=where, do=AGAIN)
    begin, end = offsets
    size = prod(shape) * DTYPES[dtype].itemsize
    if end - begin != size:
        sizes = "x".join(map(str, shape)) or "a scalar"
        raise ModelFileError(f"{sizes} of {dtype} take {size} bytes, but bytes {begin} to {end} are declared", where=where, do=AGAIN)
    return StoredTensor(dtype, tuple(shape), data_start + begin, size)


def _other_format(start: bytes) -> str | None:
    """What a file really is that only has the name of a safetensors file."""
    if start.startswith(b"PK\x03\x04"):
        return "a zip archive (PyTorch's pickle format looks like this)"
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and start[2:3] in (b"\x8a", b"}", b"c", b"]", b"\x95"):
        return "a pickle, which could run any code"
    if start.startswith(b"GGUF"):
        return "a GGUF file"
    if start.lstrip()[:1] == b"<":
        return "a web page or XML"
    return None


def write_safetensors(
    directory: Path, tensors: Mapping[str, torch.Tensor], *, shard_bytes: int = 5_000_000_000, metadata: Mapping[str, str] | None = None
) -> list[Path]:
    """Writes weights the way `transformers` names them: `model.safetensors`, or shards and their index.

    Everything is written and synced beside the old files first, so a full disk or a kill while the bytes flow leaves the
    old model as it was. Weights of another sharding that lay there before are removed last.

    Args:
        directory: where to write; created if it is missing.
        tensors: name -> tensor. Two names for the same memory are written twice.
        shard_bytes: largest shard in bytes; a tensor above it has a shard of its own.
        metadata: free text for the headers; `format: pt` is always there, `transformers` insists on it.

    Returns:
        The files written.

    Raises:
        SteelyardError: when the disk is full or not writable.
        UnsupportedError: when a tensor has a type this package could not read again.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values():
            raise UnsupportedError(f"tensor {quoted(name)} is {tensor.dtype}, which is not written here", where=str(directory))
    shards = _shards(tensors, shard_bytes)
    paths = [
        directory / (SINGLE if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors") for i in range(1, len(shards) + 1)
    ]
    staged = [path.with_name(f".{path.name}.{os.getpid()}.part") for path in paths]
    header = {"format": "pt"} | dict(metadata or {})
    index, stale = directory / INDEX, []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for part, names in zip(staged, shards, strict=True):
            part.touch()  # with the permissions of any new file; the library would leave the owner's alone
            permissions = part.stat().st_mode
            save_file(_standalone(tensors, names), part, header)
            part.chmod(permissions)
            with part.open("rb") as file:
                os.fsync(file.fileno())
        stale = [
            path
            for path in directory.glob("model*.safetensors")
            if path not in paths and (path.name == SINGLE or SHARD.fullmatch(path.name))
        ]
        # From here to the end only names change. Without its index a half-renamed set of shards is refused, never mixed.
        if stale or len(shards) > 1:
            index.unlink(missing_ok=True)
        for part, path in zip(staged, paths, strict=True):
            os.replace(part, path)
        for path in stale:
            path.unlink()
        if len(shards) > 1:
            total = sum(tensor.nbytes for tensor in tensors.values())
            weight_map = {name: path.name for path, names in zip(paths, shards, strict=True) for name in names}
            write_json(index, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
        else:
            index.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise SteelyardError(
            f"the weights could not be written ({error})", where=str(directory), do="Free space or choose another folder, then save again."
        ) from error
    finally:
        for part in staged:
            part.unlink(missing_ok=True)
    return paths


def _shards(tensors: Mapping[str, torch.Tensor], shard_bytes: int) -> list[list[str]]:
    """Names in order, cut before the tensor that would make a shard too large. No tensors at all are one empty shard."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += tensor.nbytes
    return shards


def _standalone(tensors: Mapping[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    """Contiguous CPU tensors of which no two share memory: the library refuses those that do."""
    out: dict[str, torch.Tensor] = {}
    held: set[int] = set()
    for name in names:
        tensor = tensors[name].detach().to("cpu").contiguous()
        if tensor.untyped_storage().data_ptr() in held:
            tensor = tensor.clone()
        held.add(tensor.untyped_storage().data_ptr())
        out[name] = tensor
    return out
