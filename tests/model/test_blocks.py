"""Linears that stay in GGUF's blocks: the same weights, products with rounded activations, and the fast twin."""

from __future__ import annotations

import argparse
import collections.abc
import decimal
import heapq
import logging
import pathlib
import pickle
import random
import subprocess

import pytest
import torch
from gguf_models import write_gguf
from random_models import GROUPED, config_of, random_ids, reference
from test_gguf_blocks import random_blocks

from steelyard.core.errors import ModelFileError, SteelyardError, UnsupportedError
from steelyard.core.run import Run
from steelyard.generate.engine import Engine
from steelyard.generate.scoring import Item
from steelyard.kernels import native
from steelyard.model.files.gguf_blocks import BY_NAME, ROUTINES
from steelyard.model.linears.blocks import BlockStorage, block_types, eight_bits
from steelyard.model.linears.native import native_twin
from steelyard.model.load import load
from steelyard.train.supervised.sft import Sft

HERE = [name for name in native.SETS if native.routines_for(name) is not None]
WIDE = GROUPED | {"hidden_size": 96, "intermediate_size": 64, "max_position_embeddings": 256}
MODELS = {
    "llama, tied": ("Llama", WIDE | {"tie_word_embeddings": True}),
    "llama, untied": ("Llama", WIDE | {"tie_word_embeddings": False}),
    "qwen2, biases": ("Qwen2", WIDE),
}


def storage_of(kind: str, rows: int, blocks: int, seed: int = 3) -> BlockStorage:
    type = BY_NAME[kind]
    data = torch.from_numpy(random_blocks(kind, rows * blocks, seed)).view(rows, -1)
    return BlockStorage(data, type, torch.randn(rows, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("kind", ROUTINES)
def test_a_product_is_that_of_the_weights_with_rounded_activations(kind):
    storage, x = storage_of(kind, 21, 3), torch.randn(2, 5, storage_of(kind, 1, 3).inputs)
    assert storage(x).shape == (2, 5, 21)
    rounded = eight_bits(x.flatten(0, 1))
    assert float((rounded - x.flatten(0, 1)).abs().max()) <= float(x.abs().max()) / 254 * 1.001
    assert torch.allclose(storage(x).flatten(0, 1), rounded @ storage.dense().t() + storage.bias, rtol=1e-5)
    assert torch.equal(storage.blocks().floats(), storage.dense())


@pytest.mark.skipif(not HERE, reason=native.absence() or "no C++ routines")
@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("kind", ROUTINES)
def test_the_fast_twin_says_the_same(kind, name):
    routines = native.routines_for(name)
    assert routines is not None
    storage, draw = storage_of(kind, 37, 2), torch.Generator().manual_seed(1)
    x = torch.randn(9, storage.inputs, generator=draw)
    fast = native_twin(storage, native.Pool(routines, 2))
    assert fast is not None
    terms = eight_bits(x).abs().double() @ storage.dense().abs().double().t() + storage.bias.abs()
    assert bool(((fast(x) - storage(x)).abs() <= 2e-6 * terms).all())


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
@pytest.mark.parametrize("case", MODELS)
def test_a_stored_model_holds_the_weights_of_the_file_and_answers_alike_by_every_way(case, kind, tmp_path):
    config, values = MODELS[case]
    path = write_gguf(reference(config_of(config, **values)), tmp_path / "model.gguf", blocks=kind)
    stored, floats = load(path, "stored"), load(path)
    assert block_types(stored.trunk) == [kind] and stored.fingerprint != floats.fingerprint
    for name, module in floats.trunk.named_modules():
        if hasattr(module, "storage"):
            assert torch.equal(module.weight, stored.trunk.get_submodule(name).weight)
            assert (module.bias is None) == (stored.trunk.get_submodule(name).bias is None)
    texts = [Item(random_ids(1, length, seed=length)[0].tolist(), 1, 1) for length in (30, 7, 55)]
    with Engine(stored, kernels="pytorch") as slow, Engine(stored) as fast, Engine(floats, dtype="float32") as plain:
        twin, ours, float_ = (engine._score(texts) for engine in (slow, fast, plain))
        assert slow.spec.numerics["weights"] == f"stored in {kind}" and fast.spec.numerics["activations"] == "8 bits"
    with Engine(stored, dtype="float32") as unpacked:
        assert unpacked._score(texts) == float_ and "stored" not in unpacked.spec.numerics["weights"]
    for one, other, exact in zip(ours, twin, float_, strict=True):
        assert one.logprob == pytest.approx(other.logprob, rel=2e-2)  # where a rounding falls the other way, all later ones may
        assert one.logprob == pytest.approx(exact.logprob, rel=6e-2)  # random weights magnify what rounding does


def test_a_real_model_loses_less_than_half_a_percent(smollm):
    texts = [str(module.__doc__) for module in (argparse, collections.abc, decimal, heapq, logging, pathlib, pickle, random, subprocess)]
    with Engine(load(smollm, "stored"), context=1024) as stored, Engine(load(smollm), dtype="float32", context=1024) as floats:
        ours, exact = (sum(score.logprob for score in engine.score_text(texts)) for engine in (stored, floats))
    assert ours == pytest.approx(exact, rel=5e-3)


def test_what_only_floats_can_do_is_refused_with_the_way_out(tmp_path):
    path = write_gguf(reference(config_of("Llama", **WIDE)), tmp_path / "model.gguf", blocks="Q8_0")
    stored = load(path, "stored")
    with pytest.raises(UnsupportedError, match="float32"):
        stored.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    with pytest.raises(UnsupportedError, match="blocks"):
        Sft(data=str(tmp_path / "data.jsonl"), epochs=1).train(stored, None, Run(tmp_path / "run"))
    with pytest.raises(SteelyardError, match="stored"):
        load(path, "int3")


def test_rows_in_the_order_of_a_file_say_what_rows_in_ours_say():
    ours = storage_of("Q4_1", 48, 2)
    places = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    data = torch.empty_like(ours.data)
    data[places] = ours.data  # where the file keeps each of our rows
    theirs = BlockStorage(data, ours.blocks_of, ours.bias, places)
    ids, x = torch.tensor([47, 0, 3, 3]), torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    assert torch.equal(theirs.dense(), ours.dense()) and torch.equal(theirs.rows(ids), ours.rows(ids))
    assert torch.equal(theirs(x), ours(x)) and theirs.bytes() == ours.bytes()
    for one, other in zip(vars(theirs.blocks()).values(), vars(ours.blocks()).values(), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_a_file_order_of_rows_costs_no_copy_and_changes_no_fingerprint(tmp_path):
    path = write_gguf(reference(config_of("Llama", **WIDE)), tmp_path / "model.gguf", blocks="Q8_0")
    lazy, copied = load(path, "stored"), load(path, "stored")
    storages = [module for module in copied.trunk.modules() if isinstance(module, BlockStorage) and module.order is not None]
    assert storages  # rotated queries and keys
    for storage in storages:
        storage.register_buffer("data", storage.ordered(), persistent=True)
        storage.order = None
    assert lazy.fingerprint == copied.fingerprint
    assert any(module.order is not None for module in lazy.trunk.modules() if isinstance(module, BlockStorage))


def test_scales_that_are_no_numbers_are_refused():
    data = torch.from_numpy(random_blocks("Q8_0", 6, 1)).view(3, -1).clone()
    data[1, 1] = 0x7C  # the high byte of the first scale: infinity
    data[1, 0] = 0
    with pytest.raises(ModelFileError, match="Q8_0"):
        BlockStorage(data, BY_NAME["Q8_0"]).blocks()
    with pytest.raises(UnsupportedError, match="34 bytes"):
        BlockStorage(data[:, :-1], BY_NAME["Q8_0"])
