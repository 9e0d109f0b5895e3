"""Monarch matrices are what their factors say, their convolution is causal, and their cost grows as n^1.5."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from steelyard.core.errors import RecipeError
from steelyard.model.channels.monarch import MonarchMatrix, blocks_of
from steelyard.model.mixers.monarch import MonarchPlan, block_sizes, factors, monarch_convolution
from steelyard.model.new import DecoderPlan
from steelyard.model.step import Step

CPU = torch.device("cpu")


@given(n1=st.integers(1, 7), n2=st.integers(1, 7))
def test_two_block_diagonal_matrices_and_a_permutation_are_the_fourier_transform(n1, n2):
    f1, twiddle, f2 = (factor.numpy() for factor in factors(n1, n2))
    size = n1 * n2
    # Place j1 n2 + j2. The first factor works along j1: as blocks, after a permutation that brings equal j2 together.
    gather = np.eye(size)[[j1 * n2 + j2 for j2 in range(n2) for j1 in range(n1)]]
    first = gather.T @ np.kron(np.eye(n2), f1) @ gather
    second = np.kron(np.eye(n1), f2)
    order = np.eye(size)[[(k % n1) * n2 + k // n1 for k in range(size)]]
    dense = order @ second @ np.diag(twiddle.flatten()) @ first
    assert np.abs(dense - np.fft.fft(np.eye(size), axis=0)).max() < 1e-5 * size


@settings(max_examples=30, deadline=None)
@given(time=st.integers(1, 130), length=st.integers(1, 130))
def test_the_convolution_is_the_dense_triangular_matrix(time, length):
    generator = torch.Generator().manual_seed(time)
    z, kernel = torch.randn(2, time, 3, generator=generator), torch.randn(3, length, generator=generator)
    filled = torch.nn.functional.pad(kernel, (0, max(0, time - length)))[:, :time]
    distance = torch.arange(time)[:, None] - torch.arange(time)
    dense = filled[:, distance.clamp(0)] * (distance >= 0)  # [h, t, s]
    expected = torch.einsum("hts,bsh->bth", dense, z)
    assert (monarch_convolution(z, kernel) - expected).abs().max() < 1e-4


def test_without_filling_the_end_of_the_text_would_reach_its_beginning():
    z, kernel = torch.zeros(1, 16, 1), torch.ones(1, 16)
    z[0, 15] = 1
    n1 = n2 = 4
    f1, twiddle, f2 = factors(n1, n2)

    def transformed(x):
        return (f1 @ x.reshape(n1, n2).to(torch.complex64) * twiddle) @ f2

    spectrum = transformed(z[0, :, 0]) * transformed(kernel[0])
    round_the_end = (f1.conj() @ (spectrum @ f2.conj() * twiddle.conj())).real.flatten() / 16
    assert round_the_end[0] > 0.9  # the last token is heard by the first
    assert monarch_convolution(z, kernel)[0, :15].abs().max() < 1e-5


@given(time=st.integers(1, 5000))
def test_blocks_leave_room_for_the_whole_convolution_and_little_more(time):
    n1, n2 = block_sizes(time)
    assert 2 * time - 1 <= n1 * n2 <= 2 * time - 1 + n1 and abs(n1 - n2) <= 2


def test_operations_of_mixing_grow_as_the_length_to_the_power_of_one_and_a_half():
    def counted(time: int) -> int:
        with FlopCounterMode(display=False) as counter:
            monarch_convolution(torch.randn(1, time, 4), torch.randn(4, time))
        return counter.get_total_flops()

    slope = np.log2(counted(4096) / counted(256)) / 4
    assert 1.4 < slope < 1.6
    part = MonarchPlan(4096).build(4)
    assert 1.4 < np.log2(part.mixing_flops(4096) / part.mixing_flops(256)) / 4 < 1.6


def test_a_text_longer_than_the_filter_is_filtered_by_what_there_is():
    part, x = MonarchPlan(16).build(6), torch.randn(1, 40, 6)
    with torch.no_grad():
        whole = part(x, Step.whole(1, 40, CPU))
    assert torch.isfinite(whole).all() and part.kernel(40).shape == (6, 16)


def test_a_kept_filter_is_made_anew_once_its_weights_have_changed():
    part = MonarchPlan(16).build(6)
    with torch.no_grad():
        before = part.kernel(16).clone()
        part.filter_out *= 2
        part.filter_level *= 2
        assert torch.allclose(part.kernel(16), 2 * before)
        assert torch.allclose(part.kernel(5), 2 * before[:, :5])
    assert torch.allclose(part.kernel(9), 2 * before[:, :9], atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(inputs=st.sampled_from([1, 4, 12, 36, 64, 90]), outputs=st.sampled_from([1, 6, 16, 48, 100]))
def test_a_map_of_blocks_is_the_dense_matrix_built_from_its_factors(inputs, outputs):
    matrix = MonarchMatrix(inputs, outputs)
    x = torch.randn(3, 5, inputs)
    assert (matrix(x) - x @ matrix.dense().T).abs().max() < 1e-4
    p, r = blocks_of(inputs), blocks_of(outputs)
    right = torch.block_diag(*matrix.right.unbind())  # [p r, p q]
    left = torch.block_diag(*matrix.left.unbind())  # [r s, r p]
    between = torch.eye(p * r)[[block * r + row for row in range(r) for block in range(p)]]
    last = torch.eye(outputs)[[row * (outputs // r) + place for place in range(outputs // r) for row in range(r)]]
    assert (last @ left @ between @ right - matrix.dense()).abs().max() < 1e-5


def test_operations_of_the_channel_grow_as_the_width_to_the_power_of_one_and_a_half():
    def counted(width: int) -> int:
        with FlopCounterMode(display=False) as counter:
            MonarchMatrix(width, width)(torch.randn(1, width))
        assert counter.get_total_flops() == MonarchMatrix(width, width).flops(1)
        return counter.get_total_flops()

    assert np.log2(counted(4096) / counted(256)) / 4 == pytest.approx(1.5, abs=0.01)


def test_a_width_that_cannot_be_cut_is_refused():
    with pytest.raises(RecipeError, match="prime"):
        DecoderPlan.model_validate({"channel": {"monarch_channel": {"hidden": 101}}}).check()
