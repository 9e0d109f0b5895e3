"""Four bits are really four bits, in memory, on disk and in the product; other tools unpack the same numbers."""

from __future__ import annotations

import json
import math

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from random_families import FAMILIES, random_model
from safetensors.torch import load_file, save_file
from tiny_talker import tiny_talker

from steelyard.compress.quantize.quantize import Quantize
from steelyard.core import levers
from steelyard.core.errors import ModelFileError, RecipeError, UnsupportedError
from steelyard.generate.engine import Engine
from steelyard.kernels import native
from steelyard.model.inspect import inspect
from steelyard.model.linears.blocks import eight_bits
from steelyard.model.linears.int4 import GROUP, Int4Storage, packed, rounded
from steelyard.model.linears.linear import DenseStorage, Linear
from steelyard.model.linears.native import native_twin
from steelyard.model.load import load
from steelyard.model.model import Model

IDS = torch.randint(0, 256, (3, 17), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_talker(intermediate_size=96, tie_word_embeddings=False)


@pytest.fixture(scope="module")
def small(model: Model) -> Model:
    return Quantize(bits=4).compress(model, None)


def linears(model: Model) -> dict[str, Linear]:
    return {name: module for name, module in model.trunk.named_modules() if isinstance(module, Linear)}


@settings(max_examples=100, deadline=None)
@given(arrays.arrays("f4", (3, 2 * GROUP), elements=st.floats(-1000, 1000, width=32)))
def test_no_grid_of_these_is_closer_than_the_plain_one(values):
    weight = torch.from_numpy(values)
    integers, scale = rounded(weight)
    assert integers.min() >= -8 and integers.max() <= 7 and scale.isfinite().all()
    groups = weight.unflatten(1, (-1, GROUP))
    plain = (groups.abs().amax(-1, keepdim=True) / 7).half().float().clamp(min=6e-8)
    naive = ((groups / plain).round().clamp(-8, 7) * plain - groups).square().sum(-1)
    error = (integers.unflatten(1, (-1, GROUP)) * scale.float()[..., None] - groups).square().sum(-1)
    assert (error <= naive * 1.02 + 1e-6).all()


def test_numbers_on_a_grid_are_kept_as_they_are():
    grid = torch.randint(-8, 8, (5, 64), generator=torch.Generator().manual_seed(1)).float()
    grid[:, ::32] = -8
    assert torch.equal(Int4Storage.from_dense(grid * 0.25).dense(), grid * 0.25)
    assert not Int4Storage.from_dense(torch.zeros(2, 32)).dense().any()


@settings(max_examples=50, deadline=None)
@given(arrays.arrays("i1", (4, 64), elements=st.integers(-8, 7)))
def test_packing_loses_nothing(values):
    integers = torch.from_numpy(values)
    storage = Int4Storage(packed(integers), torch.ones(4, 2), None)
    assert torch.equal(storage.integers().int() - 8, integers.int()) and storage.packed.numel() == 4 * 32


@pytest.mark.parametrize(
    ("weight", "told"), [(torch.full((2, 32), math.nan), "NaN"), (torch.full((2, 32), 1e7), "larger"), (torch.zeros(2, 33), "33 inputs")]
)
def test_what_four_bits_cannot_hold_is_refused(weight, told):
    with pytest.raises(UnsupportedError, match=told):
        Int4Storage.from_dense(weight)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 32, 1), (3, 64, 17), (16, 96, 33), (64, 288, 48)])
def test_the_fast_product_is_the_readable_one(rows, inputs, outputs):
    if (routines := native.routines()) is None:
        pytest.skip("no native routines")
    generator = torch.Generator().manual_seed(rows)
    storage = Int4Storage.from_dense(torch.randn(outputs, inputs, generator=generator), torch.randn(outputs, generator=generator))
    fast = native_twin(storage, native.Pool(routines, 2))
    assert fast is not None
    x = torch.randn(rows, inputs, generator=generator)
    y = storage(x)
    assert torch.equal(y, eight_bits(x) @ storage.dense().t() + storage.bias)
    assert (fast(x) - y).abs().max() < 1e-4 * y.abs().max()
    assert (fast.dense() - storage.dense()).abs().max() < 1e-6


def test_a_model_in_four_bits_is_smaller_by_what_its_linears_lost_and_close(model, small):
    lost = sum(linear.inputs * linear.outputs * (4 - 0.5 - 2 / GROUP) for name, linear in linears(model).items() if "heads" not in name)
    assert model.trunk.weight_bytes() - small.trunk.weight_bytes() == lost
    assert small.fingerprint != model.fingerprint
    near = (small.logits(IDS) - model.logits(IDS)).norm() / model.logits(IDS).norm()
    assert 0 < near < 0.3


@pytest.mark.parametrize("kernels", ["auto", "pytorch", "reference"])
def test_the_engine_writes_from_four_bits(small, kernels):
    with Engine(small, dtype="float32", kernels=kernels) as engine:
        (completion,) = engine.generate(["hello"], max_tokens=6, ignore_eos=True)
        assert len(completion.tokens) == 6
        if kernels == "pytorch":
            assert any(tensor.dtype == torch.uint8 for tensor in engine.trunk.state_dict().values())


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": False}, {"attention_bias": True}], ids=["tied", "untied", "biased"])
def test_saved_and_loaded_it_is_the_same_to_the_bit(tmp_path, config, head):
    small = Quantize(bits=4, head=head).compress(tiny_talker(intermediate_size=96, **config), None)
    small.save(tmp_path / "small")
    loaded = load(tmp_path / "small")
    assert loaded.fingerprint == small.fingerprint and torch.equal(loaded.logits(IDS), small.logits(IDS))
    told = inspect(tmp_path / "small", check=True)
    plain = tiny_talker(intermediate_size=96, **config)
    extra = plain.trunk.inputs.weight.numel() if head and config.get("tie_word_embeddings", True) else 0  # the head of its own
    assert not told["problems"] and told["parameters"] == plain.trunk.parameter_count() + extra
    assert small.trunk.parameter_count() == loaded.trunk.parameter_count() == told["parameters"]


@pytest.mark.parametrize("kind", FAMILIES)
def test_fused_and_transposed_maps_come_back(tmp_path, kind):
    model = random_model(kind, tmp_path / "plain")
    small = Quantize(bits=4).compress(model, None)
    small.save(tmp_path / "small")
    assert torch.equal(load(tmp_path / "small").logits(IDS % 101), small.logits(IDS % 101))


def test_transformers_opens_it_and_computes_with_the_same_weights(tmp_path):
    pytest.importorskip("compressed_tensors")
    model = random_model("Llama", tmp_path / "plain")
    small = Quantize(bits=4).compress(model, None)
    small.save(tmp_path / "small")
    floats = load(tmp_path / "small")
    for linear in linears(floats).values():
        if isinstance(linear.storage, Int4Storage):
            linear.storage = DenseStorage.of(linear.storage.dense(), linear.storage.bias)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32)
    with torch.inference_mode():
        assert (theirs(IDS % 101).logits - floats.logits(IDS % 101)).abs().max() < 1e-4


def test_compressed_tensors_unpacks_the_same_numbers(tmp_path, small):
    tools = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    small.save(tmp_path / "small")
    tensors = load_file(tmp_path / "small" / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    shape = torch.Size(tensors[f"{name}_shape"].tolist())
    integers = tools.unpack_from_int32(tensors[f"{name}_packed"], 4, shape)
    scale = tensors[f"{name}_scale"].float().repeat_interleave(GROUP, 1)
    assert torch.equal(integers.float() * scale, linears(small)["blocks.0.channel.down"].storage.dense())


def test_the_config_says_how(tmp_path, small):
    small.save(tmp_path / "small")
    told = json.loads((tmp_path / "small" / "config.json").read_text())["quantization_config"]
    group = told["config_groups"]["group_0"]
    assert told["format"] == "pack-quantized" and (group["weights"]["num_bits"], group["weights"]["group_size"]) == (4, GROUP)


@pytest.mark.parametrize("harm", ["missing scale", "other shape", "float words", "nan scale", "short"])
def test_damaged_files_of_four_bits_are_refused(tmp_path, small, harm):
    small.save(tmp_path / "small")
    file = tmp_path / "small" / "model.safetensors"
    tensors, name = load_file(file), "model.layers.0.mlp.down_proj.weight"
    if harm == "missing scale":
        del tensors[f"{name}_scale"]
    if harm == "other shape":
        tensors[f"{name}_shape"] = torch.tensor([1, 2])
    if harm == "float words":
        tensors[f"{name}_packed"] = tensors[f"{name}_packed"].float()
    if harm == "nan scale":
        tensors[f"{name}_scale"][0, 0] = math.nan
    if harm == "short":
        tensors[f"{name}_packed"] = tensors[f"{name}_packed"][:, :-1].contiguous()
    save_file(tensors, file)
    with pytest.raises(ModelFileError, match="down_proj"):
        load(tmp_path / "small")


def test_the_lever_is_found_by_preset_and_refuses_what_does_not_go_together():
    assert levers.parse("int4") == levers.parse({"quantize": 4}) == Quantize(bits=4)
    with pytest.raises(RecipeError, match="go with weights of 8"):
        levers.parse({"quantize": {"bits": 4, "activations": 16}})
