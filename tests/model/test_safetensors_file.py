"""One safetensors file: read as the library reads it, refused when anything in it does not fit."""

import contextlib
import json
import tracemalloc
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import ModelFileError, SteelyardError, UnsupportedError
from steelyard.model.files.safetensors_file import DTYPES, SafetensorsFile, write_safetensors
from steelyard.model.files.source import TensorSource

TENSORS = {
    "embed.weight": torch.arange(12, dtype=torch.float32).reshape(4, 3),
    "layer.0.weight": torch.linspace(-1, 1, 16).reshape(2, 8).to(torch.bfloat16),
    "layer.0.scale": torch.tensor([1, -2, 3], dtype=torch.int8),
    "mask": torch.tensor([True, False]),
}
VALID = safetensors.torch.save(TENSORS, {"format": "pt"})


def written(directory: Path, data: bytes) -> Path:
    path = directory / "model.safetensors"
    path.write_bytes(data)
    return path


def with_header(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def read_all(path: Path) -> dict[str, torch.Size]:
    with SafetensorsFile(path) as file:
        return {name: file.read(name).shape for name in file.names()}


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_what_the_library_writes_is_read_back_with_the_same_bits(tmp_path, dtype, shape):
    tensor = (torch.randn(shape) * 10).to(dtype)
    safetensors.torch.save_file({"x": tensor, "other": torch.ones(3)}, tmp_path / "model.safetensors")
    with SafetensorsFile(tmp_path / "model.safetensors") as file:
        assert isinstance(file, TensorSource)
        assert file.shape("x") == shape
        assert file.read("x").dtype == dtype
        assert torch.equal(file.read("x"), tensor)


def test_reading_converts_floats_and_leaves_integers_alone(tmp_path):
    with SafetensorsFile(written(tmp_path, VALID)) as file:
        assert file.read("embed.weight", torch.bfloat16).dtype == torch.bfloat16
        assert file.read("layer.0.scale", torch.bfloat16).dtype == torch.int8
        assert file.metadata == {"format": "pt"}


def test_a_tensor_that_was_read_outlives_its_file_and_can_be_written_to(tmp_path):
    path = written(tmp_path, VALID)
    with SafetensorsFile(path) as file:
        tensor = file.read("embed.weight")
    path.unlink()
    tensor += 1
    assert torch.equal(tensor, TENSORS["embed.weight"] + 1)


def test_an_unknown_name_gets_the_nearest_one(tmp_path):
    with SafetensorsFile(written(tmp_path, VALID)) as file, pytest.raises(ModelFileError, match="embed.weight"):
        file.read("embed.weigth")


BAD = {
    "empty": (b"", "only 0 bytes"),
    "seven bytes": (b"1234567", "only 7 bytes"),
    "header of 2^63 bytes": (b"\x00" * 7 + b"\x80" + b"{}", "claims"),
    "header beyond the file": (with_header(b"{}")[:9], "truncated"),
    "no JSON": (with_header(b"not json"), "not valid JSON"),
    "not UTF-8": (with_header(b'{"\xff": 1}'), "not valid JSON"),
    "a list": (with_header([1]), "expected a JSON object"),
    "deep nesting": (with_header(b'{"a":' + b"[" * 200_000), "JSON"),
    "millions of empty lists": (with_header(b'{"a":[' + b"[]," * 5_000_000 + b"1]}"), "at most 8388608"),
    "a huge integer": (with_header(b'{"a":' + b"9" * 5000 + b"}"), "not valid JSON"),
    "NaN in the header": (with_header(b'{"a": NaN}'), "NaN is not JSON"),
    "a lone surrogate": (with_header(b'{"\\ud800": 1}'), "not valid JSON"),
    "a name twice": (with_header(b'{"a": 1, "a": 2}'), "`a` appears twice"),
    "a shape twice": (
        with_header(b'{"a": {"dtype":"F32","shape":[1],"shape":[2],"data_offsets":[0,4]}}', b"1234"),
        "`shape` appears twice",
    ),
    "entry without a shape": (with_header({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, b"1234"), "tensor `a`.*declares no"),
    "entry that is no object": (with_header({"a": 3}), "tensor `a`.*declares no"),
    "unknown type": (with_header({"a": entry("F99")}, b"1234"), "unknown type `F99`"),
    "type that is no text": (with_header({"a": entry(["F32"])}, b"1234"), "unknown type"),
    "negative size": (with_header({"a": entry(shape=(-1,))}, b"1234"), "not a natural number"),
    "boolean size": (with_header({"a": entry(shape=(True,))}, b"1234"), "not a natural number"),
    "fractional size": (with_header({"a": entry(shape=(1.0,))}, b"1234"), "not a natural number"),
    "size beside a zero": (with_header({"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}), "more elements"),
    "too many dimensions": (with_header({"a": entry(shape=(1,) * 100)}, b"1234"), "100 dimensions"),
    "shape that is no list": (with_header({"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}, b"1234"), "no list"),
    "extent too small for the shape": (with_header({"a": entry(shape=(2,))}, b"1234"), "take 8 bytes, but bytes 0 to 4"),
    "extent backwards": (with_header({"a": entry(shape=(0,), offsets=(4, 0))}, b"1234"), "take 0 bytes"),
    "negative offset": (with_header({"a": entry(offsets=(-4, 0))}, b"1234"), "not two byte positions"),
    "three offsets": (with_header({"a": entry(offsets=(0, 2, 4))}, b"1234"), "not two byte positions"),
    "extent beyond the file": (with_header({"a": entry(shape=(2,), offsets=(0, 8))}, b"1234"), "truncated"),
    "overlap": (with_header({"a": entry(), "b": entry(offsets=(2, 6))}, b"123456"), "tensor `b`.*overlaps"),
    "hole": (with_header({"a": entry(), "b": entry(offsets=(6, 10))}, b"1234567890"), "tensor `b`.*leaves 2 bytes"),
    "bytes at the end": (with_header({"a": entry()}, b"12345678"), "4 bytes after the last tensor"),
    "metadata that is no text": (with_header({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata that is no object": (with_header({"__metadata__": "a"}), "__metadata__"),
    "a pickle": (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00", "a pickle"),
    "a zip": (b"PK\x03\x04" + bytes(30), "zip archive"),
    "a web page": (b"<!DOCTYPE html><html>", "web page"),
    "GGUF": (b"GGUF\x03\x00\x00\x00" + bytes(30), "a GGUF file"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS pointer"),
}


@pytest.mark.parametrize("data, message", BAD.values(), ids=BAD.keys())
def test_a_broken_file_is_refused_with_its_address_and_a_remedy(tmp_path, data, message):
    path = written(tmp_path, data)
    with pytest.raises(ModelFileError, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)
    assert caught.value.do
    str(caught.value).encode()


def test_a_type_of_the_format_that_is_not_read_is_named(tmp_path):
    with pytest.raises(UnsupportedError, match="F8_E5M2"):
        SafetensorsFile(written(tmp_path, with_header({"a": entry("F8_E5M2", (4,))}, b"1234")))


def test_a_boolean_tensor_of_other_bytes_is_refused(tmp_path):
    path = written(tmp_path, with_header({"a": entry("BOOL", (2,), (0, 2))}, b"\x01\x07"))
    with SafetensorsFile(path) as file, pytest.raises(ModelFileError, match="other than 0 and 1"):
        file.read("a")


@pytest.mark.parametrize("path", ["absent.safetensors", ".", "/dev/zero"])
def test_what_is_not_a_file_is_refused(tmp_path, path):
    with pytest.raises(ModelFileError):
        SafetensorsFile(tmp_path / path)


def test_a_file_that_shrinks_while_open_is_an_error_and_not_a_crash(tmp_path):
    path = written(tmp_path, VALID)
    with SafetensorsFile(path) as file:
        path.open("r+b").truncate(len(VALID) - 40)
        with pytest.raises(ModelFileError, match="shorter"):
            for name in file.names():
                file.read(name)


def test_control_characters_in_a_name_do_not_reach_the_terminal(tmp_path):
    with pytest.raises(ModelFileError) as caught:
        SafetensorsFile(written(tmp_path, with_header({"\x1b[31mred\n" + "x" * 10_000: 3})))
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 500


def test_no_header_length_allocates_more_than_the_file_has(tmp_path):
    path = written(tmp_path, VALID)
    tracemalloc.start()
    for power in range(64):
        path.write_bytes((1 << power).to_bytes(8, "little") + VALID[8:])
        with pytest.raises(ModelFileError):
            SafetensorsFile(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_every_single_bit_flip_of_the_header_keeps_the_shapes_or_is_refused(tmp_path):
    tensors = {"a": torch.zeros(4, 3), "b": torch.zeros(2, 8, dtype=torch.bfloat16), "c": torch.zeros(2, dtype=torch.bool)}
    shapes = sorted(tuple(tensor.shape) for tensor in tensors.values())
    whole = safetensors.torch.save(tensors)
    path = tmp_path / "model.safetensors"
    for position in range(8 + int.from_bytes(whole[:8], "little")):
        for bit in range(8):
            data = bytearray(whole)
            data[position] ^= 1 << bit
            path.write_bytes(data)
            with contextlib.suppress(ModelFileError, UnsupportedError):
                assert sorted(read_all(path).values()) == shapes


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_truncated_and_damaged_files_load_or_are_refused(tmp_path_factory, data):
    damaged = bytearray(VALID[: data.draw(st.integers(0, len(VALID)))] if data.draw(st.booleans()) else VALID)
    for _ in range(data.draw(st.integers(1, 6)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = written(tmp_path_factory.getbasetemp(), damaged)
    try:
        read = read_all(path)
    except (ModelFileError, UnsupportedError) as error:
        assert str(path) in str(error), "whatever is wrong, the file is named"
    else:
        assert sum(shape.numel() for shape in read.values()) <= len(damaged), "no number is read that is not there"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@settings(max_examples=60, deadline=None)
def test_any_json_as_a_header_loads_or_is_refused(tmp_path_factory, header):
    path = written(tmp_path_factory.getbasetemp(), with_header({"a": header}, b"1234"))
    with pytest.raises((ModelFileError, UnsupportedError)):
        read_all(path)


def test_written_weights_open_in_the_library(tmp_path):
    (path,) = write_safetensors(tmp_path, TENSORS)
    theirs = safetensors.torch.load_file(path)
    assert theirs.keys() == TENSORS.keys()
    assert all(torch.equal(theirs[name], tensor) and theirs[name].dtype == tensor.dtype for name, tensor in TENSORS.items())
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_written_weights_are_as_readable_as_any_new_file(tmp_path):
    (path,) = write_safetensors(tmp_path, TENSORS)
    (tmp_path / "new").touch()
    assert path.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_views_and_names_that_share_memory_are_written_whole(tmp_path):
    weight = torch.randn(6, 4, requires_grad=True)
    tensors = {"a": weight, "tied": weight, "transposed": weight.T, "rows": weight[1:3]}
    (path,) = write_safetensors(tmp_path, tensors)
    with SafetensorsFile(path) as file:
        assert all(torch.equal(file.read(name), tensor.detach()) for name, tensor in tensors.items())


def test_a_tensor_type_that_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(UnsupportedError, match="complex64"):
        write_safetensors(tmp_path, {"a": torch.zeros(2, dtype=torch.complex64)})


def test_a_write_that_fails_leaves_the_old_weights(tmp_path, monkeypatch):
    write_safetensors(tmp_path, TENSORS)

    def full_disk(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(SteelyardError, match="No space left"):
        write_safetensors(tmp_path, {"a": torch.zeros(1000)}, shard_bytes=100)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]
    assert read_all(tmp_path / "model.safetensors").keys() == TENSORS.keys()
