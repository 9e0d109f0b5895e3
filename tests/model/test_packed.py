"""Packed linears are the plain ones, only faster."""

import pytest
import torch
from tiny_talker import tiny_talker

from steelyard.generate.engine import Engine
from steelyard.model.linears.linear import Linear
from steelyard.model.linears.packed import PackedStorage, can_pack, pack

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
