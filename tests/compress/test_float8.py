"""8-bit floats are what they are said to be, in memory, on disk and in the product, on a CPU as on a GPU that multiplies them itself."""

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
from steelyard.core.errors import ModelFileError, UnsupportedError
from steelyard.generate.engine import Engine
from steelyard.model.inspect import inspect
from steelyard.model.linears.float8 import KIND, LARGEST, Float8Storage, float8_rows, widened
from steelyard.model.linears.linear import DenseStorage, Linear
from steelyard.model.load import load
from steelyard.model.model import Model

IDS = torch.randint(0, 256, (3, 17), generator=torch.Generator().manual_seed(0))
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: `pytest tests/compress` where one is")


def linears(model: Model) -> dict[str, Linear]:
    return {name: module for name, module in model.trunk.named_modules() if isinstance(module, Linear)}


def drawn(outputs: int, inputs: int, bias: bool = False, rounds: bool = True, seed: int = 0) -> Float8Storage:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    return Float8Storage.from_dense(weight, torch.randn(outputs, generator=generator) if bias else None, rounds)


@settings(max_examples=100, deadline=None)
@given(arrays.arrays("f4", (3, 8), elements=st.floats(-(2.0**60), 2.0**60, width=32)))
def test_a_number_keeps_four_bits_however_small_beside_its_rows_largest(values):
    weight = torch.from_numpy(values)
    rounded, scale = float8_rows(weight)
    error = (rounded.double() * scale.double() - weight.double()).abs()
    smallest = 2.0**-9 * scale.double()  # steps of the numbers below 2^-6, which have no exponent of their own
    assert (error <= torch.maximum(weight.double().abs() * 2.0**-4, smallest / 2) * 1.0001).all()
    assert (rounded.float().abs().amax(1)[weight.abs().amax(1) > 1e-30] == LARGEST).all()


def test_8_bit_floats_come_back_as_they_were():
    every = torch.arange(256, dtype=torch.uint8).view(KIND).float()
    every = every[every.isfinite()]
    assert torch.equal(widened(every.to(KIND)[None]), every[None])
    assert torch.equal(Float8Storage.from_dense(torch.stack((every, every * 4))).dense(), torch.stack((every, every * 4)))
    assert not Float8Storage.from_dense(torch.zeros(2, 32)).dense().any()


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_no_number_is_refused(wrong):
    with pytest.raises(UnsupportedError, match="NaN or infinity"):
        Float8Storage.from_dense(torch.full((2, 3), wrong))
    with pytest.raises(UnsupportedError, match="one scale per output row"):
        Float8Storage(torch.zeros(2, 3, dtype=KIND), torch.ones(2), None)


SHAPES = [(1, 1, 1), (3, 7, 5), (1, 64, 32), (17, 100, 33), (5, 576, 48), (33, 48, 272), (0, 16, 16)]


@pytest.mark.parametrize("rounds", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_the_product_equals_its_readable_twin(rows, inputs, outputs, bias, rounds):
    storage = drawn(outputs, inputs, bias, rounds)
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(1)) * 3
    torch.testing.assert_close(storage(x), storage.forward_readably(x), rtol=1e-4, atol=1e-4)
    assert storage(x.bfloat16()).dtype == torch.bfloat16 and storage(x.view(1, rows, inputs)).shape == (1, rows, outputs)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_a_device_with_such_products_says_the_same_and_sizes_it_does_not_take_go_the_other_way(rows, inputs, outputs):
    """PyTorch has a product for CPUs under the name of the GPUs', so what is asked of these is asked of it."""
    storage = drawn(outputs, inputs)
    x, _ = float8_rows(torch.randn(rows, inputs, generator=torch.Generator().manual_seed(2)))
    torch.testing.assert_close(storage._product(x, True), storage._product(x, False), rtol=1e-4, atol=1e-1)


def test_a_row_depends_on_no_other_row():
    storage = drawn(48, 96)
    x = torch.randn(12, 96, generator=torch.Generator().manual_seed(3))
    x[7], x[8] = math.nan, x[8] * 1e30
    whole = storage(x)
    assert whole[7].isnan().all() and whole[[*range(7), *range(8, 12)]].isfinite().all()
    for row in range(12):
        torch.testing.assert_close(storage(x[row : row + 1])[0], whole[row], equal_nan=True, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("activations", [8, 16])
def test_a_model_of_8_bit_floats_is_a_quarter_of_its_linears_and_close(activations):
    model = tiny_talker(tie_word_embeddings=False)
    small = Quantize(bits="fp8", activations=activations).compress(model, None)
    inside = [linear for name, linear in linears(model).items() if "heads" not in name]
    lost = sum(linear.inputs * linear.outputs * 3 - linear.outputs * 4 for linear in inside)
    assert model.trunk.weight_bytes() - small.trunk.weight_bytes() == lost
    near = (small.logits(IDS) - model.logits(IDS)).norm() / model.logits(IDS).norm()
    assert 0 < near < 0.1
    assert len({model.fingerprint, small.fingerprint, Quantize().compress(model, None).fingerprint}) == 3


@pytest.mark.parametrize("kernels", ["auto", "pytorch", "reference"])
def test_the_engine_writes_from_8_bit_floats_alone_as_in_company(kernels):
    small = Quantize(bits="fp8").compress(tiny_talker(), None)
    with Engine(small, dtype="float32", kernels=kernels, deterministic=True) as engine:
        together = engine.generate(["hello", "a longer text", "x"], max_tokens=6, ignore_eos=True)
        (alone,) = engine.generate(["hello"], max_tokens=6, ignore_eos=True)
        assert alone.logprobs == together[0].logprobs and len(alone.tokens) == 6
        assert any(tensor.dtype == KIND for tensor in engine.trunk.buffers())


@pytest.mark.parametrize("lever", [Quantize(bits="fp8"), Quantize(bits="fp8", head=True), Quantize(bits="fp8", activations=16)])
@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": False}, {"attention_bias": True}], ids=["tied", "untied", "biased"])
def test_saved_and_loaded_it_is_the_same_to_the_bit(tmp_path, config, lever):
    small = lever.compress(tiny_talker(**config), None)
    small.save(tmp_path / "small")
    loaded = load(tmp_path / "small")
    assert loaded.fingerprint == small.fingerprint and torch.equal(loaded.logits(IDS), small.logits(IDS))
    told = inspect(tmp_path / "small", check=True)
    assert not told["problems"] and told["parameters"] == small.trunk.parameter_count() == loaded.trunk.parameter_count()


def test_streamed_from_disk_it_says_the_same(tmp_path):
    small = Quantize(bits="fp8").compress(tiny_talker(), None)
    small.save(tmp_path / "small")
    assert torch.equal(load(tmp_path / "small", keep=0.0).logits(IDS), small.logits(IDS))


@pytest.mark.parametrize("kind", FAMILIES)
def test_fused_and_transposed_maps_come_back(tmp_path, kind):
    small = Quantize(bits="fp8").compress(random_model(kind, tmp_path / "plain"), None)
    small.save(tmp_path / "small")
    assert torch.equal(load(tmp_path / "small").logits(IDS % 101), small.logits(IDS % 101))


def test_transformers_opens_it_and_computes_with_the_same_weights(tmp_path):
    pytest.importorskip("compressed_tensors")
    small = Quantize(bits="fp8", activations=16).compress(random_model("Llama", tmp_path / "plain"), None)
    small.save(tmp_path / "small")
    floats = load(tmp_path / "small")
    for linear in linears(floats).values():
        if isinstance(linear.storage, Float8Storage):
            linear.storage = DenseStorage.of(linear.storage.dense(), linear.storage.bias)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32)
    with torch.inference_mode():
        assert (theirs(IDS % 101).logits - floats.logits(IDS % 101)).abs().max() < 1e-4


@pytest.mark.parametrize("activations", [8, 16])
def test_the_config_says_how(tmp_path, activations):
    Quantize(bits="fp8", activations=activations).compress(tiny_talker(), None).save(tmp_path / "small")
    told = json.loads((tmp_path / "small" / "config.json").read_text())
    group = told["quantization_config"]["config_groups"]["group_0"]
    assert told["dtype"] == "float32" and told["quantization_config"]["format"] == "float-quantized"
    assert (group["weights"]["type"], group["weights"]["strategy"]) == ("float", "channel")
    assert (group["input_activations"] is None) == (activations == 16)


@pytest.mark.parametrize("harm", ["missing scale", "integers", "nan weight", "nan scale"])
def test_damaged_files_of_8_bit_floats_are_refused(tmp_path, harm):
    Quantize(bits="fp8").compress(tiny_talker(), None).save(tmp_path / "small")
    file = tmp_path / "small" / "model.safetensors"
    tensors, name = load_file(file), "model.layers.0.mlp.down_proj.weight"
    if harm == "missing scale":
        del tensors[f"{name}_scale"]
    if harm == "integers":
        tensors[name] = tensors[name].view(torch.int8)
    if harm == "nan weight":
        tensors[name].view(torch.uint8)[0, 0] = 0x7F
    if harm == "nan scale":
        tensors[f"{name}_scale"][0, 0] = math.nan
    save_file(tensors, file)
    with pytest.raises(ModelFileError, match="down_proj"):
        load(tmp_path / "small")


def test_the_lever_is_found_by_preset_and_main_value():
    assert levers.parse("fp8") == levers.parse({"quantize": "fp8"}) == levers.parse({"quantize": {"bits": "fp8"}}) == Quantize(bits="fp8")


@GPU
@pytest.mark.parametrize("rounds", [True, False])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_on_a_gpu_the_product_is_that_of_the_cpu(rows, inputs, outputs, rounds):
    storage = drawn(outputs, inputs, True, rounds)
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(1))
    expected = storage(x)
    torch.testing.assert_close(storage.to("cuda")(x.to("cuda")).cpu(), expected, rtol=1e-3, atol=1e-3)
