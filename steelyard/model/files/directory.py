"""The weights of a Hugging Face directory: one safetensors file, or shards under an index. Pickles are refused by name.

A shard is trusted only as far as the index and its own header agree: every tensor of the index lies in the shard it
names, no shard holds a tensor the index does not know, and no shard is missing.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Self

import torch

from steelyard.core.errors import ModelFileError, nearest
from steelyard.model.files.safetensors_file import AGAIN, INDEX, SHARD, SINGLE, SafetensorsFile
from steelyard.model.files.source import TensorSource, quoted
from steelyard.model.files.strict_json import read_object

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}
"""Endings of files that run whatever code they hold when they are opened the usual way."""


def open_directory(path: str | Path) -> TensorSource:
    """The weights in a directory.

    Raises:
        ModelFileError: when there are none, only pickles, two sets at once, or shards and index that disagree.
        UnsupportedError: when a tensor has a type this package does not read.
    """
    path = Path(path)
    if not path.is_dir():
        raise ModelFileError("not a directory", where=str(path), do="Give a model's directory or a .gguf file.")
    index, single = path / INDEX, path / SINGLE
    if index.exists():
        shards = ShardedFiles(path)
        if single.exists() and single.name not in shards.files:
            shards.close()
            raise ModelFileError(
                f"holds two sets of weights, `{SINGLE}` and the shards of `{INDEX}`",
                where=str(path),
                do="Remove the set that is not meant.",
            )
        return shards
    if single.exists():
        return SafetensorsFile(single)
    raise _nothing_to_open(path)


def refuse_pickle(path: Path) -> None:
    """Refuses a file that could run code when opened, by its name alone."""
    if path.suffix.lower() in PICKLES:
        raise _pickle_refusal(path)


def _pickle_refusal(path: Path) -> ModelFileError:
    return ModelFileError(
        "refused: it is a pickle, and opening a pickle can run any code",
        where=str(path),
        do="Ask its author for safetensors, or convert it on a machine you can lose: load it with `transformers`, then "
        "`model.save_pretrained(folder, safe_serialization=True)`.",
    )


class ShardedFiles:
    """A `TensorSource` over `model.safetensors.index.json` and the shards it names.

    Attributes:
        files: file name -> the open shard.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.files: dict[str, SafetensorsFile] = {}
        self._shard_of = _read_index(directory / INDEX)
        try:
            missing = [name for name in dict.fromkeys(self._shard_of.values()) if not (directory / name).exists()]
            if missing:
                shown = ", ".join(quoted(name) for name in missing[:8]) + (" ..." if len(missing) > 8 else "")
                raise ModelFileError(
                    f"{len(missing)} of the index's shards are missing: {shown}", where=str(directory), do="Download them."
                )
            for name in dict.fromkeys(self._shard_of.values()):
                self.files[name] = SafetensorsFile(directory / name)
            self._check()
        except BaseException:
            self.close()
            raise

    def names(self) -> list[str]:
        return list(self._shard_of)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shard(name).shape(name)

    def stored_type(self, name: str) -> str:
        """The type as the shard spells it (`BF16`)."""
        return self._shard(name).stored_type(name)

    def read(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        return self._shard(name).read(name, dtype)

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _shard(self, name: str) -> SafetensorsFile:
        if name not in self._shard_of:
            raise ModelFileError(f"there is no tensor {quoted(name)}", where=str(self.directory), do=nearest(name, self._shard_of))
        return self.files[self._shard_of[name]]

    def _check(self) -> None:
        """Holds the index against what the shards really hold."""
        for tensor, name in self._shard_of.items():
            if tensor not in self.files[name].tensors:
                raise ModelFileError(
                    f"the index puts tensor {quoted(tensor)} into `{name}`, which does not hold it", where=str(self.directory), do=AGAIN
                )
        for name, file in self.files.items():
            for tensor in file.tensors:
                if (claimed := self._shard_of.get(tensor)) != name:
                    other = f"which the index puts into `{claimed}`" if claimed else "which the index does not know"
                    raise ModelFileError(f"`{name}` holds tensor {quoted(tensor)}, {other}", where=str(self.directory), do=AGAIN)


def _read_index(path: Path) -> dict[str, str]:
    """The index's map from tensor to file, every file a plain name in the same directory."""
    weight_map = read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError("has no `weight_map` from tensors to files", where=str(path), do=AGAIN)
    for tensor, name in weight_map.items():
        plain = isinstance(name, str) and name not in ("", "..") and name.isprintable()
        plain = plain and name == PurePosixPath(name).name == PureWindowsPath(name).name
        if not plain:
            raise ModelFileError(
                f"puts tensor {quoted(tensor)} into {quoted(name)}, not a file of this directory", where=str(path), do=AGAIN
            )
        refuse_pickle(path.with_name(name))
        if not name.endswith(".safetensors"):
            raise ModelFileError(f"puts tensor {quoted(tensor)} into {quoted(name)}, not a safetensors file", where=str(path), do=AGAIN)
    return weight_map


def _nothing_to_open(path: Path) -> ModelFileError:
    """Why a directory without weights has none, as far as its file names tell."""
    try:
        names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    except OSError as error:
        return ModelFileError(f"cannot be listed ({error.strerror})", where=str(path), do="Check its permissions.")
    where, suffixes = str(path), {name: Path(name).suffix.lower() for name in names}
    if any(SHARD.fullmatch(name) for name in names):
        return ModelFileError(f"holds shards but no `{INDEX}`", where=where, do="Download the index, or save the model again.")
    if "adapter_model.safetensors" in names:
        return ModelFileError("holds an adapter, not a model", where=where, do="Give the directory of the model the adapter belongs to.")
    if gguf := [name for name in names if suffixes[name] == ".gguf"]:
        return ModelFileError("holds GGUF, not safetensors", where=where, do=f"Give the file itself: {path / gguf[0]}")
    if pickles := [name for name in names if suffixes[name] in PICKLES]:
        return _pickle_refusal(path / pickles[0])
    if others := [name for name in names if suffixes[name] == ".safetensors"]:
        return ModelFileError(
            f"holds no `{SINGLE}`, only {', '.join(map(quoted, others[:4]))}", where=where, do=f"Rename the model's weights to `{SINGLE}`."
        )
    return ModelFileError(
        f"holds no weights: neither `{SINGLE}` nor `{INDEX}`", where=where, do="Give a model's directory or a .gguf file."
    )
