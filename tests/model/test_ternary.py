"""Ternary linears: rounding as the paper says, gradients straight through, 2 bits a weight on disk, and BitNet's checkpoints both ways."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from new_parts import SMALL
from random_models import GROUPED, change_config, config_of, random_ids, reference, saved, their_logits
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.integrations import bitnet

import steelyard
from steelyard.compress.quantize.quantize import Quantize
from steelyard.core.errors import ModelFileError, UnsupportedError
from steelyard.core.run import Run
from steelyard.generate.engine import Engine
from steelyard.model.linears.ternary import PackedTernaryStorage, TernaryStorage, pack, ternarize, unpack
from steelyard.model.model import Model
from steelyard.model.new import DecoderPlan
from steelyard.train.pretrain.new import new_model
from steelyard.train.pretrain.pretrain import Pretrain

BITNET = {
    "linears": "ternary",
    "mixer": {"attention": {"output_norm": True}},
    "channel": {"gated": {"activation": "relu2", "inner_norm": True}},
}
ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online", "modules_to_not_convert": ["lm_head"]}


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Theirs is compiled at its first use; what it computes is the same."""
    with torch.compiler.set_stance("force_eager"):
        yield


def storage(inputs: int, outputs: int, bias: bool = False, seed: int = 0) -> TernaryStorage:
    torch.manual_seed(seed)
    made = TernaryStorage(inputs, outputs, bias, packed=True)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def test_weights_round_to_the_nearest_of_three_multiples_of_their_mean():
    ternary, scale = ternarize(torch.tensor([[1.0, -3.0], [0.4, -0.0]]))
    assert float(scale) == pytest.approx(1.1)
    assert ternary.tolist() == [[1, -1], [0, 0]]
    zeros, smallest = ternarize(torch.zeros(2, 3))
    assert not zeros.any() and 0 < float(smallest) <= 1.1e-5


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.booleans(), st.integers(0, 999))
def test_products_and_gradients_are_those_of_the_equation(inputs, outputs, rows, bias, seed):
    made = storage(inputs, outputs, bias, seed).double()
    x, weight = torch.randn(rows, inputs, dtype=torch.float64), torch.randn(rows, outputs, dtype=torch.float64)
    results = []
    for forward in (made.__call__, made.forward_readably):
        leaves = [x.clone().requires_grad_(), *made.parameters()]
        y = forward(leaves[0])
        results.append([y, *torch.autograd.grad((y * weight).sum(), leaves)])
    for ours, wanted in zip(*results, strict=True):
        assert torch.allclose(ours, wanted, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 13), st.integers(1, 7), st.integers(0, 999))
def test_packed_weights_come_back_and_multiply_to_the_same_bits(inputs, outputs, seed):
    made = storage(inputs, outputs, True, seed)
    ternary = ternarize(made.weight)[0]
    assert torch.equal(unpack(pack(ternary), outputs), ternary)
    packed, x = PackedTernaryStorage.of(made), torch.randn(3, inputs)
    assert packed.weight.shape == (-(-outputs // 4), inputs) and torch.equal(packed(x), made(x))
    assert torch.equal(packed.dense(), made.dense())
    if outputs % 4 == 0:
        assert torch.equal(packed.weight, bitnet.pack_weights(ternary.clone()))


@pytest.mark.parametrize(("mode", "bias"), [("online", False), ("online", True), ("offline", False)])
def test_a_linear_is_their_auto_bit_linear(mode, bias):
    ours, theirs = storage(30, 8, bias), bitnet.AutoBitLinear(30, 8, bias, online_quant=mode == "online")
    ternary, scale = ternarize(ours.weight)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight if mode == "online" else ternary)
        if bias:
            theirs.bias.copy_(ours.bias)  # type: ignore[arg-type]
        if mode == "offline":
            theirs.weight_scale.fill_(scale)
        for x in (torch.randn(2, 5, 30), torch.zeros(1, 1, 30), 1e4 * torch.randn(1, 3, 30)):
            assert (ours(x) - theirs(x)).abs().max() <= 1e-6 * max(1.0, float(theirs(x).abs().max()))


def directory(folder: Path, mode: str) -> Path:
    """A BitNet directory with random weights, as transformers would have written it in that mode."""
    theirs = reference(config_of("BitNet", pad_token_id=0, bos_token_id=1, eos_token_id=2, **GROUPED))
    saved(theirs, folder, quantization_config=ONLINE | {"quantization_mode": mode})
    if mode == "offline":
        tensors = {}
        for name, tensor in load_file(folder / "model.safetensors").items():
            if "_proj" not in name:
                tensors[name] = tensor
                continue
            ternary, scale = ternarize(tensor)
            tensors |= {name: bitnet.pack_weights(ternary.clone()), f"{name}_scale": scale.reshape(1)}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def mostly_near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Activations are rounded to steps: where two orders of summation fall on two sides of one, a row goes another, slightly other way."""
    apart = (ours - theirs).abs().amax((1, 2))
    return float((apart < 1e-4).float().mean()) >= 0.6 and float(apart.max()) < 0.05 * float(theirs.abs().max())


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_directory_equals_transformers_and_is_saved_as_it_was(mode: str, tmp_path: Path):
    folder = directory(tmp_path / "theirs", mode)
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    assert any(isinstance(module, bitnet.AutoBitLinear) for module in theirs.modules())
    model, ids = steelyard.load(folder), random_ids(rows=16, time=6)
    expected = their_logits(theirs, ids)
    assert mostly_near(model.logits(ids), expected)
    model.save(tmp_path / "ours")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "ours" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].dtype == after[name].dtype and torch.equal(before[name], after[name]) for name in before)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    assert torch.equal(their_logits(again, ids), expected)


def made(folder: Path, **plan: Any) -> Model:
    return new_model(DecoderPlan.model_validate(SMALL | {"initial": 0.2} | plan), Run(folder))


def test_a_new_bitnet_opens_in_transformers(tmp_path: Path):
    for stored in ("2 bits", "floats"):
        model = made(tmp_path, **BITNET | {"linears": {"ternary": {"stored": stored}}})
        assert model.family.name == "bitnet"
        model.save(tmp_path / stored)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / stored, attn_implementation="eager").eval()
        ids = random_ids(rows=16, time=6)
        assert type(theirs).__name__ == "BitNetForCausalLM" and mostly_near(model.logits(ids), their_logits(theirs, ids))


@pytest.mark.parametrize(
    "plan", [{"linears": "ternary"}, BITNET | {"width": 30, "mixer": {"attention": {"heads": 3, "output_norm": True}}}]
)
def test_saved_weights_take_two_bits_and_answer_the_same(plan, tmp_path: Path):
    model = made(tmp_path, **plan)
    assert model.family.name == "steelyard"
    model.save(tmp_path / "model")
    again, ids = steelyard.load(tmp_path / "model"), random_ids()
    assert torch.equal(again.logits(ids), model.logits(ids))
    weights = sum(p.numel() for name, p in model.trunk.blocks.named_parameters() if p.dim() == 2)
    packed = sum(t.numel() for t in load_file(tmp_path / "model" / "model.safetensors").values() if t.dtype == torch.uint8)
    assert weights / 4 <= packed < 1.05 * weights / 4
    assert again.trunk.weight_bytes() < model.trunk.weight_bytes()
    again.save(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == load_file(tmp_path / "model" / "model.safetensors").keys()


def test_an_answer_is_the_same_to_the_bit_in_company(tmp_path: Path):
    model, prompts = made(tmp_path, linears="ternary"), [[7 * k % 250 + 1 for k in range(length)] for length in (3, 40, 17, 1)]
    said = []
    for slots in (1, 4):
        with Engine(model, deterministic=True, slots=slots, dtype="float32") as engine:
            answers = engine.generate(prompts, max_tokens=12, temperature=1.0, seed=3, logprobs=True, ignore_eos=True)
        said.append([(answer.tokens, answer.logprobs) for answer in answers])
    assert said[0] == said[1]


def test_what_cannot_be_weights_or_is_rounded_otherwise_is_refused(tmp_path: Path):
    folder = directory(tmp_path, "offline")
    change_config(folder, quantization_config=ONLINE | {"linear_class": "bitlinear"})
    with pytest.raises(ModelFileError, match="is not read here"):
        steelyard.load(folder)
    change_config(folder, quantization_config=ONLINE | {"quantization_mode": "offline"}, attention_bias=True)
    with pytest.raises(ModelFileError, match="constants"):
        steelyard.load(folder)
    change_config(folder, attention_bias=False)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    for broken, told in (
        (torch.full_like(tensors[name], 255), "no ternary weights"),
        (tensors[name][:-1], "shape"),
        (tensors[name].float(), "bytes"),
    ):
        save_file(tensors | {name: broken.clone()}, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelFileError, match=told):
            steelyard.load(folder)


def test_two_bits_take_no_gradients_and_say_so(tmp_path: Path):
    made(tmp_path, linears="ternary").save(tmp_path / "model")
    (tmp_path / "text.txt").write_text("some words to read " * 50)
    with pytest.raises(UnsupportedError, match="packed"):
        Pretrain.model_validate({"data": str(tmp_path / "text.txt"), "steps": 1}).train(
            steelyard.load(tmp_path / "model"), None, Run(tmp_path)
        )


def test_three_values_are_not_rounded_again(tmp_path: Path):
    model = made(tmp_path, linears="ternary")
    with pytest.raises(UnsupportedError, match="ternary already"):
        Quantize.model_validate({}).compress(model, None, Run(tmp_path))


def test_a_config_says_how_weights_are_kept(tmp_path: Path):
    made(tmp_path, **BITNET).save(tmp_path / "model")
    said = json.loads((tmp_path / "model" / "config.json").read_text())
    assert said["model_type"] == "bitnet" and said["quantization_config"]["quantization_mode"] == "offline"
