"""One GGUF file (versions 2 and 3): typed metadata, tensor declarations, then aligned tensor data.

Nearly every byte before the data is a count or a length that a damaged file can turn into anything, so each is held
against the bytes that are left before something is read or allocated by it. The data must lie as every writer lays it
out: one tensor after the other, each padded to the alignment, nothing in between or after. That turns most damaged
sizes and types into an error here; what remains is caught by `check.py` against the model's config.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from steelyard.core.errors import ModelFileError, UnsupportedError, nearest
from steelyard.model.files.extent import ExtentFile
from steelyard.model.files.gguf_blocks import ROUTINES, TYPES, StorageType, dequantize
from steelyard.model.files.source import converted, quoted, shape_problem

AGAIN = "Download or copy the file again."
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
BOOL, STRING, ARRAY = 7, 8, 9
MOST_STRING_BYTES = 2**26  # a whole tokenizer.json may be embedded
MOST_NAME_BYTES = 2**16 - 1  # the format's own bound on keys
MOST_ARRAY_ITEMS = 2**22  # of all arrays together; the largest vocabularies with their merges and scores stay below two million
MOST_ARRAY_DEPTH = 4
MOST_DIMENSIONS = 4  # ggml's own
MOST_ALIGNMENT = 2**20
WINDOW = 2**20  # bytes of the head read at once


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies: `offset` and `size` in bytes from the start of the file, `shape` in PyTorch's order."""

    kind: StorageType
    shape: tuple[int, ...]
    offset: int
    size: int


class GgufFile:
    """A `TensorSource` over one GGUF file.

    Attributes:
        path: the file.
        version: 2 or 3.
        metadata: key -> int, float, bool, str, or a list of one of them.
        tensors: name -> where it lies, in the order of the declarations.

    Raises:
        ModelFileError: when anything the file declares does not fit it.
        UnsupportedError: when it is big-endian, of another version, one part of several, or has a type nobody knows yet.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file = ExtentFile(self.path)
        try:
            self.version, self.metadata, self.tensors = _read_head(self._file)
        except BaseException:
            self._file.close()
            raise

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._find(name).shape

    def stored_type(self, name: str) -> str:
        """The storage type as GGUF spells it (`Q4_1`)."""
        return self._find(name).kind.name

    def read(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        stored = self._find(name)
        data = self._file.read_tensor(stored.offset, stored.size)
        if stored.kind.plain is not None:
            return converted(data.view(stored.kind.plain), dtype).reshape(stored.shape)
        try:
            return dequantize(data, stored.kind, dtype or torch.float32).reshape(stored.shape)
        except UnsupportedError as error:
            raise error.at(f"{self.path}: tensor {quoted(name)}") from None

    def raw(self, name: str) -> tuple[memoryview, StorageType]:
        """A tensor's bytes as stored, in memory of their own, and their type."""
        stored = self._find(name)
        return self._file.read_tensor(stored.offset, stored.size).numpy().data, stored.kind

    def blocks(self, name: str) -> tuple[torch.Tensor, StorageType] | None:
        """A matrix as it is stored: rows of blocks uint8 [rows, bytes of a row] and their type.

        None where it is kept as plain numbers, or in blocks that are not read here.
        """
        stored = self._find(name)
        if stored.kind.name not in ROUTINES or len(stored.shape) != 2 or stored.shape[1] % stored.kind.elements:
            return None
        return self._file.read_tensor(stored.offset, stored.size).view(stored.shape[0], -1), stored.kind

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


class _Head:
    """A cursor over the bytes before the data. It fetches them window by window and never beyond the file."""

    def __init__(self, file: ExtentFile):
        self.file = file
        self.where = str(file.path)
        self.items = 0  # of all arrays so far
        self._window, self._start, self._at = b"", 0, 0  # bytes, their position in the file, the cursor within them

    @property
    def position(self) -> int:
        return self._start + self._at

    @property
    def left(self) -> int:
        return self.file.size - self.position

    def take(self, size: int) -> bytes:
        """The next bytes. The caller has bounded `size`; the file bounds it again."""
        end = self._at + size
        if end > len(self._window):
            if size > self.left:
                raise self.fault(f"truncated: {size} bytes are declared at byte {self.position}, but {self.left} are left")
            self._start = self.position
            self._window = self.file.read(self._start, min(max(size, WINDOW), self.left))
            self._at, end = 0, size
        out = self._window[self._at : end]
        self._at = end
        return out

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, each: int, what: str) -> int:
        """A count of things that take at least `each` bytes."""
        count = self.number("<Q")
        if count * each > self.left:
            raise self.fault(f"declares {count} {what}, but only {self.left} bytes are left")
        return count

    def text(self, most: int, what: str) -> str:
        size = int.from_bytes(self.take(8), "little")
        if size > most or size > self.left:
            raise self.fault(
                f"declares {what} of {size} bytes at byte {self.position - 8}, but {min(self.left, most)} are the most possible"
            )
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fault(f"{what} at byte {self.position - size} is not UTF-8 ({error.reason})") from None

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        """A typed metadata value."""
        if kind == BOOL:
            return self._boolean(self.take(1), what)
        if form := SCALARS.get(kind):
            return self.number(form)
        if kind == STRING:
            return self.text(MOST_STRING_BYTES, what)
        if kind == ARRAY:
            return self._array(what, depth + 1)
        raise self.fault(f"{what} has the unknown type {kind}")

    def _array(self, what: str, depth: int) -> list[Any]:
        if depth > MOST_ARRAY_DEPTH:
            raise self.fault(f"{what} nests arrays more than {MOST_ARRAY_DEPTH} deep")
        kind = self.number("<I")
        form = SCALARS.get(kind)
        each = struct.calcsize(form) if form else {STRING: 8, ARRAY: 12}.get(kind)
        if each is None:
            raise self.fault(f"{what} is an array of the unknown type {kind}")
        count = self.count(each, f"items in {what}")
        self.items += count
        if self.items > MOST_ARRAY_ITEMS:
            raise self.fault(f"{what} brings the arrays to {self.items} items; at most {MOST_ARRAY_ITEMS} are read")
        if kind == BOOL:
            return [self._boolean(bytes((byte,)), what) for byte in self.take(count)]
        if form:
            return list(struct.unpack(f"<{count}{form[1]}", self.take(count * each)))
        if kind == STRING:
            return self._texts(count, what)
        return [self.value(kind, what, depth) for _ in range(count)]

    def _texts(self, count: int, what: str) -> list[str]:
        """Texts one after the other: those that lie in the window at a stroke, as a vocabulary has a hundred thousand. One that does not, or
        is none, is `text`'s."""
        out: list[str] = []
        while len(out) < count:
            window, at = self._window, self._at
            try:
                while len(out) < count and (end := at + 8 + int.from_bytes(window[at : at + 8], "little")) <= len(window):
                    out.append(window[at + 8 : end].decode("utf-8"))
                    at = end
            except UnicodeDecodeError:
                pass
            self._at = at
            if len(out) < count:
                out.append(self.text(MOST_STRING_BYTES, what))
        return out

    def _boolean(self, byte: bytes, what: str) -> bool:
        if byte not in (b"\x00", b"\x01"):
            raise self.fault(f"{what} is boolean but holds {byte[0]}")
        return byte == b"\x01"

    def fault(self, what: str) -> ModelFileError:
        return ModelFileError(what, where=self.where, do=AGAIN)


def _read_head(file: ExtentFile) -> tuple[int, Mapping[str, Any], dict[str, StoredTensor]]:
    head = _Head(file)
    if file.size < 24 or head.take(4) != b"GGUF":
        raise ModelFileError(
            f"not a GGUF file ({file.size} bytes, no `GGUF` at its start or no room for a head)", where=head.where, do=AGAIN
        )
    version = head.number("<I")
    if version not in (2, 3):
        big_endian = version & 0xFFFF == 0 and version >> 16 in (0x0100, 0x0200, 0x0300)
        what = "big-endian GGUF" if big_endian else f"GGUF version {version}"
        raise UnsupportedError(f"{what} is not read here", where=head.where, do="Convert the model to little-endian GGUF version 3 again.")
    tensor_count = head.count(24, "tensors")
    metadata = _metadata(head, head.count(13, "metadata pairs"))
    if isinstance(parts := metadata.get("split.count"), int) and parts > 1:
        raise UnsupportedError(f"one of {parts} parts of a model", where=head.where, do="Merge them first: `llama-gguf-split --merge`.")
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= MOST_ALIGNMENT or alignment & (alignment - 1):
        raise head.fault(f"`general.alignment` is {alignment!r:.40}, not a power of two")
    if tensor_count * 24 > head.left:
        raise head.fault(f"declares {tensor_count} tensors, but only {head.left} bytes are left")
    declared: dict[str, tuple[StorageType, tuple[int, ...], int, int]] = {}
    for _ in range(tensor_count):
        name = head.text(MOST_NAME_BYTES, "a tensor's name")
        if name in declared:
            raise head.fault(f"declares tensor {quoted(name)} twice")
        declared[name] = _declaration(head, f"tensor {quoted(name)}", alignment)
    data_start = -(-head.position // alignment) * alignment
    tensors = {name: StoredTensor(kind, shape, data_start + offset, size) for name, (kind, shape, offset, size) in declared.items()}
    _check_layout(tensors, data_start, alignment, file)
    return version, metadata, tensors


def _metadata(head: _Head, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = head.text(MOST_NAME_BYTES, "a metadata key")
        if key in metadata:
            raise head.fault(f"metadata key {quoted(key)} appears twice")
        metadata[key] = head.value(head.number("<I"), f"metadata {quoted(key)}")
    return metadata


def _declaration(head: _Head, what: str, alignment: int) -> tuple[StorageType, tuple[int, ...], int, int]:
    """Type, shape, offset from the data's start and size of the next declared tensor."""
    dimensions = head.number("<I")
    if dimensions > MOST_DIMENSIONS:
        raise head.fault(f"{what} declares {dimensions} dimensions; GGUF has at most {MOST_DIMENSIONS}")
    sizes = [head.number("<Q") for _ in range(dimensions)]  # fastest dimension first
    if problem := shape_problem(sizes):
        raise head.fault(f"{what} declares {problem}")
    kind = TYPES.get(number := head.number("<I"))
    if kind is None:
        raise UnsupportedError(
            f"{what} has the unknown type {number}",
            where=head.where,
            do="Download the file again; if it is whole, its type is not read here.",
        )
    if (sizes[0] if sizes else 1) % kind.elements:
        raise head.fault(f"{what} has rows of {sizes[0] if sizes else 1} weights, but {kind.name} comes in blocks of {kind.elements}")
    offset = head.number("<Q")
    if offset % alignment:
        raise head.fault(f"{what} starts at {offset}, which is not aligned to {alignment}")
    return kind, tuple(reversed(sizes)), offset, math.prod(sizes) // kind.elements * kind.bytes


def _check_layout(tensors: Mapping[str, StoredTensor], data_start: int, alignment: int, file: ExtentFile) -> None:
    """Every tensor right after the padding of the one before, the last one ending within the file, nothing behind it."""
    end = data_start
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].size)):
        where = f"{file.path}: tensor {quoted(name)}"
        if stored.offset != end:
            fault = "overlaps the tensor before it" if stored.offset < end else f"leaves {stored.offset - end} bytes before it to no tensor"
            raise ModelFileError(f"{fault} (it starts at byte {stored.offset})", where=where, do=AGAIN)
        last = stored.offset + stored.size
        if stored.size and last > file.size:
            raise ModelFileError(f"truncated: it ends at byte {last}, but the file has {file.size}", where=where, do=AGAIN)
        end = -(-last // alignment) * alignment
    if file.size > end:
        raise ModelFileError(f"{file.size - end} bytes after the last tensor belong to none", where=str(file.path), do=AGAIN)
