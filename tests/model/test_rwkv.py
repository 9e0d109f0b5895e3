"""RWKV-4: its parallel sums are the recurrence however loud the keys, the public class's halving costs nothing, a new one is public."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from new_parts import VOCABULARY
from random_models import config_of, random_ids, reference, saved, their_logits

import steelyard
from steelyard.core.errors import ModelFileError
from steelyard.model.families.config import Config
from steelyard.model.families.rwkv import plan
from steelyard.model.families.steelyard import public
from steelyard.model.mixers.rwkv import Rwkv, RwkvPlan, weighted_mean
from steelyard.model.new import DecoderPlan, initialize
from steelyard.model.step import Step

CPU = torch.device("cpu")


def one_by_one(key, value, fade, bonus, before, level, begins):
    """Section 3.1's sums themselves, in logarithms of double precision: wkv, and log of the weights' sum after the last token."""
    rows, time, _ = key.shape
    out, total = [], level + before[:, 1].log()
    mean = torch.where(before[:, 1] > 0, before[:, 0] / before[:, 1], 0.0)
    for at in range(time):
        if begins is not None:
            total = torch.where(begins[:, at, None], torch.full_like(total, float("-inf")), total)
        both = torch.stack((total, key[:, at] + bonus))
        shares = both.softmax(0)
        out.append(shares[0] * mean + shares[1] * value[:, at])
        both = torch.stack((total - fade, key[:, at]))
        shares = both.softmax(0)
        mean, total = shares[0] * mean + shares[1] * value[:, at], both.logsumexp(0)
    return torch.stack(out, 1), mean, total


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(2, 90),
    st.integers(1, 4),
    st.sampled_from([0.5, 30.0, 1e4]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 999),
)
def test_sums_in_parallel_and_their_gradients_are_the_recurrence_however_loud_the_keys(rows, time, width, loud, several, begun, seed):
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    leaves = [normal(rows, time, width) * loud, normal(rows, time, width), normal(width).exp(), normal(width) * 3]
    before = torch.stack((normal(rows, width), normal(rows, width).exp()), 1) * begun
    level = normal(rows, width) * loud * begun
    begins = torch.rand(rows, time, generator=draw) < 0.1 if several else None
    step = Step.whole(rows, time, CPU)
    if begins is not None:
        begins[:, 0] = False
        step = Step.whole(rows, time, CPU, segments=begins.cumsum(1))
    weights = normal(rows, time, width)
    ours, theirs = ([leaf.clone().requires_grad_() for leaf in leaves] for _ in range(2))
    y, sums, levels = weighted_mean(ours[0], ours[1], ours[2], ours[3], before, level, step)
    wanted, mean, total = one_by_one(theirs[0], theirs[1], theirs[2], theirs[3], before, level, begins)
    assert torch.allclose(y, wanted, atol=1e-9)
    assert torch.allclose(sums[:, 0] / sums[:, 1], mean, atol=1e-9) and torch.allclose(sums[:, 1].log() + levels, total, atol=1e-8)
    if loud < 1e3:  # as loud as that, the reference's own gradients are of differences of huge numbers
        for a, b in zip(torch.autograd.grad((y * weights).sum(), ours), torch.autograd.grad((wanted * weights).sum(), theirs), strict=True):
            assert torch.allclose(a, b, atol=1e-7)


@pytest.mark.parametrize("every", [1, 2, 6])
def test_a_stream_that_is_halved_at_inference_says_the_same(every: int, tmp_path: Path) -> None:
    """Saved before it is run: once run, the public class writes weights that it has divided."""
    config = config_of("Rwkv", vocab_size=50, hidden_size=24, num_hidden_layers=7, rescale_every=every, layer_norm_epsilon=0.01)
    theirs, ids = reference(config), random_ids(vocabulary=50)
    model = steelyard.load(saved(theirs, tmp_path))
    assert (model.logits(ids) - their_logits(theirs, ids)).abs().max() < 1e-4


def test_a_new_trunk_of_its_parts_is_a_public_rwkv():
    parts = {"mixer": "rwkv", "channel": "rwkv_channel", "norm": "layer", "inputs": {"tokens": {"norm": True}}}
    found = public(DecoderPlan.model_validate({"width": 32, "depth": 2} | parts).trunk(VOCABULARY))
    assert found is not None and found[0].name == "rwkv" and found[1]["rescale_every"] == 0
    for other in ({"channel": "gated"}, {"norm": "rms"}, {"inputs": "tokens"}, {"channel": {"rwkv_channel": {"receptance": False}}}):
        assert public(DecoderPlan.model_validate({"width": 32, "depth": 2} | parts | other).trunk(VOCABULARY)) is None


def test_a_new_mixers_channels_fade_at_rates_from_almost_never_to_at_once():
    plan = DecoderPlan.model_validate({"mixer": "rwkv", "width": 64, "depth": 4})
    trunk = initialize(plan.trunk(VOCABULARY).build(), plan, 1)
    mixers = [module for module in trunk.modules() if isinstance(module, Rwkv)]
    for mixer in mixers:
        fades, shares = mixer.decay.exp(), mixer.mix_key.flatten()
        assert fades.min() < 0.01 and fades.max() > 15 and bool((fades.diff() >= 0).all())
        assert shares[0] == 0 and 0.9 < shares[-1] < 1.0
    assert len(mixers) == 4


def test_long_texts_cost_as_many_numbers_of_memory_as_short_ones():
    assert RwkvPlan(24).build(12).memory_bytes() == 4 * (12 + 3 * 24)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"attention_hidden_size": 0}, "attention_hidden_size"),
        ({"intermediate_size": -3}, "intermediate_size"),
        ({"rescale_every": "often"}, "rescale_every"),
        ({"layer_norm_epsilon": -1.0}, "layer_norm_epsilon"),
        ({"context_length": 0}, "context_length"),
    ],
)
def test_configs_that_say_what_cannot_be_are_refused_by_name(changes, word):
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 50}
    plan(Config(sizes))
    with pytest.raises(ModelFileError, match=word):
        plan(Config(sizes | changes))
