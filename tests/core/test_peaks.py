"""What a machine can do is measured, and what a model must do is counted: their ratio is what benchmarks tell."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_talker import tiny_talker

from steelyard.compress.quantize.quantize import Quantize
from steelyard.core.meters import peaks
from steelyard.core.meters.peaks import product_rate, read_bandwidth
from steelyard.model.cost import reading_flops, step_bytes
from steelyard.model.state import Dense

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("device", DEVICES)
def test_bandwidth_and_product_rate_are_the_work_over_the_shortest_time(device, monkeypatch):
    took = iter([0.0, 9.0, *(now for begun in range(10, 15) for now in (begun, begun + 0.5))] * 2)
    monkeypatch.setattr(peaks.time, "perf_counter", lambda: next(took))
    assert read_bandwidth(device, 4096) == 4096 / 0.5
    assert product_rate(torch.float32, device, 32) == 2 * 32**3 / 0.5


def test_they_are_numbers_on_this_machine():
    for measured in (read_bandwidth(size=1 << 16), product_rate(torch.bfloat16, size=16)):
        assert 0 < measured < math.inf


@pytest.mark.parametrize("bits", [None, 8, 4, "fp8"])
def test_a_step_reads_every_map_as_it_is_kept_and_what_is_remembered(bits):
    model = tiny_talker(intermediate_size=96, tie_word_embeddings=False)
    trunk = (model if bits is None else Quantize(bits=bits).compress(model, None)).trunk
    inside = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 96)
    outputs = 2 * (32 + 16 + 16 + 32 + 96 + 96 + 32)
    kept = {None: 4 * inside, 8: inside + 4 * outputs, 4: inside // 2 + inside // 16, "fp8": inside + 4 * outputs}[bits]
    head = 4 * 32 * trunk.plan.inputs.vocabulary
    state = trunk.new_state(3, 100, Dense(torch.bfloat16))
    assert step_bytes(trunk, state, []) == kept + head
    assert step_bytes(trunk, state, [10, 25]) == kept + head + 35 * (2 * 2 * 16) * 2  # keys and values of 2 layers, 16 wide, in 2 bytes


def test_reading_a_prompt_takes_the_heads_operations_once():
    trunk = tiny_talker().trunk
    blocks = 2 * 7 * 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48) + 2 * 4 * 32 * 28
    assert reading_flops(trunk, 7) == blocks + 2 * 32 * trunk.plan.inputs.vocabulary
