"""Packed linears are the plain ones, only faster."""

import pytest
import torch
from tiny_talker import tiny_talker

from steelyard.generate.engine import Engine
from steelyard.model.linears.int8 import Int8Storage
from steelyard.model.linears.joined import join, together
from steelyard.model.linears.linear import Linear
from steelyard.model.linears.packed import PackedStorage, can_pack, pack, packed

cpu = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(64, 65, True), (193, 64, False), (576, 1536, True)])
@pytest.mark.parametrize("shape", [(1,), (2, 1), (3, 7)])
def test_a_packed_linear_gives_the_plain_product(dtype: torch.dtype, inputs: int, outputs: int, bias: bool, shape: tuple[int, ...]) -> None:
    if not can_pack(dtype, cpu):
        pytest.skip(f"this machine does not multiply packed {dtype}")
    torch.manual_seed(0)
    linear = Linear(inputs, outputs, bias)
    linear.storage.weight.data = linear.storage.weight.data.to(dtype)
    if bias:
        torch.nn.init.normal_(linear.storage.bias)
    x = torch.randn(*shape, inputs)
    with torch.inference_mode():
        plain, exact = linear(x), linear.storage.weight.double() @ x.to(dtype).double()[..., None]
        weight, size = linear.weight.clone(), linear.storage.bytes()
        pack(torch.nn.ModuleList([linear]))
        assert isinstance(linear.storage, PackedStorage)
        packed = linear(x)
        assert torch.equal(linear.weight, weight)
    assert packed.dtype == plain.dtype and packed.shape == plain.shape
    allowed = 1e-5 if dtype == torch.float32 else 2**-8
    exact = exact[..., 0] + (linear.bias.double() if bias else 0)
    assert (packed - exact).abs().max() <= allowed * exact.abs().max()
    assert linear.storage.bytes() == size


def test_small_matrices_and_storages_of_other_kinds_are_left_alone() -> None:
    small, half = Linear(16, 16), Linear(64, 64)
    half.storage.weight.data = half.storage.weight.data.half()
    pack(torch.nn.ModuleList([small, half]))
    assert small.storage.kind == half.storage.kind == "dense"


def test_the_weights_of_a_running_engine_count_packed_matrices() -> None:
    model = tiny_talker(hidden_size=64, intermediate_size=96)
    with Engine(model, dtype="float32", slots=1, context=16) as engine:
        kinds = {module.storage.kind for module in engine.trunk.modules() if isinstance(module, Linear)}
        assert engine.trunk.weight_bytes() >= model.trunk.weight_bytes(), kinds


@pytest.mark.parametrize("kind", ["dense", "int8"])
@pytest.mark.parametrize("bias", [True, False])
def test_joined_linears_give_each_its_own_product(kind: str, bias: bool) -> None:
    torch.manual_seed(0)
    linears = [Linear(128, outputs, bias) for outputs in (128, 64, 65)]
    for linear in linears:
        if bias:
            torch.nn.init.normal_(linear.storage.bias)
        if kind == "int8":
            linear.storage = Int8Storage.from_dense(linear.weight, linear.bias)
    x = torch.randn(3, 5, 128)
    with torch.inference_mode():
        apart, size = [linear(x) for linear in linears], sum(linear.storage.bytes() for linear in linears)
        weights = [linear.weight.clone() for linear in linears]
        join(linears, packed)
        assert len({id(linear.storage.whole) for linear in linears}) == 1
        for linear, alone, at_once, weight in zip(linears, apart, together(x, None, linears), weights, strict=True):
            assert torch.allclose(at_once, alone, atol=1e-5) and torch.equal(linear(x), at_once)
            assert torch.equal(linear.weight, weight)
    assert abs(sum(linear.storage.bytes() for linear in linears) - size) <= len(linears)


def test_what_cannot_be_joined_stays_apart() -> None:
    mixed = [Linear(64, 64, bias=True), Linear(64, 64, bias=False)]
    join(mixed, packed)
    assert [linear.storage.kind for linear in mixed] == ["dense", "dense"]
    x = torch.randn(2, 64)
    assert all(torch.equal(one, linear(x)) for one, linear in zip(together(x, None, mixed), mixed, strict=True))
