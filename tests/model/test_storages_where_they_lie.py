"""Every way to keep weights multiplies them on the device they lie on, and mixes nothing of the host's in."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from steelyard.model.linears import int8
from steelyard.model.linears.float8 import Float8Storage
from steelyard.model.linears.int4 import Int4Storage
from steelyard.model.linears.int8 import Int8Storage, integer_product, padded_product
from steelyard.model.linears.linear import DenseStorage
from steelyard.model.linears.ternary import PackedTernaryStorage, TernaryStorage

WEIGHT = torch.randn(24, 32, generator=torch.Generator().manual_seed(0))
BIAS = torch.randn(24, generator=torch.Generator().manual_seed(1))
STORAGES: dict[str, nn.Module] = {
    "dense": DenseStorage.of(WEIGHT, BIAS),
    "int8": Int8Storage.from_dense(WEIGHT, BIAS, 1),
    "int8, two digits": Int8Storage.from_dense(WEIGHT, BIAS, 2),
    "int4": Int4Storage.from_dense(WEIGHT, BIAS),
    "float8": Float8Storage.from_dense(WEIGHT, BIAS),
    "float8, activations as they are": Float8Storage.from_dense(WEIGHT, BIAS, rounds=False),
    "ternary": TernaryStorage(32, 24, True, True),
    "packed ternary": PackedTernaryStorage.of(TernaryStorage(32, 24, True, True)),
}
DEVICES = ["meta", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", STORAGES)
def test_a_product_stays_where_the_weights_are(kind, device):
    """`meta` is a device of shapes alone: what mixed a tensor of the host's in, or asked it for a number, would fail there."""
    if (kind, device) == ("packed ternary", "meta"):
        pytest.skip("it asks the host whether its codes are sound, which a device of shapes alone cannot say")
    here = STORAGES[kind]
    there = copy.deepcopy(here).to(device)
    for rows in (1, 3, 40):
        x = torch.randn(rows, 1, 32, generator=torch.Generator().manual_seed(rows))
        with torch.inference_mode():
            y = there(x.to(device))
            assert (y.device.type, y.shape) == (device, (rows, 1, 24))
            if device != "meta":
                torch.testing.assert_close(y.cpu(), here(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 1, 1), (3, 31, 9), (16, 48, 24), (17, 64, 8), (40, 33, 70)])
def test_integers_between_zeros_and_where_there_are_no_such_products_have_the_same_sums(rows, inputs, outputs, monkeypatch):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randint(-127, 128, (rows, inputs), dtype=torch.int8, generator=generator)
    weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8, generator=generator)
    exact = integer_product(x, weight)
    assert exact.dtype == torch.int32 and torch.equal(exact.long(), x.long() @ weight.long().t())
    assert torch.equal(padded_product(x, weight), exact)
    monkeypatch.setattr(int8, "multiplies_int8", lambda device: False)
    assert torch.equal(integer_product(x, weight), exact.double())
