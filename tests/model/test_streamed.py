"""Linears whose weights lie on disk: read back whole, every block once a pass and ahead of its use, and nothing left behind."""

from __future__ import annotations

import os
from unittest import mock

import pytest
import torch
from gguf_models import write_gguf
from random_models import GROUPED, config_of, reference, saved

from steelyard.core.errors import ModelFileError, SteelyardError
from steelyard.model.files.block_file import PAGE, BlockFile
from steelyard.model.linears.streamed import BlockReader, readers
from steelyard.model.load import load


def tensors(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, generator=generator) for size in (1, 400, 1365, 1366)]


def test_tensors_come_back_from_the_file_whole_whatever_their_size_and_type():
    reader = BlockReader()
    given = [*tensors(), torch.arange(7, dtype=torch.uint8)[None], torch.randn(5, 2).bfloat16()]
    for block in range(3):
        reader.add([tensor * (block + 1) for tensor in given])
    for block in (0, 1, 2, 0, 2, 1, 1):
        for place, tensor in enumerate(given):
            assert torch.equal(reader.tensor(block, place), tensor * (block + 1))
    assert reader.count == 3 * sum(tensor.numel() for tensor in given)


def test_blocks_in_their_order_are_each_read_once_a_pass_ahead_of_their_use():
    reader = BlockReader()
    for block in range(6):
        reader.add([torch.full((2, 2), float(block))])
    for _ in range(4):
        for block in range(6):
            assert float(reader.tensor(block, 0)[0, 0]) == block
    reader._ahead[1].result()  # type: ignore[index]
    assert reader.reads == 4 * 6 + 1  # the first block of the next pass is under way


def test_nothing_of_the_file_is_left_even_while_it_is_used(tmp_path):
    reader = BlockReader(tmp_path)
    reader.add(tensors())
    assert os.listdir(tmp_path) == [] and torch.equal(reader.tensor(0, 1), tensors()[1])


@pytest.mark.parametrize("direct", [True, False])
def test_reads_pass_the_page_cache_by_or_give_its_pages_back(tmp_path, direct):
    opened = os.open
    refused = lambda path, flags, *rest: _refuse() if flags & os.O_DIRECT else opened(path, flags, *rest)  # noqa: E731
    with mock.patch.object(os, "open", opened if direct else refused):
        file = BlockFile(tmp_path)
    extents = [file.append(tensor) for tensor in tensors()]
    file.settle()
    assert not file.direct or direct
    for extent, tensor in zip(extents, tensors(), strict=True):
        assert extent.offset % PAGE == 0
        out = torch.zeros(extent.room // 4 + PAGE, dtype=torch.float32)
        start = -out.data_ptr() % PAGE  # direct reads want memory at whole pages
        memory = memoryview(out.numpy()).cast("B")[start : start + extent.room]
        file.read(extent, memory)
        assert bytes(memory[: extent.size]) == tensor.numpy().tobytes()


def _refuse():
    raise OSError(22, "Invalid argument")


def test_a_disk_that_fails_and_a_folder_that_is_missing_are_told(tmp_path):
    with pytest.raises(SteelyardError, match="no file for the weights"):
        BlockReader(tmp_path / "missing")
    reader = BlockReader(tmp_path)
    reader.add(tensors())
    reader.add(tensors())
    with mock.patch.object(os, "preadv", side_effect=OSError(5, "Input/output error")), pytest.raises(ModelFileError, match="read back"):
        reader.tensor(0, 0)
    with mock.patch.object(os, "preadv", return_value=0), pytest.raises(ModelFileError, match="only 0 of"):
        BlockReader.tensor(reader, 1, 0)


FAMILIES = {"Llama": GROUPED, "GPT2": {"vocab_size": 101, "n_embd": 48, "n_layer": 3, "n_head": 6}, "Qwen2": GROUPED, "GPTNeoX": {k: v for k, v in GROUPED.items() if k != "num_key_value_heads"}}  # fmt: skip


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_streams_biases_and_transposed_matrices_too(kind, tmp_path):
    path = saved(reference(config_of(kind, **FAMILIES[kind])), tmp_path / "model")
    whole, streamed = load(path), load(path, keep=0.0)
    assert len(readers(streamed.trunk)) == 1 and torch.equal(whole.logits([[1, 2, 3]]), streamed.logits([[1, 2, 3]]))


def test_blocks_of_a_gguf_file_stay_blocks_on_disk(tmp_path):
    config = config_of("Llama", **GROUPED | {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4})
    path = write_gguf(reference(config), tmp_path / "model.gguf", blocks="Q8_0")
    whole, streamed = load(path, "stored"), load(path, "stored", keep=0.0)
    assert torch.equal(whole.logits([[1, 2, 3]]), streamed.logits([[1, 2, 3]]))
    assert max(sum(e.size for e in extents) for extents in readers(streamed.trunk)[0].blocks) < 40_000  # a byte a weight and its scales
