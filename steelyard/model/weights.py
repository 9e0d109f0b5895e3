"""A trunk filled with the tensors of a file: built without memory, checked by shape, filled tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from steelyard.core.errors import ModelFileError
from steelyard.model.families.family import Entry
from steelyard.model.files.check import FiniteSource, check_tensors, refuse
from steelyard.model.files.gguf_blocks import StorageType
from steelyard.model.files.safetensors_file import FLOAT8
from steelyard.model.files.source import TensorSource
from steelyard.model.heads.lm import LMHeadPlan
from steelyard.model.linears.blocks import BlockStorage
from steelyard.model.linears.float8 import Float8Storage
from steelyard.model.linears.int4 import GROUP, Int4Storage
from steelyard.model.linears.int8 import Int8Storage
from steelyard.model.linears.linear import Linear
from steelyard.model.linears.ternary import PackedTernaryStorage, TernaryPlan, rows_of, unpack
from steelyard.model.trunk import Trunk, TrunkPlan


class Renamed:
    """A source without what a family's checkpoints may or may not have: a prefix before every name, other
    names, tensors that are no weights."""

    def __init__(
        self, source: TensorSource, *, prefixes: Sequence[str] = (), aliases: Mapping[str, str] | None = None, ignored: Sequence[str] = ()
    ):
        self.source = source
        unwanted = re.compile("|".join(f"(?:{pattern})" for pattern in ignored) or r"\Z.")
        self.full = {}
        for name in source.names():
            short = name
            for prefix in prefixes:
                short = short.removeprefix(prefix)
            if not unwanted.fullmatch(short):
                self.full[(aliases or {}).get(short, short)] = name

    def names(self) -> list[str]:
        return list(self.full)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(self.full[name])

    def stored_type(self, name: str) -> str | None:
        """The type as the source spells it; None where it does not say."""
        kind_of = getattr(self.source, "stored_type", None)
        return None if kind_of is None else kind_of(self.full[name])

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        return self.source.read(self.full[name], dtype) if dtype else self.source.read(self.full[name])

    def blocks(self, name: str) -> tuple[Tensor, StorageType] | None:
        """A matrix as the source keeps it: rows of blocks uint8 [out, bytes] and their type; None where it keeps no blocks."""
        read = getattr(self.source, "blocks", None)
        return None if read is None else read(self.full[name])

    def close(self) -> None:
        self.source.close()


TABLE = "inputs.weight"


class Packing(NamedTuple):
    """How a file packs the weights of linears, where it does: of what kind the storage is, and the bits of an activation beside them."""

    kind: Literal["int8", "int4", "float8"]
    activations: Literal[8, 16]


def build(
    plan: TrunkPlan,
    entries: list[Entry],
    source: Renamed,
    where: str,
    dtype: torch.dtype,
    packing: Packing | None,
    stored: bool = False,
    filled: Callable[[int, nn.Module], None] | None = None,
) -> Trunk:
    """A trunk with the source's weights: built without memory, checked by shape, filled tensor by tensor.

    Args:
        plan: what to build.
        entries: where its tensors stand in the source.
        source: the weights.
        where: address for errors.
        dtype: float type of matrices in memory; vectors are float32.
        packing: how weights may be packed; None when every one is a float.
        stored: whether linears stay in the source's blocks where it has any.
        filled: told of each block of the trunk once all its weights are there, before the next one's are read.

    Raises:
        ModelFileError: tensors are missing, unexpected, of another shape, not numbers, or not weights at all.
    """
    with torch.device("meta"):
        trunk = plan.build()
    names = set(source.names())
    fours = {entry.theirs for entry in entries if packing and packing.kind == "int4" and f"{entry.theirs}_packed" in names}
    held = [entry for entry in entries if entry.theirs in names or entry.theirs in fours or not (entry.optional or entry.repeated)]
    expected = {entry.theirs: their_shape(trunk, entry) for entry in held}
    rowwise = packing if packing and packing.kind != "int4" else None
    scales = {_scale(entry): (their_rows(trunk, entry), 1) for entry in held if rowwise and _scale(entry) in names}
    two_bits = {entry.theirs for entry in held if isinstance(plan.linears, TernaryPlan) and _scale(entry) in names}
    expected |= {name: (rows_of(expected[name][0]), *expected[name][1:]) for name in two_bits}
    scales |= {f"{name}_scale": (1,) for name in two_bits}
    expected = {name: shape for name, shape in expected.items() if name not in fours}
    scales |= {name: shape for entry in held if entry.theirs in fours for name, shape in four_bit_shapes(trunk, entry, where).items()}
    refuse(check_tensors(source, expected | scales, where, finite=False), where)
    checked = FiniteSource(source, where)
    waiting = dict(enumerate(trunk.blocks)) if filled else {}
    for entry in sorted(held, key=block_of) if filled else held:
        for index in [index for index, block in waiting.items() if not any(p.is_meta for p in block.parameters())]:
            assert filled is not None
            filled(index, waiting.pop(index))
        if entry.theirs in fours:
            set_four_bits(trunk, entry, checked, where)
            continue
        if entry.theirs in two_bits:
            set_ternary(trunk, entry, checked, where)
            continue
        if rowwise and _scale(entry) in scales:
            weights, scale = read_packed(checked, entry.theirs, where, rowwise), read_floats(checked, _scale(entry), where, torch.float32)
            for ours, rows, row_scales in zip(entry.ours, entry.split(weights), scales_of(entry, scale), strict=True):
                set_packed(trunk, ours, rows, row_scales, rowwise)
            continue
        if source.stored_type(entry.theirs) == FLOAT8:
            problem = f"tensor `{entry.theirs}` holds 8-bit floats, and no scales stand beside it"
            raise ModelFileError(problem, where=where, do="Get the model again.")
        if stored and keep_blocks(trunk, entry, source, copied=filled is not None):
            continue
        kind = dtype if len(expected[entry.theirs]) >= 2 else torch.float32
        tensor = read_floats(checked, entry.theirs, where, kind)
        if entry.repeated:
            check_repeated(trunk, entry, tensor, where)
            continue
        for ours, part in zip(entry.ours, entry.split(tensor), strict=True):
            set_parameter(trunk, ours, part)
    for index, block in waiting.items():
        assert filled is not None
        filled(index, block)
    tie(trunk)
    return trunk.requires_grad_(True)


def block_of(entry: Entry) -> int:
    """The block an entry's tensors belong to; -1 for what stands before, after or beside the blocks."""
    first, number, *_ = entry.ours[0].split(".")
    return int(number) if first == "blocks" and number.isdigit() else -1


def keep_blocks(trunk: Trunk, entry: Entry, source: Renamed, copied: bool) -> bool:
    """Puts an entry's tensor into the trunk as the source's blocks; False where it holds none or is something else than linears or
    the token table. `copied`: rows that the source keeps in another order are brought into ours, as what is sent to disk must be."""
    linears = linears_of(trunk, entry)
    kept = source.blocks(entry.theirs) if linears or entry.ours == (TABLE,) else None
    if kept is None:
        return False
    data, type = kept
    indexes = list(entry.rows()) if entry.rows and not copied else []
    if [len(index) for index in indexes] == [len(data)]:
        linears[0].storage = BlockStorage(data, type, _placeholder(linears[0], data.device), indexes[0])
    else:
        for linear, rows in zip(linears, entry.split(data), strict=False):
            linear.storage = BlockStorage(rows, type, _placeholder(linear, rows.device))
    if entry.ours == (TABLE,):
        set_parameter(trunk, TABLE, torch.empty(0, trunk.plan.width))
        table = linears[0].storage if linears else BlockStorage(data, type)
        table.blocks()  # type: ignore[operator]  # refuses scales that are no numbers
        trunk.inputs.keep_in(table)  # type: ignore[arg-type]
    return True


def _scale(entry: Entry) -> str:
    return f"{entry.theirs}_scale"


def read_floats(source: FiniteSource, name: str, where: str, dtype: torch.dtype) -> Tensor:
    """A tensor of weights, in `dtype`. Integers are refused: read as they are they would be weights thousands of times too large."""
    tensor = source.read(name, dtype)
    if not tensor.is_floating_point():
        raise _wrong_kind(name, tensor, "floats", where)
    return tensor


def read_packed(source: FiniteSource, name: str, where: str, packing: Packing) -> Tensor:
    """A tensor of packed weights of 8 bits."""
    tensor, kind = source.read(name), torch.int8 if packing.kind == "int8" else torch.float8_e4m3fn
    if tensor.dtype != kind:
        raise _wrong_kind(name, tensor, f"{str(kind).removeprefix('torch.')}, as the scales beside it say", where)
    return tensor


def _wrong_kind(name: str, tensor: Tensor, expected: str, where: str) -> ModelFileError:
    return ModelFileError(f"tensor `{name}` holds {tensor.dtype}, not {expected}", where=where, do="Get the model again.")


def check_repeated(trunk: Trunk, entry: Entry, tensor: Tensor, where: str) -> None:
    """Refuses a second copy of a tensor that is not the same: which of the two is meant, only its author knows."""
    module, last = find_parameter(trunk, entry.ours[0])
    held = getattr(module, last)
    if not torch.equal(tensor.to(held.dtype), held):
        raise ModelFileError(
            f"`{entry.theirs}` differs from the token table, but the config ties the two",
            where=where,
            do="Set `tie_word_embeddings` to false, or remove the tensor that is not meant.",
        )


def scales_of(entry: Entry, scale: Tensor) -> list[Tensor]:
    """The per-row scales of each of ours: split as the weights are, never transposed."""
    return [scale] if entry.rows is None else [scale.index_select(0, index) for index in entry.rows()]


def their_shape(trunk: Trunk, entry: Entry) -> tuple[int, ...]:
    """The shape a tensor must have for the plan."""
    ours = [tuple(find_parameter(trunk, name)[0].get_parameter(find_parameter(trunk, name)[1]).shape) for name in entry.ours]
    shape = (sum(shape[0] for shape in ours), *ours[0][1:])
    return shape[::-1] if entry.transposed else shape


def their_rows(trunk: Trunk, entry: Entry) -> int:
    """Output rows of a linear map of theirs, whichever way round its matrix is kept."""
    return their_shape(trunk, entry)[-1 if entry.transposed else 0]


def find_parameter(trunk: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a parameter, and its name there. A linear's parameters are its storage's."""
    path, _, last = name.rpartition(".")
    module = trunk.get_submodule(path)
    return (module.storage, last) if isinstance(module, Linear) else (module, last)


def set_parameter(trunk: nn.Module, name: str, tensor: Tensor) -> None:
    module, last = find_parameter(trunk, name)
    setattr(module, last, nn.Parameter(tensor.contiguous()))


def set_packed(trunk: nn.Module, name: str, weight: Tensor, scale: Tensor, packing: Packing) -> None:
    """Puts packed rows of 8 bits into a linear."""
    linear = trunk.get_submodule(name.removesuffix(".weight"))
    assert isinstance(linear, Linear)
    bias = _placeholder(linear, weight.device)
    if packing.kind == "int8":
        linear.storage = Int8Storage(weight, scale, bias, packing.activations // 8)
    else:
        linear.storage = Float8Storage(weight, scale, bias, packing.activations == 8)


def four_bit_shapes(trunk: Trunk, entry: Entry, where: str) -> dict[str, tuple[int, ...]]:
    """What a map of 4 bits consists of in a file."""
    inputs = their_shape(trunk, entry)[0 if entry.transposed else -1]
    if inputs % GROUP:
        raise ModelFileError(
            f"`{entry.theirs}` has {inputs} inputs and is packed in groups of {GROUP}", where=where, do="Get the model again."
        )
    rows = their_rows(trunk, entry)
    return {f"{entry.theirs}_packed": (rows, inputs // 8), f"{entry.theirs}_scale": (rows, inputs // GROUP), f"{entry.theirs}_shape": (2,)}


def set_four_bits(trunk: nn.Module, entry: Entry, source: FiniteSource, where: str) -> None:
    """Puts weights of 4 bits into linears."""
    packed, shape = source.read(f"{entry.theirs}_packed"), source.read(f"{entry.theirs}_shape")
    scale = read_floats(source, f"{entry.theirs}_scale", where, torch.float16)
    if packed.dtype != torch.int32 or shape.tolist() != [len(packed), 8 * packed.shape[1]]:
        raise _wrong_kind(f"{entry.theirs}_packed", packed, "int32 of the shape that stands beside it", where)
    packed = packed.contiguous().view(torch.uint8)
    indexes = [None] if entry.rows is None else entry.rows()
    for ours, index in zip(entry.ours, indexes, strict=True):
        linear = trunk.get_submodule(ours.removesuffix(".weight"))
        assert isinstance(linear, Linear)
        parts = (packed, scale) if index is None else (packed.index_select(0, index), scale.index_select(0, index))
        linear.storage = Int4Storage(*parts, _placeholder(linear, packed.device))


def set_ternary(trunk: nn.Module, entry: Entry, source: FiniteSource, where: str) -> None:
    """Puts weights of 2 bits into a linear."""
    packed, scale = source.read(entry.theirs), read_floats(source, _scale(entry), where, torch.float32)
    if packed.dtype != torch.uint8:
        raise _wrong_kind(entry.theirs, packed, "bytes, as the scale beside it says", where)
    linear = trunk.get_submodule(entry.ours[0].removesuffix(".weight"))
    assert isinstance(linear, Linear)
    unpack(packed, linear.outputs, f"{where}: {entry.theirs}")  # refuses what is no weight
    linear.storage = PackedTernaryStorage(packed.contiguous(), scale, linear.outputs, _placeholder(linear, packed.device))


def _placeholder(linear: Linear, device: torch.device) -> Tensor | None:
    """Where a linear's bias will be put when it is read."""
    bias: Tensor | None = linear.storage.bias  # type: ignore[assignment]
    return None if bias is None else torch.zeros_like(bias, device=device)


def linears_of(trunk: Trunk, entry: Entry) -> list[Linear]:
    """The linears whose weights an entry holds, none where it holds anything else; the token table is also a tied head's."""
    if entry.transposed or entry.shift or entry.repeated:
        return []
    head = trunk.plan.heads.get("lm")
    if entry.ours == (TABLE,):
        return [trunk.heads["lm"].linear] if head is not None and head.tied else []  # type: ignore[union-attr]
    modules = [trunk.get_submodule(name.rpartition(".")[0]) for name in entry.ours if name.endswith(".weight")]
    linears = [module for module in modules if isinstance(module, Linear)]
    return linears if len(linears) == len(entry.ours) else []


def tie(trunk: Trunk) -> None:
    """One parameter under two names again, where the head shares the token table. Blocks are shared from the beginning.

    Of an encoder-decoder both trunks are looked at: it has no head of its own.
    """
    for inner in (child for child in trunk.children() if isinstance(child, Trunk)):
        tie(inner)
    head = trunk.plan.heads.get("lm")
    if isinstance(head, LMHeadPlan) and head.tied and trunk.inputs.kept is None:
        trunk.heads["lm"].linear.storage.weight = trunk.inputs.weight  # type: ignore[union-attr]
