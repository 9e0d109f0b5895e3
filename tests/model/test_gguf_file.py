"""GGUF files: read as the `gguf` library reads them, refused when anything in them does not fit."""

import contextlib
import os
import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import ModelFileError, UnsupportedError
from steelyard.model.files.gguf_file import GgufFile
from steelyard.model.files.source import TensorSource

KINDS = gguf.GGMLQuantizationType
STRING, ARRAY, UINT32, BOOL = 8, 9, 4, 7
WEIGHTS = np.linspace(-1, 1, 32 * 8, dtype=np.float32).reshape(8, 32)
NORM = np.arange(64, dtype=np.float32)


def write(path: Path, alignment: int | None = None) -> Path:
    """A small model with metadata of every type and tensors of three types."""
    writer = gguf.GGUFWriter(path, "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -3)
    writer.add_uint16("u16", 60_000)
    writer.add_int16("i16", -30_000)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -2_000_000_000)
    writer.add_uint64("u64", 2**63)
    writer.add_int64("i64", -(2**62))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 1e300)
    writer.add_bool("yes", True)
    writer.add_string("text", "Grüße, 世界 🌍")
    writer.add_array("tokens", ["<s>", "", "Ġthe", "世"])
    writer.add_array("scores", [0.25, -1.5])
    writer.add_array("flags", [True, False])
    writer.add_tensor("token_embd.weight", quantize(WEIGHTS, KINDS.Q8_0), raw_dtype=KINDS.Q8_0)
    writer.add_tensor("norm.weight", NORM)
    writer.add_tensor("half.weight", WEIGHTS.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "model.gguf")


def text(value: str | bytes) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def build(tensors: list[tuple], data: bytes = b"", pairs: list[bytes] = (), version: int = 3, counts: tuple | None = None) -> bytes:
    """A file by hand: tensors are (name, dimensions fastest first, type number, offset)."""
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(pairs)))) + b"".join(pairs)
    for name, dimensions, kind, offset in tensors:
        head += text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)
    return head + bytes(-len(head) % 32) + data if data else head


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def read_all(path: Path) -> dict[str, tuple[int, ...]]:
    with GgufFile(path) as file:
        return {name: tuple(file.read(name).shape) for name in file.names()}


def test_metadata_keeps_its_types(model):
    with GgufFile(model) as file:
        assert {key: value for key, value in file.metadata.items() if "." not in key} == {
            **{"u8": 200, "i8": -3, "u16": 60_000, "i16": -30_000, "u32": 4_000_000_000, "i32": -2_000_000_000},
            **{"u64": 2**63, "i64": -(2**62), "f32": 0.5, "f64": 1e300, "yes": True, "text": "Grüße, 世界 🌍"},
            **{"tokens": ["<s>", "", "Ġthe", "世"], "scores": [0.25, -1.5], "flags": [True, False]},
        }
        assert file.metadata["yes"] is True
        assert file.metadata["general.architecture"] == "llama"


@pytest.mark.parametrize("alignment", [None, 8, 64, 4096])
def test_tensors_come_in_pytorch_order_with_their_values(tmp_path, alignment):
    with GgufFile(write(tmp_path / "model.gguf", alignment)) as file:
        assert isinstance(file, TensorSource)
        assert {name: file.shape(name) for name in file.names()} == {
            "token_embd.weight": (8, 32),
            "norm.weight": (64,),
            "half.weight": (8, 32),
        }
        assert np.array_equal(file.read("token_embd.weight").numpy(), dequantize(quantize(WEIGHTS, KINDS.Q8_0), KINDS.Q8_0))
        assert np.array_equal(file.read("norm.weight").numpy(), NORM)
        assert file.read("half.weight").dtype == torch.float16
        assert torch.equal(file.read("half.weight"), torch.from_numpy(WEIGHTS.astype(np.float16)))


def test_reading_straight_into_bfloat16_rounds_the_float32_values(model):
    with GgufFile(model) as file:
        for name in file.names():
            assert torch.equal(file.read(name, torch.bfloat16), file.read(name).to(torch.bfloat16))


def test_raw_gives_the_packed_bytes_and_their_type(model):
    with GgufFile(model) as file:
        data, kind = file.raw("token_embd.weight")
        assert kind.name == file.stored_type("token_embd.weight") == "Q8_0"
        assert bytes(data) == quantize(WEIGHTS, KINDS.Q8_0).tobytes()


def test_an_unknown_name_gets_the_nearest_one(model):
    with GgufFile(model) as file, pytest.raises(ModelFileError, match="norm.weight"):
        file.read("norm.wieght")


def test_the_real_model_equals_the_gguf_library(smollm):
    reader = gguf.GGUFReader(smollm)
    with GgufFile(smollm) as file:
        assert file.names() == [tensor.name for tensor in reader.tensors]
        assert file.metadata["tokenizer.ggml.tokens"] == reader.fields["tokenizer.ggml.tokens"].contents()
        for tensor in reader.tensors[1:6]:
            theirs = dequantize(tensor.data, tensor.tensor_type)
            assert np.array_equal(file.read(tensor.name).numpy(), theirs.reshape(file.shape(tensor.name)))


def test_version_2_reads_as_version_3_does(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(build([("a", [32], 0, 0)], bytes(128), version=2))
    assert read_all(path) == {"a": (32,)}


@pytest.mark.parametrize(
    "data", [build([]), build([("a", [0, 4], 0, 0)]), build([("a", [], 0, 0)], bytes(4))], ids=["none", "zero", "scalar"]
)
def test_files_with_nothing_or_scalars_in_them_open(tmp_path, data):
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    assert set(read_all(path).values()) <= {(4, 0), ()}


A = ("a", [32], 0, 0)
DATA = bytes(128)
ENDLESS = struct.pack("<IQ", ARRAY, 1) * 50
BAD = {
    "empty": (b"", "not a GGUF file"),
    "no magic": (b"FUGG" + bytes(100), "not a GGUF file"),
    "only a magic": (b"GGUF\x03\x00\x00\x00", "not a GGUF file"),
    "2^60 tensors": (build([A], DATA, counts=(2**60, 0)), f"declares {2**60} tensors"),
    "2^60 pairs": (build([A], DATA, counts=(1, 2**60)), f"declares {2**60} metadata pairs"),
    "more tensors than there are": (build([A], DATA, counts=(4, 0)), "type|truncated|declares"),
    "key of 2^63 bytes": (build([], pairs=[struct.pack("<Q", 2**63) + bytes(20)]), f"{2**63} bytes"),
    "string of 2^40 bytes": (build([], pairs=[pair("k", STRING, struct.pack("<Q", 2**40))]), "metadata `k` of 1099511627776 bytes"),
    "string that is not UTF-8": (build([], pairs=[pair("k", STRING, text(b"\xff\xfe"))]), "metadata `k`.*not UTF-8"),
    "array of 2^62 numbers": (build([], pairs=[pair("k", ARRAY, struct.pack("<IQ", UINT32, 2**62))]), "items in metadata `k`"),
    "array of an unknown type": (build([], pairs=[pair("k", ARRAY, struct.pack("<IQ", 77, 1))]), "array of the unknown type 77"),
    "endless nesting": (build([], pairs=[pair("k", ARRAY, ENDLESS)]), "nests arrays"),
    "value of an unknown type": (build([], pairs=[pair("k", 13, bytes(8))]), "metadata `k` has the unknown type 13"),
    "boolean of 7": (build([], pairs=[pair("k", BOOL, b"\x07")]), "metadata `k` is boolean but holds 7"),
    "a key twice": (build([], pairs=[pair("k", BOOL, b"\x01")] * 2), "`k` appears twice"),
    "alignment 0": (build([A], DATA, [pair("general.alignment", UINT32, bytes(4))]), "general.alignment"),
    "alignment 33": (build([A], DATA, [pair("general.alignment", UINT32, b"\x21\0\0\0")]), "general.alignment"),
    "alignment 2^31": (build([A], DATA, [pair("general.alignment", UINT32, b"\0\0\0\x80")]), "general.alignment"),
    "alignment as text": (build([A], DATA, [pair("general.alignment", STRING, text("32"))]), "general.alignment"),
    "alignment true": (build([A], DATA, [pair("general.alignment", BOOL, b"\x01")]), "general.alignment"),
    "a tensor twice": (build([A, ("a", [32], 0, 128)], DATA * 2), "tensor `a` twice"),
    "2^31 dimensions": (build([], pairs=[], counts=(1, 0)) + text("a") + struct.pack("<I", 2**31) + bytes(64), "dimensions"),
    "sizes whose product overflows": (build([("a", [2**33, 2**33], 0, 0)], DATA), "more elements"),
    "size beside a zero": (build([("a", [0, 2**62, 2**62], 0, 0)], DATA), "more elements"),
    "row that is no whole block": (build([("a", [33], 2, 0)], DATA), "blocks of 32"),
    "offset out of step": (build([("a", [32], 0, 7)], DATA), "not aligned"),
    "offset beyond the file": (build([("a", [32], 0, 2**40)], DATA), "leaves"),
    "tensor beyond the file": (build([("a", [2**30], 0, 0)], DATA), "truncated"),
    "overlap": (build([A, ("b", [32], 0, 32)], DATA * 2), "tensor `b`.*overlaps"),
    "hole": (build([A, ("b", [32], 0, 160)], DATA * 3), "tensor `b`.*leaves 32 bytes"),
    "bytes at the end": (build([A], DATA * 2), "128 bytes after the last tensor"),
}


@pytest.mark.parametrize("data, message", BAD.values(), ids=BAD.keys())
def test_a_broken_file_is_refused_with_its_address_and_a_remedy(tmp_path, data, message):
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises((ModelFileError, UnsupportedError), match=message) as caught:
        GgufFile(path)
    assert str(path) in str(caught.value)
    assert caught.value.do


@pytest.mark.parametrize(
    "data, message",
    [
        (build([A], DATA, version=1), "version 1"),
        (build([A], DATA, version=4), "version 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (build([("a", [32], 99, 0)], DATA), "unknown type 99"),
        (build([A], DATA, [pair("split.count", 2, b"\x03\x00")]), "one of 3 parts"),
    ],
)
def test_what_is_not_read_here_is_named(tmp_path, data, message):
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(UnsupportedError, match=message):
        GgufFile(path)


def test_a_known_type_without_a_routine_is_listed_and_named_when_read(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(build([("a", [256], 23, 0)], bytes(160)))
    with GgufFile(path) as file:
        assert file.shape("a") == (256,)
        with pytest.raises(UnsupportedError, match=r"model\.gguf: tensor `a`: GGUF type IQ4_XS"):
            file.read("a")


@pytest.mark.parametrize("path", ["absent.gguf", ".", "/dev/zero"])
def test_what_is_not_a_file_is_refused(tmp_path, path):
    with pytest.raises(ModelFileError):
        GgufFile(tmp_path / path)


def test_a_file_that_shrinks_while_open_is_an_error_and_not_a_crash(tmp_path):
    path = write(tmp_path / "model.gguf")
    with GgufFile(path) as file:
        os.truncate(path, 1000)
        with pytest.raises(ModelFileError, match="shorter"):
            file.read("half.weight")


def test_no_declared_length_allocates_more_than_the_file_has(tmp_path, model):
    whole, path = model.read_bytes(), tmp_path / "model.gguf"
    lengths = [8, 16, *(at for at in range(24, 900) if 0 < int.from_bytes(whole[at : at + 8], "little") < 300)]
    assert len(lengths) > 30
    tracemalloc.start()
    for at in lengths:
        for power in (16, 24, 31, 32, 40, 62, 63):
            path.write_bytes(whole[:at] + struct.pack("<Q", 1 << power) + whole[at + 8 :])
            with contextlib.suppress(ModelFileError, UnsupportedError):
                GgufFile(path).close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_every_single_bit_flip_before_the_data_keeps_the_shapes_or_is_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_array("t", ["a", "bc"])
    writer.add_float32("f", 1.0)
    writer.add_tensor("w", quantize(WEIGHTS, KINDS.Q4_1), raw_dtype=KINDS.Q4_1)
    writer.add_tensor("n", NORM)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole = (tmp_path / "model.gguf").read_bytes()
    path = tmp_path / "flipped.gguf"
    for position in range(GgufFile(tmp_path / "model.gguf").tensors["w"].offset):
        for bit in range(8):
            data = bytearray(whole)
            data[position] ^= 1 << bit
            path.write_bytes(data)
            with contextlib.suppress(ModelFileError, UnsupportedError):
                assert sorted(read_all(path).values()) == [(8, 32), (64,)]


def test_every_truncation_loads_whole_or_is_refused(tmp_path, model):
    whole, path = model.read_bytes(), tmp_path / "model.gguf"
    for size in range(0, len(whole), 3):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFileError):
            read_all(path)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_truncated_and_damaged_files_load_or_are_refused(tmp_path_factory, model, data):
    whole = model.read_bytes()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for _ in range(data.draw(st.integers(1, 6)) if damaged else 0):
        # Half of the damage goes where the lengths are.
        end = min(len(damaged), data.draw(st.sampled_from([1000, len(whole)])))
        damaged[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(damaged)
    try:
        read_all(path)
    except (ModelFileError, UnsupportedError) as error:
        assert error.what and str(error).encode()
