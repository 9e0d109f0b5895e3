"""Weights on disk: the same bits as in memory, in an engine of any numerics, and the model left as it was."""

from __future__ import annotations

import pytest
import torch
from tiny_talker import tiny_talker

from steelyard.compress.quantize.quantize import Quantize
from steelyard.core import levers
from steelyard.core.errors import RecipeError, SteelyardError, UnsupportedError
from steelyard.generate.engine import Engine
from steelyard.generate.offload import Offload, kept
from steelyard.generate.spec import EngineSpec
from steelyard.generate.states.kv_cache import KvCache
from steelyard.model.linears.streamed import BlockReader, readers, send_to_disk, stays
from steelyard.model.load import load

MODEL = tiny_talker(num_hidden_layers=5)
IDS = [[1, 2, 3, 250, 5, 6, 7], [9, 8, 7, 6, 5, 4, 3]]
PLAIN = EngineSpec(MODEL, dtype="float32", kernels="reference", slots=3)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("offload") / "model"
    MODEL.save(path)
    return path


@pytest.mark.parametrize(("keep", "blocks"), [(0.0, [0, 1, 2, 3, 4]), (0.4, [0, 1, 3]), (0.5, [0, 2, 4]), (1.0, [])])
def test_the_share_that_stays_is_spread_over_the_depth(keep, blocks):
    assert [index for index in range(5) if not stays(index, keep)] == blocks
    trunk = Offload(keep=keep).decode(PLAIN).model.trunk
    assert [index for index, block in enumerate(trunk.blocks) if readers(block)] == blocks


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_model_loaded_with_its_blocks_on_disk_gives_the_same_bits(directory, keep):
    whole, streamed = load(directory), load(directory, keep=keep)
    assert torch.equal(whole.logits(IDS), streamed.logits(IDS))
    assert streamed.trunk.weight_bytes() < whole.trunk.weight_bytes()
    assert streamed.trunk.parameter_count() == whole.trunk.parameter_count()


def test_8_bit_weights_stream_as_they_are():
    packed = Quantize().compress(MODEL, None)
    reader, sent = BlockReader(), Quantize().compress(MODEL, None)
    for block in sent.trunk.blocks:
        send_to_disk(block, reader)
    assert torch.equal(packed.logits(IDS), sent.logits(IDS))


def answers(spec: EngineSpec) -> tuple:
    with Engine.from_spec(spec) as engine:
        said = engine.generate(["one", "a longer question", [5] * 70], max_tokens=12, ignore_eos=True)
        return [answer.text for answer in said], [answer.logprobs for answer in said], engine.score_text(["a text to score"] * 2)


@pytest.mark.parametrize("deterministic", [True, False])
def test_an_engine_says_the_same_as_in_memory(directory, deterministic):
    plain = EngineSpec(load(directory), dtype="float32", kernels="reference", slots=3, deterministic=deterministic)
    expected = answers(plain)
    assert answers(Offload().decode(plain)) == expected
    assert answers(Offload(keep=0.6).decode(plain)) == expected
    lazily = EngineSpec(load(directory, keep=0.0), dtype="float32", kernels="reference", slots=3, deterministic=deterministic)
    assert Offload().decode(lazily) is lazily and answers(lazily) == expected


def test_with_few_bits_in_the_cache_it_still_says_the_same():
    few = KvCache(bits=4, window=16, group=8).decode(PLAIN)
    assert answers(Offload().decode(few)) == answers(few)


def test_other_numerics_are_reached_from_the_same_file(directory):
    narrow = EngineSpec(load(directory), dtype="bfloat16", kernels="reference", slots=3)
    lazily = EngineSpec(load(directory, keep=0.0), dtype="bfloat16", kernels="reference", slots=3)
    assert answers(lazily) == answers(narrow) == answers(Offload().decode(narrow))


def test_the_original_model_is_left_as_it_was_and_fingerprints_tell_the_two_apart():
    before = MODEL.logits(IDS)
    sent = Offload().decode(PLAIN).model
    assert not readers(MODEL.trunk) and torch.equal(MODEL.logits(IDS), before)
    other = tiny_talker(num_hidden_layers=5, seed=1)
    prints = {sent.fingerprint, MODEL.fingerprint, Offload().decode(EngineSpec(other, dtype="float32")).model.fingerprint}
    assert len(prints) == 3 and Offload().decode(PLAIN).model.fingerprint == sent.fingerprint


def test_it_is_found_by_its_name_and_keeping_everything_changes_nothing():
    assert levers.find("offload")[0] is Offload and levers.parse({"offload": 0.5}) == Offload(keep=0.5)
    assert Offload(**Offload.identity).decode(PLAIN) is PLAIN
    assert kept([KvCache(), Offload(keep=0.3)]) == Offload(keep=0.3) and kept([Offload(keep=1.0)]) is kept([]) is None


@pytest.mark.parametrize("keep", [-0.1, 1.5, float("nan")])
def test_shares_that_are_none_are_refused(keep, directory):
    with pytest.raises(RecipeError):
        levers.parse({"offload": {"keep": keep}})
    with pytest.raises(SteelyardError, match="keep"):
        load(directory, keep=keep)


def test_saving_is_refused_with_the_way_out(directory, tmp_path):
    with pytest.raises(UnsupportedError, match="keep=1"):
        load(directory, keep=0.0).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
