"""Sparse attention is attention with a mask, on any pattern and line, without ever making the mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from steelyard.core.errors import RecipeError
from steelyard.model.mixers.attention import AttentionPlan
from steelyard.model.mixers.rotary import Rotary
from steelyard.model.mixers.sparse_attention import SparseAttention, SparseAttentionPlan
from steelyard.model.new import DecoderPlan
from steelyard.model.state import Dense
from steelyard.model.step import Step

CPU = torch.device("cpu")


def made(**pattern: int) -> SparseAttention:
    generator = torch.Generator().manual_seed(1)
    part = SparseAttentionPlan(2, 8, rotary=Rotary(8), **pattern).build(12)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return part


def readably(step: Step) -> Step:
    return step.changed(readable=True)


patterns = st.fixed_dictionaries(
    {"window": st.integers(1, 40), "stride": st.integers(1, 12), "strided": st.integers(0, 6), "globals": st.integers(0, 5)}
)


@settings(max_examples=60, deadline=None)
@given(pattern=patterns, time=st.integers(1, 70), data=st.data())
def test_blocks_are_the_dense_matrix_with_a_mask_on_any_pattern_and_line(pattern, time, data):
    part = made(**pattern)
    segments = None
    if data.draw(st.booleans()):
        cuts = data.draw(st.lists(st.integers(0, time), max_size=4))
        segments = (
            (torch.arange(time)[None, :, None] >= torch.tensor([sorted(cuts)])[:, None]).sum(-1) if cuts else torch.zeros(1, time).long()
        )
        padding = data.draw(st.integers(0, time - 1))
        segments[:, time - padding :] = -1
    step = Step.whole(1, time, CPU, segments=segments)
    x = torch.randn(1, time, 12)
    real = torch.ones(1, time, dtype=torch.bool) if segments is None else segments >= 0
    difference = (part(x, step) - part(x, readably(step)))[real]
    assert torch.isfinite(part(x, step)).all()
    assert difference.abs().max() < 1e-5


@settings(max_examples=25, deadline=None)
@given(pattern=patterns, data=st.data())
def test_what_is_gathered_from_memory_is_the_dense_matrix_with_a_mask(pattern, data):
    part, time = made(**pattern), 70
    x = torch.randn(1, time, 12)
    expected = part(x, readably(Step.whole(1, time, CPU)))
    pool, done, heard = part.new_pool(2, 80, Dense()), 0, []
    while done < time:
        size = min(data.draw(st.integers(1, 40)), time - done)
        step = Step((1,), (done,), (size,), size, CPU, capacity=80)
        heard.append(part(x[:, done : done + size], step, pool))
        done += size
    assert (torch.cat(heard, 1) - expected).abs().max() < 1e-5


def test_rows_of_other_lengths_beside_it_change_nothing():
    part = made(window=6, stride=5, strided=4, globals=2)
    x = torch.randn(3, 64, 12)
    lengths = (64, 3, 40)
    step = Step((), (0, 0, 0), lengths, 64, CPU)
    together = part(x, step)
    for row, length in enumerate(lengths):
        alone = part(x[row : row + 1, :length], Step.whole(1, length, CPU))
        assert (together[row, :length] - alone[0]).abs().max() < 1e-5


def test_a_window_alone_is_attentions_window_and_one_as_long_as_the_text_is_attention():
    x, step = torch.randn(2, 50, 12), Step.whole(2, 50, CPU)
    for window in (7, 50):
        part = made(window=window)
        attention = AttentionPlan(2, 2, 8, rotary=Rotary(8), window=window if window < 50 else None).build(12)
        for name in ("query", "key", "value", "output"):
            getattr(attention, name).storage = getattr(part, name).storage
        assert (part(x, step) - attention(x, step)).abs().max() < 1e-5


def test_gradients_are_those_of_the_dense_matrix():
    part, x = made(window=5, stride=4, strided=3, globals=2), torch.randn(2, 33, 12)
    found = []
    for step in (Step.whole(2, 33, CPU), readably(Step.whole(2, 33, CPU))):
        part.zero_grad()
        part(x, step).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in part.parameters()])  # type: ignore[union-attr]
    assert all(torch.allclose(a, b, atol=1e-3, rtol=1e-4) for a, b in zip(*found, strict=True))


def test_the_last_token_hears_exactly_the_window_through_each_layer():
    parts = [made(window=6), made(window=6), made(window=6)]
    x = (0.1 * torch.randn(1, 40, 12)).requires_grad_()  # small: no token so much louder than another that its share underflows
    y, step = x, Step.whole(1, 40, CPU)
    for part in parts:
        y = y + part(y, step)
    y[0, -1].sum().backward()
    heard = x.grad[0].abs().sum(-1) > 0  # type: ignore[index]
    assert int(heard.sum()) == 3 * (6 - 1) + 1 and bool(heard[40 - 16 :].all())


def test_operations_grow_with_the_text_and_not_with_its_square():
    part = made(window=16, stride=16, strided=4, globals=4)

    def counted(time: int, *, dense: bool) -> int:
        step = Step.whole(1, time, CPU)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            part(torch.randn(1, time, 12), readably(step) if dense else step)
        return counter.get_total_flops()

    assert counted(2048, dense=False) < 2.1 * counted(1024, dense=False)
    assert counted(2048, dense=True) > 3.5 * counted(1024, dense=True)
    assert part.mixing_flops(2048) < 2.1 * part.mixing_flops(1024)


def test_a_window_longer_than_the_context_is_refused():
    with pytest.raises(RecipeError, match="longer than the context of 32"):
        DecoderPlan.model_validate({"mixer": {"sparse_attention": {"window": 33}}, "context": 32}).check()
