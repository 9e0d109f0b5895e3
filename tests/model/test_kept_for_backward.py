"""What a channel and joined maps keep for the backward pass: less than plain PyTorch does, for the same gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.model.channels.gated import GatedPlan, SiluProduct
from steelyard.model.linears.joined import together
from steelyard.model.linears.linear import Linear
from steelyard.model.step import Step

CPU = torch.device("cpu")


def kept(compute, *inputs: Tensor) -> tuple[list[Tensor], int, list[Tensor]]:
    """Outputs, distinct bytes kept for the backward pass besides the inputs, and the inputs' gradients."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = compute(*leaves)
    for leaf in leaves:
        saved.pop(leaf.untyped_storage().data_ptr(), None)
    torch.manual_seed(5)
    torch.autograd.backward(outputs, [torch.randn_like(output) for output in outputs])
    return list(outputs), sum(saved.values()), [leaf.grad for leaf in leaves if leaf.grad is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gated_product_has_the_bits_and_gradients_of_the_plain_one_and_keeps_its_factors_alone(dtype):
    torch.manual_seed(0)
    gate, up = torch.randn(3, 50, 64).to(dtype), torch.randn(3, 50, 64).to(dtype)
    ours, bytes_of_ours, gradients = kept(lambda g, u: [SiluProduct.apply(g, u)], gate, up)
    plain, bytes_of_plain, wanted = kept(lambda g, u: [F.silu(g) * u], gate, up)
    assert torch.equal(ours[0], plain[0])
    assert all(torch.equal(mine, other) for mine, other in zip(gradients, wanted, strict=True))
    assert bytes_of_ours == 0 and bytes_of_plain == gate.nbytes


def test_maps_of_one_input_round_it_once_under_autocast():
    torch.manual_seed(0)
    linears, x = [Linear(64, 64) for _ in range(3)], torch.randn(4, 32, 64)
    with torch.autocast("cpu", torch.bfloat16):
        ours, bytes_of_ours, (gradient,) = kept(lambda x: together(x, None, linears), x)
        plain, bytes_of_plain, (wanted,) = kept(lambda x: [linear(x) for linear in linears], x)
    assert all(torch.equal(mine, other) for mine, other in zip(ours, plain, strict=True))
    assert (gradient - wanted).norm() < 0.01 * wanted.norm()
    assert bytes_of_plain - bytes_of_ours == 2 * x.numel() * 2  # two of three copies in bfloat16


def test_a_gated_channels_gradients_are_those_of_its_equation():
    torch.manual_seed(0)
    part, x = GatedPlan(48).build(16).double(), torch.randn(2, 5, 16, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: part(x, Step.whole(2, 5, CPU)), x.requires_grad_())
