"""Weights are maps of their files: they take no memory of their own, and what becomes of either leaves the other alone."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_talker import tiny_talker

from steelyard.model.files.extent import MAPPED, ExtentFile
from steelyard.model.load import load

PAGE = os.sysconf("SC_PAGESIZE") if hasattr(os, "sysconf") else 4096


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "numbers"
    path.write_bytes(torch.arange(3 * MAPPED, dtype=torch.int64).to(torch.uint8).numpy().tobytes())
    return path


@pytest.mark.parametrize("size", [1, MAPPED - 1, MAPPED, MAPPED + 5])
@pytest.mark.parametrize("offset", [0, 3, 8, PAGE - 4, PAGE, PAGE + 4])
def test_every_extent_holds_its_bytes_mapped_or_not_and_may_be_seen_as_any_type(file: Path, offset: int, size: int) -> None:
    with ExtentFile(file) as source:
        data = source.read_tensor(offset, size)
    assert bytes(data.numpy()) == file.read_bytes()[offset : offset + size]
    assert len(data[: size // 8 * 8].view(torch.float64)) == size // 8


def test_what_is_written_to_a_tensor_reaches_neither_the_file_nor_another_tensor(file: Path) -> None:
    before = file.read_bytes()
    with ExtentFile(file) as source:
        one, other = source.read_tensor(0, MAPPED), source.read_tensor(0, MAPPED)
    one.zero_()
    assert file.read_bytes() == before and bytes(other.numpy()) == before[:MAPPED]


def test_a_model_outlives_its_file_and_the_file_outlives_training(tmp_path: Path) -> None:
    tiny_talker(hidden_size=128, vocab_size=400).save(tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    model = load(tmp_path / "model")
    said = model.logits([[1, 2, 3]])
    with torch.no_grad():
        load(tmp_path / "model").trunk.inputs.weight.add_(1.0)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    tiny_talker(hidden_size=128, vocab_size=400, seed=1).save(tmp_path / "model")  # another in its place
    assert torch.equal(model.logits([[1, 2, 3]]), said)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell private memory")
def test_loading_takes_little_of_a_process_s_own_memory_and_packing_little_more_than_the_file(smollm: Path) -> None:
    code = f"""
import gc, pathlib
import steelyard, steelyard.generate.scheduler
from steelyard.core.meters import memory
from steelyard.generate.engine import Engine
from steelyard.model.load import load
def private():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])
before = private()
model = load({str(smollm)!r}, "stored")
print(private() - before)
with Engine(model, slots=1):
    memory.hand_back()
    print(private() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, packed = (int(line) / Path(smollm).stat().st_size for line in done.stdout.split())
    assert loaded < 0.6 and packed < 1.5  # a third of it the tokenizer's


def test_a_tensor_that_is_let_go_leaves_no_map_behind(file: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the system does not tell what is mapped")
    with ExtentFile(file) as source:
        data = source.read_tensor(0, MAPPED)
        assert str(file) in maps.read_text()
        del data
    gc.collect()
    assert str(file) not in maps.read_text()
