"""Random features estimate the softmax's kernel: without bias, better with their number, and no key spoils what others hold."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from new_parts import decoder

from steelyard.model.mixers.attention import AttentionPlan
from steelyard.model.mixers.performer import Performer, PerformerPlan, directions, positive_features
from steelyard.model.mixers.rotary import Rotary
from steelyard.model.new import DecoderPlan
from steelyard.model.step import Step

CPU = torch.device("cpu")


def made(features: int = 32, heads: int = 2, width: int = 8, scale: float = 0.4, rotary: bool = False) -> Performer:
    generator = torch.Generator().manual_seed(1)
    part = PerformerPlan(heads, width, features, 5, Rotary(width) if rotary else None).build(16)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return part


def summed(part: Performer, x_btd: torch.Tensor) -> torch.Tensor:
    """The equation in float64, all features as they are."""
    heads, width = part.plan.heads, part.plan.head_width
    q, k, v = (
        (x_btd.double() @ linear.weight.double().T).unflatten(-1, (heads, width)).transpose(1, 2)
        for linear in (part.query, part.key, part.value)
    )
    w = part.directions_md.double()

    def phi(x):
        x = x / width**0.25
        return (x @ w.T).exp() * (-x.square().sum(-1, keepdim=True) / 2).exp()

    weights = (phi(q) @ phi(k).transpose(-1, -2)).tril()
    y = weights @ v / weights.sum(-1, keepdim=True)
    return y.transpose(1, 2).flatten(2) @ part.output.weight.double().T


@pytest.mark.parametrize("time", [1, 40, 150])
def test_scaled_features_give_what_the_equation_gives_in_double_precision(time):
    part, x = made(), torch.randn(2, time, 16, generator=torch.Generator().manual_seed(2))
    assert (part(x, Step.whole(2, time, CPU)) - summed(part, x)).abs().max() < 1e-4


def test_enough_features_are_attention():
    errors = []
    for features in (64, 16384):
        part = made(features, scale=0.12, rotary=True)
        attention = AttentionPlan(2, 2, 8, rotary=Rotary(8)).build(16)
        for name in ("query", "key", "value", "output"):
            getattr(attention, name).storage = getattr(part, name).storage
        x, step = torch.randn(2, 30, 16, generator=torch.Generator().manual_seed(3)), Step.whole(2, 30, CPU)
        errors.append(float((part(x, step) - attention(x, step)).detach().norm() / attention(x, step).detach().norm()))
    assert errors[1] < 0.05 < errors[0]


def test_a_key_far_out_of_range_leaves_earlier_answers_alone():
    part = made()
    x = torch.randn(1, 100, 16, generator=torch.Generator().manual_seed(4))
    before = part(x, Step.whole(1, 100, CPU))
    x[:, 60] *= 60
    after = part(x, Step.whole(1, 100, CPU))
    assert torch.isfinite(after).all()
    assert (before - after)[:, :60].abs().max() < 1e-5
    others = [*range(60), *range(61, 100)]  # the key's own query has no features left, even in double precision
    assert (after - summed(part, x))[:, others].abs().max() < 1e-4


def test_documents_of_other_levels_do_not_hear_each_other():
    part = made()
    loud = torch.randn(1, 50, 16, generator=torch.Generator().manual_seed(5)) * 12
    quiet = torch.randn(1, 80, 16, generator=torch.Generator().manual_seed(6)) * 0.1
    segments = torch.tensor([[0] * 50 + [1] * 80 + [2] * 50])
    together = part(torch.cat((loud, quiet, loud), 1), Step.whole(1, 180, CPU, segments=segments))
    alone = torch.cat([part(x, Step.whole(1, x.shape[1], CPU)) for x in (loud, quiet, loud)], 1)
    assert (together - alone).abs().max() < 1e-3


def test_the_estimate_has_no_bias_and_directions_of_a_block_are_orthogonal():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 6, 8, generator=generator) * 0.8
    estimates = []
    for seed in range(400):
        w = directions(16, 8, seed)
        (phi_q, level_q), (phi_k, level_k) = positive_features(q, w), positive_features(k, w)
        estimates.append((phi_q * phi_k).mean(-1) * (level_q + level_k).exp())
    found = torch.stack(estimates)
    true = ((q * k).sum(-1) / 8**0.5).exp()
    assert ((found.mean(0) - true).abs() < 4 * found.std(0) / 400**0.5 + 1e-3).all()
    first = torch.nn.functional.normalize(directions(16, 8, 3)[:8], dim=-1)
    assert torch.allclose(first @ first.T, torch.eye(8), atol=1e-5)


def test_features_come_from_the_plans_seed_and_are_not_stored():
    plan = DecoderPlan.model_validate({"mixer": {"performer": {"features": 8}}, "width": 16, "depth": 2}).trunk(10)
    first, again = plan.build(), plan.build()
    assert torch.equal(first.blocks[0].mixer.directions_md, again.blocks[0].mixer.directions_md)
    assert not torch.equal(first.blocks[0].mixer.directions_md, first.blocks[1].mixer.directions_md)
    assert not any("directions" in name for name in first.state_dict())
    with torch.device("meta"):
        planned = plan.build()
    assert torch.equal(planned.blocks[0].mixer.directions_md, first.blocks[0].mixer.directions_md)
    other = dataclasses.replace(plan.depth.blocks[0].mixer, seed=1).build(16)
    assert not torch.equal(other.directions_md, first.blocks[0].mixer.directions_md)


def test_memory_does_not_grow_with_the_text():
    from steelyard.model.cost import state_bytes

    assert state_bytes(decoder("performer"), 10) == state_bytes(decoder("performer"), 5000)
