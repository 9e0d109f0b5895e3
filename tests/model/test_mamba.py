"""Mamba: its scans, what a new one looks like, and that other tools open it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from new_parts import VOCABULARY

from steelyard.core.errors import RecipeError
from steelyard.model.families.steelyard import public
from steelyard.model.mixers.mamba import Mamba, MambaPlan
from steelyard.model.mixers.mamba2 import chunked_scan
from steelyard.model.mixers.scan import linear_scan
from steelyard.model.new import DecoderPlan, initialize


def by_steps(decay: torch.Tensor, inputs: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    states = []
    for time in range(inputs.shape[1]):
        before = decay[:, time] * before + inputs[:, time]
        states.append(before)
    return torch.stack(states, 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 150), st.integers(1, 7), st.integers(0, 1000))
def test_a_parallel_scan_and_its_gradients_are_the_recurrence(rows, time, width, seed):
    draw = torch.Generator().manual_seed(seed)
    given_ = [
        torch.rand(rows, time, width, generator=draw),
        torch.randn(rows, time, width, generator=draw),
        torch.randn(rows, width, generator=draw),
    ]
    given_[0] = given_[0] * (torch.rand(rows, time, 1, generator=draw) > 0.1)  # documents begin
    weights = torch.randn(rows, time, width, generator=draw)
    results = []
    for scan in (linear_scan, by_steps):
        leaves = [part.double().requires_grad_() for part in given_]
        states = scan(*leaves)
        results.append([states, *torch.autograd.grad((states * weights).sum(), leaves)])
    for ours, wanted in zip(*results, strict=True):
        assert torch.allclose(ours, wanted, atol=1e-10)


def test_a_new_mixer_forgets_and_steps_as_the_paper_says():
    plan = DecoderPlan.model_validate({"mixer": "mamba", "width": 64, "depth": 1})
    mixer = initialize(plan.trunk(VOCABULARY).build(), plan, 1).blocks[0].mixer
    assert isinstance(mixer, Mamba)
    assert torch.allclose(mixer.log_decay.exp(), torch.arange(1, 17.0).expand(128, -1))
    steps = torch.nn.functional.softplus(mixer.time_step.bias)
    assert 1e-3 <= steps.min() < 3e-3 and 3e-2 < steps.max() <= 0.1 and abs(steps.log().mean() - math.log(1e-2)) < 0.5
    assert bool((mixer.skip == 1).all())


def test_a_new_trunk_of_mambas_alone_is_a_public_mamba():
    for settings_, name in (({}, "mamba"), ({"norms": True}, "falcon_mamba")):
        plan = DecoderPlan.model_validate({"mixer": {"mamba": settings_}, "width": 32, "depth": 2})
        found = public(plan.trunk(VOCABULARY))
        assert found is not None and found[0].name == name
    for other in ({"mixer": {"mamba": {"selective": False}}}, {"mixer": "mamba", "channel": "gated"}, {"mixer": ["mamba", "attention"]}):
        assert public(DecoderPlan.model_validate({"width": 32, "depth": 2} | other).trunk(VOCABULARY)) is None


def test_long_texts_cost_as_many_numbers_of_memory_as_short_ones():
    mixer = MambaPlan(24, 3, 2).build(12)
    assert mixer.memory_bytes() == 4 * 24 * (3 + 3)


def test_sizes_without_a_channel_are_refused():
    plan = DecoderPlan.model_validate({"mixer": {"mamba": {"expand": 0.1}}, "width": 8})
    with pytest.raises(RecipeError, match="expand"):
        plan.check()


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 150),
    st.sampled_from([(1, 1), (4, 2), (3, 3), (4, 1)]),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 999),
)
def test_mamba2_in_chunks_and_its_gradients_are_the_recurrence(rows, time, shape, width, several, seed):
    heads, groups = shape
    draw = torch.Generator().manual_seed(seed)
    sizes = [
        (rows, time, heads, width),
        (rows, time, heads),
        (heads,),
        (rows, time, groups, 3),
        (rows, time, groups, 3),
        (rows, heads, width, 3),
    ]
    parts = [torch.randn(size, generator=draw, dtype=torch.float64) for size in sizes]
    parts[1], parts[2] = torch.nn.functional.softplus(parts[1]), -parts[2].exp()
    begins = torch.rand(rows, time, generator=draw) < 0.1 if several else None
    weights, results = torch.randn(sizes[0], generator=draw, dtype=torch.float64), []
    for scan in (chunked_scan, step_by_step):
        leaves = [part.clone().requires_grad_() for part in parts]
        y, states = scan(*leaves, begins)
        results.append([y, states, *torch.autograd.grad((y * weights).sum() + states.sum(), leaves)])
    for ours, wanted in zip(*results, strict=True):
        assert torch.allclose(ours, wanted, atol=1e-8, rtol=1e-8)


def step_by_step(x, steps, decay, write, read, state, begins):
    """The equation of Mamba-2, a token at a time."""
    heads, out = x.shape[2], []
    write, read = (part.repeat_interleave(heads // part.shape[2], 2) for part in (write, read))
    for time in range(x.shape[1]):
        kept = torch.exp(steps[:, time] * decay)[..., None, None]
        if begins is not None:
            kept = kept * ~begins[:, time, None, None, None]
        state = kept * state + (steps[:, time, :, None] * x[:, time])[..., None] * write[:, time, :, None]
        out.append((state * read[:, time, :, None]).sum(-1))
    return torch.stack(out, 1), state
