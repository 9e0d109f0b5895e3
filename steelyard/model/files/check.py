"""What can be wrong with weights that open: the wrong shapes or names for the config, values that are not numbers, other bytes.

Shapes, names and values are checked wherever a model is loaded. A flipped bit that leaves a finite weight shows in none of
them: only a checksum sees it, so saved models carry SHA-256 digests in `steelyard.json`, and `inspect --check` compares.

Cost: the scan for infinities and NaN is one pass of a vectorised minimum and maximum, 0.03 s for 135 million float32 weights
on one core; digests take about 1 s per gigabyte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath

import torch

from steelyard.core.errors import ModelFileError, SteelyardError
from steelyard.core.files import write_json
from steelyard.core.fingerprint import file_digest
from steelyard.model.files.source import TensorSource, quoted
from steelyard.model.files.strict_json import read_object

RECORD = "steelyard.json"
DIGESTED = {".safetensors", ".gguf", ".json", ".jinja", ".model", ".txt"}
"""Endings of files that change what a model answers. A README may be edited freely."""

_BUFFERS = re.compile(
    r"(^|\.)(rotary_emb\.inv_freq|h\.\d+\.attn\.(bias|masked_bias)|layers\.\d+\.attention\.(bias|masked_bias)|embeddings\.position_ids)$"
)


def is_buffer(name: str) -> bool:
    """Whether a tensor is a constant that old checkpoints of GPT-2, GPT-NeoX, Llama and BERT store and every loader makes anew."""
    return _BUFFERS.search(name) is not None


def check_tensors(
    source: TensorSource,
    expected_shapes: Mapping[str, tuple[int, ...]],
    where: str,
    *,
    optional: Collection[str] = (),
    ignore: Callable[[str], bool] = is_buffer,
    finite: bool = True,
) -> list[str]:
    """Everything about a source that disagrees with what a config calls for.

    Args:
        source: the weights.
        expected_shapes: name -> shape in PyTorch's order.
        where: the model's address; problems that a file has an address for keep their own.
        optional: expected names that may be absent (a tied head).
        ignore: names that may be there although nobody expects them.
        finite: whether to read every expected tensor whose shape is right and look for NaN and infinities. A loader that
            reads them anyway passes False and reads through `FiniteSource`.

    Returns:
        One sentence for each problem, without a final full stop; empty when all is well.
    """
    present = source.names()
    known = set(present)
    problems = [f"tensor {quoted(name)} is missing" for name in expected_shapes if name not in known and name not in optional]
    for name in present:
        if name not in expected_shapes:
            if not ignore(name):
                problems.append(f"tensor {quoted(name)} {_sizes(source.shape(name))} is not part of this architecture")
        elif (shape := tuple(source.shape(name))) != (expected := tuple(expected_shapes[name])):
            problems.append(f"tensor {quoted(name)} has the shape {_sizes(shape)}, but the config calls for {_sizes(expected)}")
        elif finite:
            try:
                problem = finite_problem(name, source.read(name))
            except SteelyardError as error:
                problem = f"{error.where}: {error.what}" if error.where and not error.where.startswith(where) else error.what
            if problem:
                problems.append(problem)
    return problems


def refuse(problems: list[str], where: str, most: int = 8) -> None:
    """Raises what `check_tensors` found, if it found anything: the first few in full, then how many more there are.

    Raises:
        ModelFileError: when there are problems.
    """
    if problems:
        more = f"; and {len(problems) - most} more" if len(problems) > most else ""
        raise ModelFileError("; ".join(problems[:most]) + more, where=where, do="Get the model again, or correct its config.")


def finite_problem(name: str, tensor: torch.Tensor) -> str | None:
    """What is not finite in a tensor, named and counted, or None."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return None
    tensor = tensor.float() if tensor.element_size() == 1 else tensor  # 8-bit floats have no minimum in PyTorch
    # Both ends of the range are finite exactly when every value is: minimum and maximum pass NaN on.
    low, high = torch.aminmax(tensor)
    if bool(torch.isfinite(low)) and bool(torch.isfinite(high)):
        return None
    counts = {"NaN": int(torch.isnan(tensor).sum()), "infinite": int(torch.isinf(tensor).sum())}
    found = " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    return f"tensor {quoted(name)} has {found} of {tensor.numel()} weights"


class FiniteSource:
    """A source that refuses a tensor with NaN or infinite weights as it is read, so that a loader reads everything once."""

    def __init__(self, source: TensorSource, where: str):
        self.source, self.where = source, where

    def names(self) -> list[str]:
        return self.source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(name)

    def read(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        tensor = self.source.read(name, dtype)
        if problem := finite_problem(name, tensor):
            kind = f" as {str(dtype).removeprefix('torch.')}" if dtype is not None else ""
            raise ModelFileError(
                f"{problem}{kind}", where=self.where, do="Download the model again; if it stays so, it was published broken."
            )
        return tensor

    def close(self) -> None:
        self.source.close()


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file that changes what the model answers: path within the directory -> 64 hex digits."""
    return {name: file_digest(directory / name) for name in _digested(directory)}


def write_digests(directory: Path) -> dict[str, str]:
    """Puts the digests into the directory's `steelyard.json` under `files`, keeping whatever else it holds; returns them."""
    path = directory / RECORD
    files = digests(directory)
    write_json(path, (read_object(path) if path.exists() else {}) | {"files": files})
    return files


def has_digests(directory: Path) -> bool:
    """Whether there is anything to verify: False for models that Steelyard did not save."""
    path = directory / RECORD
    return path.exists() and "files" in read_object(path)


def verify_digests(directory: Path) -> list[str]:
    """One sentence for each file that is not what it was when the model was saved; empty also where no digests are kept.

    Raises:
        ModelFileError: when `steelyard.json` itself cannot be understood.
    """
    if not has_digests(directory):
        return []
    where = str(directory / RECORD)
    recorded = read_object(directory / RECORD)["files"]
    if not isinstance(recorded, dict) or not all(
        isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) for value in recorded.values()
    ):
        raise ModelFileError("`files` is not a map from file names to SHA-256 digests", where=where, do="Save the model again.")
    problems = []
    for name, digest in recorded.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
            raise ModelFileError(f"names {quoted(name)}, which is not a file of this directory", where=where, do="Save the model again.")
        if not (directory / path).is_file():
            problems.append(f"file {quoted(name)} is missing")
        elif file_digest(directory / path) != digest:
            problems.append(f"file {quoted(name)} is not the one that was saved: its SHA-256 differs")
    return problems + [f"file {quoted(name)} was added after the model was saved" for name in _digested(directory) if name not in recorded]


def _digested(directory: Path) -> list[str]:
    """The files that digests cover, as POSIX paths, sorted; nothing hidden, and not the record itself."""
    names = [path.relative_to(directory) for path in directory.rglob("*") if path.suffix.lower() in DIGESTED and path.is_file()]
    shown = [name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)]
    return sorted(name for name in shown if name != RECORD)


def _sizes(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
