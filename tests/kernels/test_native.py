"""The C++ routines against the equations they stand for, on random shapes, for every instruction set this machine has."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.kernels import head, native
from steelyard.model.linears.int8 import Int8Storage, digits_of
from steelyard.model.linears.linear import DenseStorage

HERE = [name for name in native.SETS if native.routines_for(name) is not None]
pytestmark = pytest.mark.skipif(not HERE, reason=native.absence() or "no C++ routines")

outputs, inputs, rows = st.integers(1, 70), st.integers(1, 150), st.integers(1, 64)
seeds = st.integers(0, 10_000)
kinds = pytest.mark.parametrize("name", HERE)


def pool_of(name: str, threads: int = 2) -> native.Pool:
    routines = native.routines_for(name)
    assert routines is not None
    return native.Pool(routines, threads)


@pytest.fixture(scope="module")
def pools() -> dict[str, native.Pool]:
    return {name: pool_of(name) for name in HERE}


def close(ours: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, tolerance: float = 2e-6) -> bool:
    """Whether `ours` is x W^T + b within a share of what the terms of each sum amount to: where they cancel, no digits are left."""
    x, weight, bias = x.double(), weight.double(), torch.zeros(len(weight)).double() if bias is None else bias.double()
    error = (ours.double() - (x @ weight.t() + bias)).abs()
    return bool((error <= tolerance * (x.abs() @ weight.abs().t() + bias.abs()) + 1e-30).all())


@kinds
@settings(max_examples=30, deadline=None)
@given(outputs, inputs, rows, seeds, st.booleans(), st.booleans())
def test_float_products_equal_pytorchs(pools, name, outputs, inputs, rows, seed, narrow, biased):
    draw = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(outputs, inputs, generator=draw), torch.randn(rows, inputs, generator=draw)
    weight = weight.bfloat16() if narrow else weight
    bias = torch.randn(outputs, generator=draw) if biased else None
    matrix = native.matrix_float(pools[name].routines, weight, bias)
    assert close(matrix(x, pools[name]), x.to(weight.dtype), weight, bias)


@kinds
@settings(max_examples=30, deadline=None)
@given(outputs, inputs, rows, seeds, st.sampled_from([1, 2]), st.booleans())
def test_products_of_int8_storages_are_theirs(pools, name, outputs, inputs, rows, seed, digits, biased):
    draw = torch.Generator().manual_seed(seed)
    bias = torch.randn(outputs, generator=draw) if biased else None
    storage = Int8Storage.from_dense(torch.randn(outputs, inputs, generator=draw), bias, digits)
    x = torch.randn(rows, inputs, generator=draw) * torch.logspace(-3, 3, rows)[:, None]
    matrix = native.matrix_channel8(pools[name].routines, storage.weight, storage.scale, digits, bias)
    first, scales = digits_of(x, digits)
    rounded = sum(part.double() * scale.double() for part, scale in zip(first.chunk(digits), scales, strict=True))
    assert close(matrix(x, pools[name]), torch.as_tensor(rounded), storage.dense(), bias)


def eight_bits(x: Tensor) -> Tensor:
    """The readable twin of the routines' activations: each 32 numbers in 8 bits under one scale."""
    blocks = x.float().unflatten(1, (-1, native.BLOCK))
    most = blocks.abs().amax(-1, keepdim=True)
    # 127 / most would be 127 times a rounded 1 / most in PyTorch, which decides numbers halfway between two bytes otherwise.
    inverse = torch.where(most > 0, torch.full_like(most, 127) / most, 0.0)
    return (torch.round(blocks * inverse).double() * (most / 127).double()).flatten(1)


@kinds
@settings(max_examples=60, deadline=None)
@given(
    outputs,
    st.integers(1, 5),
    rows,
    seeds,
    st.sampled_from([(4, 8), (4, 0), (8, 128), (8, 32), (8, 0)]),
    st.sampled_from([16, 32]),
    st.sampled_from([torch.float16, torch.float32]),
    st.booleans(),
)
def test_products_of_blocks_equal_the_equation(pools, name, outputs, blocks, rows, seed, kind, per_scale, dtype, with_minima):
    (bits, zero), draw = kind, torch.Generator().manual_seed(seed)
    with_minima = with_minima and zero == 0
    inputs = blocks * native.BLOCK
    most = 16 if bits == 4 else 256 if zero == 128 else 64
    integers = torch.randint(0, most, (outputs, inputs), generator=draw, dtype=torch.uint8)
    scales = torch.randn(outputs, inputs // per_scale, generator=draw).to(dtype)
    minima = torch.randn(outputs, inputs // per_scale, generator=draw).to(dtype) if with_minima else None
    x = torch.randn(rows, inputs, generator=draw) * torch.logspace(-2, 2, inputs)
    weight = (integers.double() - zero) * scales.double().repeat_interleave(per_scale, 1)
    weight = weight if minima is None else weight + minima.double().repeat_interleave(per_scale, 1)
    matrix = native.matrix_blocks(pools[name].routines, integers, scales, minima, bits, zero)
    assert close(matrix(x, pools[name]), eight_bits(x), weight)


@kinds
def test_rows_come_out_as_they_were_packed(pools, name):
    routines, draw = pools[name].routines, torch.Generator().manual_seed(4)
    weight, ids = torch.randn(75, 96, generator=draw), torch.tensor([74, 0, 16, 16, 31])
    packed = Int8Storage.from_dense(weight, None, 1)
    assert torch.equal(native.matrix_float(routines, weight).rows(ids), weight[ids])
    assert torch.equal(native.matrix_float(routines, weight.bfloat16()).rows(ids), weight.bfloat16()[ids].float())
    eight = native.matrix_channel8(routines, packed.weight, packed.scale, 1)
    assert torch.equal(eight.rows(ids), packed.weight[ids].float() * packed.scale.reshape(-1, 1)[ids])
    for bits, zero, shares, dtype, minima in (
        (4, 8, 3, torch.float16, False),
        (4, 0, 6, torch.float32, True),
        (8, 128, 3, torch.float16, False),
    ):
        integers = torch.randint(0, 2**bits, (75, 96), generator=draw, dtype=torch.uint8)
        scales = torch.randn(75, shares, generator=draw).to(dtype)
        least = torch.randn(75, shares, generator=draw).to(dtype) if minima else None
        exact = (integers.float() - zero) * scales.float().repeat_interleave(96 // shares, 1)
        exact = exact if least is None else exact + least.float().repeat_interleave(96 // shares, 1)
        rows = native.matrix_blocks(routines, integers, scales, least, bits, zero).rows(ids)
        assert torch.allclose(rows, exact[ids], rtol=1e-6, atol=1e-6)  # one rounding where product and sum are fused
    with pytest.raises(ValueError, match="75"):
        native.matrix_float(routines, weight).rows(torch.tensor([75]))


@kinds
def test_a_row_has_the_same_bits_alone_in_company_and_with_any_number_of_threads(pools, name):
    draw = torch.Generator().manual_seed(3)
    weight, x = torch.randn(75, 96, generator=draw), torch.randn(61, 96, generator=draw)
    storage, alone = Int8Storage.from_dense(weight, None, 2), pool_of(name, 1)
    routines = pools[name].routines
    matrices = [
        native.matrix_float(routines, weight),
        native.matrix_float(routines, weight.bfloat16()),
        native.matrix_channel8(routines, storage.weight, storage.scale, 2),
        native.matrix_blocks(routines, torch.randint(0, 16, (75, 96), dtype=torch.uint8), torch.randn(75, 3).half(), None, 4, 8),
    ]
    for matrix in matrices:
        together = matrix(x, pools[name])
        assert torch.equal(together, torch.cat([matrix(row[None], alone) for row in x]))
        assert torch.equal(together[5:23], matrix(x[5:23], pool_of(name, 3)))


def test_instruction_sets_agree():
    draw = torch.Generator().manual_seed(4)
    weight, x = torch.randn(40, 64, generator=draw), torch.randn(9, 64, generator=draw)
    results = []
    for name in HERE:
        routines = native.routines_for(name)
        assert routines is not None
        storage = Int8Storage.from_dense(weight, None, 2)
        results.append(native.matrix_channel8(routines, storage.weight, storage.scale, 2)(x, pool_of(name)))
    for other in results[1:]:
        assert torch.allclose(other, results[0], rtol=1e-6, atol=1e-6)


@kinds
def test_not_a_number_stays_one_in_float_products(pools, name):
    x = torch.ones(2, 32)
    x[1, 7] = float("nan")
    for weight in (torch.ones(3, 32), torch.ones(3, 32).bfloat16()):
        y = native.matrix_float(pools[name].routines, weight)(x, pools[name])
        assert bool(torch.isfinite(y[0]).all()) and bool(torch.isnan(y[1]).all())


@kinds
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 400), seeds, st.sampled_from([1e-3, 1.0, 30.0]))
def test_summaries_of_logits_equal_pytorchs(pools, name, rows, count, seed, spread):
    logits = torch.randn(rows, count, generator=torch.Generator().manual_seed(seed)) * spread
    logits[0, : count // 2] = float("-inf")
    found = head.read(pools[name], logits, [0] * rows, [True] * rows, [0.0] * rows)
    sums, entropies = torch.from_numpy(found.log_sums), torch.from_numpy(found.entropies)
    assert torch.allclose(sums, logits.double().logsumexp(-1).float(), rtol=1e-6, atol=1e-5)
    assert torch.allclose(entropies, torch.special.entr(logits.double().softmax(-1)).sum(-1).float(), rtol=1e-5, atol=1e-5)
    assert head.read(pools[name], logits[-1:], [0], [True], [0.0]).log_sums.tolist() == sums[-1:].tolist()


def test_what_does_not_fit_is_refused():
    pool = pool_of(HERE[0])
    matrix = native.matrix_float(pool.routines, DenseStorage(8, 4, False).weight)
    assert matrix(torch.zeros(0, 8), pool).shape == (0, 4)
    with pytest.raises(ValueError, match="inputs"):
        matrix(torch.zeros(2, 7), pool)
    with pytest.raises(UnsupportedError, match="float16"):
        native.matrix_float(pool.routines, torch.zeros(2, 2).half())
    with pytest.raises(ValueError, match="bias"):
        native.matrix_float(pool.routines, torch.zeros(2, 2), torch.zeros(3))
    for bad in (torch.zeros(2, 33, dtype=torch.uint8), torch.zeros(2, 32)):
        with pytest.raises(ValueError, match="scales"):
            native.matrix_blocks(pool.routines, bad, torch.zeros(2, 1), None, 4, 8)


def test_many_callers_take_turns():
    pool = pool_of(HERE[0])
    weight, x = torch.randn(64, 64), torch.randn(4, 64)
    matrix, results = native.matrix_float(pool.routines, weight), []
    expected = matrix(x, pool)

    def call() -> None:
        results.extend(torch.equal(matrix(x, pool), expected) for _ in range(50))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == [True] * 200


def test_the_environment_chooses_and_a_wrong_choice_is_named(monkeypatch):
    monkeypatch.setenv(native.CHOICE, "off")
    assert native.routines() is None
    monkeypatch.setenv(native.CHOICE, "portable")
    chosen = native.routines()
    assert chosen is not None and chosen.name == "portable"
    monkeypatch.setenv(native.CHOICE, "sse9")
    with pytest.raises(SteelyardError, match="avx512, avx2, i8mm, dotprod, neon, portable, off"):
        native.routines()
