"""The C++ twins of Mamba's convolution and scan against their readable forms: values and gradients, for every instruction set."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steelyard.kernels import native
from steelyard.model.mixers import native_scan
from steelyard.model.mixers.mamba import selective_scan
from steelyard.model.mixers.recurrence import causal_convolution
from steelyard.model.step import Step

HERE = [name for name in native.SETS if native.routines_for(name) is not None]
pytestmark = pytest.mark.skipif(not HERE, reason=native.absence() or "no C++ routines")
kinds = pytest.mark.parametrize("name", HERE)
CPU = torch.device("cpu")
rows, times, widths, states = st.integers(1, 5), st.integers(1, 140), st.integers(1, 150), st.integers(1, 20)
seeds, lines = st.integers(0, 10_000), st.sampled_from(["plain", "documents", "padding", "both"])


@pytest.fixture(scope="module")
def pools() -> dict[str, native.Pool]:
    return {name: native.Pool(routines, 2) for name in HERE if (routines := native.routines_for(name)) is not None}


def call(rows: int, time: int, line: str, draw: torch.Generator) -> Step:
    """A call with documents that begin anywhere and padding at the ends of lines."""
    if line == "plain":
        return Step.whole(rows, time, CPU)
    documents = (
        (torch.rand(rows, time, generator=draw) < 0.15).cumsum(1) if line != "padding" else torch.zeros(rows, time, dtype=torch.int64)
    )
    if line != "documents":
        lengths = torch.randint(1, time + 1, (rows, 1), generator=draw)
        documents = documents.masked_fill(torch.arange(time) >= lengths, -1)
    return Step.whole(rows, time, CPU, segments=documents)


def compared(ours: Any, readable: Any, parts: list[Tensor], step: Step, draw: torch.Generator) -> None:
    """Both forms in float32, the readable one in float64 too: ours may be no further from the truth than a few roundings."""
    results = []
    for form, kind in ((ours, torch.float32), (readable, torch.float64)):
        leaves = [part.detach().to(kind).requires_grad_() for part in parts]
        outputs = form(*leaves)
        weights = [torch.randn(out.shape, generator=torch.Generator().manual_seed(5)) for out in outputs]
        if step.real is not None:
            weights[0] = weights[0] * step.real[:, :, None]
        total = sum((out * weight.to(kind)).sum() for out, weight in zip(outputs, weights, strict=True))
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        outs = [outputs[0] * (1 if step.real is None else step.real[:, :, None]), *outputs[1:]]
        results.append([*outs, *(torch.zeros_like(leaf) if g is None else g for g, leaf in zip(gradients, leaves, strict=True))])
    for number, (mine, wanted) in enumerate(zip(*results, strict=True)):
        assert mine.shape == wanted.shape
        scale = wanted.abs().max().clamp(min=0.05)  # a lone number may be what is left of terms around 1
        assert ((mine - wanted).abs().max() / scale) < 2e-5, number


@kinds
@settings(max_examples=40, deadline=None)
@given(rows, times, widths, states, seeds, lines)
def test_a_scan_and_all_its_gradients_equal_the_readable_ones(pools, name, rows, time, width, state, seed, line):
    draw = torch.Generator().manual_seed(seed)
    sizes = [(rows, time, width), (rows, time, width), (state, width), (rows, time, state), (rows, time, state), (width,)]
    parts = [torch.randn(size, generator=draw) for size in [*sizes, (rows, time, width), (rows, state, width)]]
    parts[2] = -parts[2].exp()
    step = call(rows, time, line, draw)
    compared(lambda *given: native_scan.scan(pools[name], *given, step), lambda *given: selective_scan(*given, step), parts, step, draw)


@kinds
@settings(max_examples=40, deadline=None)
@given(rows, st.integers(1, 300), widths, st.integers(1, 6), seeds, lines, st.booleans(), st.booleans())
def test_a_convolution_and_its_gradients_equal_the_readable_ones(pools, name, rows, time, width, taps, seed, line, biased, silu):
    draw = torch.Generator().manual_seed(seed)
    parts = [torch.randn(size, generator=draw) for size in ((rows, time, width), (width, taps), (width,))]
    before, step = torch.randn(rows, taps - 1, width, generator=draw), call(rows, time, line, draw)

    def ours(x, weight, bias):
        return (native_scan.convolution(pools[name], x, weight, bias if biased else None, before, step, silu),)

    def readable(x, weight, bias):
        y = causal_convolution(x, weight, bias if biased else None, before.to(x.dtype), step)
        return (torch.nn.functional.silu(y) if silu else y,)

    compared(ours, readable, parts, step, draw)


@kinds
def test_a_text_in_pieces_is_the_whole_text_to_the_bit_with_any_number_of_threads(pools, name):
    draw = torch.Generator().manual_seed(1)
    rows, time, width, state = 3, 100, 70, 5
    x, raw, gate = (torch.randn(rows, time, width, generator=draw) for _ in range(3))
    write, read = torch.randn(2, rows, time, state, generator=draw)
    decay, before = -torch.rand(state, width, generator=draw), torch.zeros(rows, state, width)
    routines = native.routines_for(name)
    assert routines is not None

    def through(pool, row, cuts):
        heard, memory = [], before[row]
        for start, end in zip(cuts, cuts[1:], strict=False):
            parts = [part[row, start:end] for part in (x, raw, write, read, gate)]
            step = Step.whole(len(parts[0]), end - start, CPU)
            with torch.no_grad():
                y, memory = native_scan.scan(pool, parts[0], parts[1], decay, parts[2], parts[3], decay[0], parts[4], memory, step)
            heard.append(y)
        return torch.cat(heard, 1), memory

    whole, after = through(pools[name], slice(None), (0, time))
    for threads, row, cuts in ((1, slice(1, 2), (0, 1, 33, 64, time)), (5, slice(0, 3), (0, 99, time))):
        y, memory = through(native.Pool(routines, threads), row, cuts)
        assert torch.equal(y, whole[row]) and torch.equal(memory, after[row])


@kinds
def test_extreme_steps_and_decays_stay_numbers_and_not_a_number_stays_one(pools, name):
    x = torch.ones(1, 4, 3)
    raw = torch.tensor([-200.0, 0.0, 50.0, 3e4]).view(1, 4, 1).expand(1, 4, 3)
    decay, ones = torch.tensor([[-1e-30, -1.0, -1e30]]), torch.ones(1, 4, 1)
    step = Step.whole(1, 4, CPU)
    given = (x, raw, decay, ones, ones, torch.ones(3), x, torch.zeros(1, 1, 3))
    with torch.no_grad():
        y, after = native_scan.scan(pools[name], *given, step)
        wanted, states = selective_scan(*given, step)
        assert torch.allclose(y, wanted, rtol=1e-5) and torch.allclose(after, states, rtol=1e-5)
        broken = native_scan.scan(pools[name], x * torch.nan, *given[1:], step)[0]
    assert bool(broken.isnan().all())
