"""The weights of a Hugging Face directory: one file or shards; everything else is refused with a reason."""

import json
import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from steelyard.core.errors import ModelFileError
from steelyard.model.files.directory import open_directory, refuse_pickle
from steelyard.model.files.safetensors_file import INDEX, write_safetensors

TENSORS = {f"layers.{i}.weight": torch.full((10, 10), float(i)) for i in range(5)}


@pytest.fixture
def sharded(tmp_path):
    """Five tensors of 400 bytes in three shards."""
    write_safetensors(tmp_path, TENSORS, shard_bytes=800)
    return tmp_path


def edit_index(directory, change):
    index = json.loads((directory / INDEX).read_text())
    change(index["weight_map"])
    (directory / INDEX).write_text(json.dumps(index))


def test_shards_read_as_one_source(sharded):
    assert len(list(sharded.glob("model-*-of-00003.safetensors"))) == 3
    source = open_directory(sharded)
    assert sorted(source.names()) == sorted(TENSORS)
    assert all(source.shape(name) == (10, 10) and torch.equal(source.read(name), tensor) for name, tensor in TENSORS.items())
    source.close()


@pytest.mark.parametrize("shard_bytes", [10**9, 2000])
def test_transformers_opens_what_is_written_and_the_other_way_round(tmp_path, shard_bytes):
    config = LlamaConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)
    model = LlamaForCausalLM(config)
    model.config.save_pretrained(tmp_path)
    files = write_safetensors(tmp_path, model.state_dict(), shard_bytes=shard_bytes)
    assert (len(files) > 1) == (shard_bytes == 2000)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    again.save_pretrained(tmp_path / "theirs", max_shard_size=shard_bytes)
    source = open_directory(tmp_path / "theirs")
    assert sorted(source.names()) == sorted(model.state_dict())
    assert all(torch.equal(source.read(name), tensor) for name, tensor in model.state_dict().items())


def test_writing_in_another_sharding_leaves_no_old_file(sharded):
    write_safetensors(sharded, TENSORS)
    assert [entry.name for entry in sharded.iterdir()] == ["model.safetensors"]
    write_safetensors(sharded, TENSORS, shard_bytes=1200)
    assert sorted(entry.name for entry in sharded.iterdir()) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        INDEX,
    ]
    assert len(open_directory(sharded).names()) == 5


def test_missing_shards_are_all_named(sharded):
    (sharded / "model-00001-of-00003.safetensors").unlink()
    (sharded / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"2 of .* missing.*model-00001.*model-00003"):
        open_directory(sharded)


def test_shards_without_an_index_are_not_guessed_at(sharded):
    (sharded / INDEX).unlink()
    with pytest.raises(ModelFileError, match="shards but no"):
        open_directory(sharded)


def test_an_index_that_moves_a_tensor_is_refused(sharded):
    edit_index(sharded, lambda entries: entries.update({"layers.0.weight": "model-00003-of-00003.safetensors"}))
    with pytest.raises(ModelFileError, match=r"puts tensor `layers.0.weight`.*does not hold it"):
        open_directory(sharded)


def test_an_index_that_forgets_a_tensor_is_refused(sharded):
    edit_index(sharded, lambda entries: entries.pop("layers.1.weight"))
    with pytest.raises(ModelFileError, match=r"holds tensor `layers.1.weight`, which the index does not know"):
        open_directory(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded):
    shutil.copy(sharded / "model-00001-of-00003.safetensors", sharded / "model-00003-of-00003.safetensors")
    edit_index(sharded, lambda entries: entries.pop("layers.4.weight"))
    edit_index(sharded, lambda entries: entries.update({"layers.1.weight": "model-00003-of-00003.safetensors"}))
    with pytest.raises(ModelFileError, match="which the index puts into"):
        open_directory(sharded)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..\\b.safetensors", "..", "", "a\x00.safetensors", 3, None]
)
def test_an_index_cannot_point_outside_its_directory(sharded, name):
    edit_index(sharded, lambda entries: entries.update({"layers.0.weight": name}))
    with pytest.raises(ModelFileError, match="not a file of this directory"):
        open_directory(sharded)


def test_an_index_cannot_name_a_pickle(sharded):
    edit_index(sharded, lambda entries: entries.update({"layers.0.weight": "pytorch_model.bin"}))
    with pytest.raises(ModelFileError, match="pickle"):
        open_directory(sharded)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map"', '{"weight_map": {"a": "b", "a": "c"}}']
)
def test_a_broken_index_is_refused(sharded, text):
    (sharded / INDEX).write_text(text)
    with pytest.raises(ModelFileError, match=INDEX):
        open_directory(sharded)


def test_two_sets_of_weights_are_not_chosen_between(sharded):
    shutil.copy(sharded / "model-00001-of-00003.safetensors", sharded / "model.safetensors")
    with pytest.raises(ModelFileError, match="two sets of weights"):
        open_directory(sharded)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "MODEL.PTH", "last.ckpt", "weights.pkl"])
def test_pickles_are_refused_by_name_with_a_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(ModelFileError, match=rf"{name}: refused: it is a pickle.*\n.*safe_serialization"):
        open_directory(tmp_path)
    with pytest.raises(ModelFileError, match="pickle"):
        refuse_pickle(tmp_path / name)


def test_a_pickle_beside_safetensors_is_left_alone(sharded):
    (sharded / "training_args.bin").write_bytes(b"\x80\x04")
    assert len(open_directory(sharded).names()) == 5


@pytest.mark.parametrize(
    "files, message",
    [
        ([], "holds no weights"),
        (["tf_model.h5"], "holds no weights"),
        (["model.Q4_1.gguf"], r"Give the file itself: .*model\.Q4_1\.gguf"),
        (["adapter_model.safetensors"], "an adapter, not a model"),
        (["consolidated.safetensors"], "only `consolidated.safetensors`"),
    ],
)
def test_a_directory_without_weights_says_what_it_holds(tmp_path, files, message):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(ModelFileError, match=message):
        open_directory(tmp_path)


def test_what_is_no_directory_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="not a directory"):
        open_directory(tmp_path / "absent")
