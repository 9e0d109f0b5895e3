"""A mixture of experts: its equation, its losses, what it costs, and that a row's answer does not depend on others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from new_parts import SMALL

from steelyard.core.errors import RecipeError
from steelyard.core.run import Run
from steelyard.data.batching import Batch
from steelyard.generate.engine import Engine
from steelyard.model.channels.gated import GatedPlan
from steelyard.model.channels.moe import Moe, MoePlan, load_entropy
from steelyard.model.cost import flops
from steelyard.model.new import DecoderPlan
from steelyard.model.step import Step
from steelyard.train.objectives import next_token_loss
from steelyard.train.pretrain.new import new_model

CPU = torch.device("cpu")


def mixture(width: int, seed: int = 0, **plan: object) -> Moe:
    torch.manual_seed(seed)  # what a test draws after it is the same every time, too
    moe = MoePlan(**{"experts": 4, "active": 2, "hidden": 10} | plan).build(width)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in moe.parameters():
            parameter.normal_(std=0.5)
    return moe


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 6), st.integers(1, 6), st.booleans(), st.integers(0, 999))
def test_sorted_tokens_give_what_all_experts_on_all_tokens_give_and_its_gradients(rows, time, experts, active, deterministic, seed):
    moe, draw = mixture(6, seed, experts=experts, active=min(active, experts)).double(), torch.Generator().manual_seed(seed)
    x, weight = torch.randn(2, rows, time, 6, generator=draw, dtype=torch.float64)
    step = Step((), (0,) * rows, (time,) * rows, time, CPU, deterministic=deterministic)
    results = []
    for forward in (moe.eval().__call__, moe.through_readably):
        leaves = [x.clone().requires_grad_(), *moe.parameters()]
        y = forward(leaves[0], step)
        gradients = torch.autograd.grad((y * weight).sum(), leaves, allow_unused=True)
        results.append([y, *(leaf * 0 if g is None else g for leaf, g in zip(leaves, gradients, strict=True))])
    for ours, wanted in zip(*results, strict=True):
        assert torch.allclose(ours.double(), wanted.double(), atol=2e-6)


def test_one_expert_is_the_gated_channel():
    moe, x = mixture(6, experts=1, active=1), torch.randn(2, 5, 6)
    channel = GatedPlan(10).build(6)
    channel.load_state_dict(moe.experts[0].state_dict())
    step = Step.whole(2, 5, CPU)
    assert torch.equal(moe(x, step), channel(x, step))


def test_the_balance_loss_is_that_of_transformers():
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    moe, x = mixture(6, experts=5, balance=0.3, router_z=0.2).train(), torch.randn(2, 7, 6)
    step = Step.whole(2, 7, CPU)
    moe(x, step)
    losses, logits = dict(step.losses), moe.router(x).flatten(0, 1)
    assert torch.allclose(losses["balance"], 0.3 * load_balancing_loss_func((logits,), 5, 2))  # type: ignore[operator]
    assert torch.allclose(losses["router_z"], 0.2 * logits.exp().sum(-1).log().square().mean())


def test_losses_are_told_in_training_alone_and_padding_has_no_part_in_them():
    moe, x = mixture(6).train(), torch.randn(1, 7, 6)
    short, padded = Step.whole(1, 5, CPU), Step.whole(1, 7, CPU, torch.tensor([[0, 0, 1, 1, 1, -1, -1]]))
    moe(x[:, :5], short)
    moe(x, padded)
    for (name, value), (same, other) in zip(short.losses, padded.losses, strict=True):
        assert name == same and torch.allclose(value, other)
    answering = Step.whole(1, 7, CPU)
    moe.eval()(x, answering)
    assert not answering.losses


def test_a_training_loss_holds_the_losses_of_all_layers_and_a_validation_loss_none(tmp_path: Path):
    import numpy as np

    model = new_model(DecoderPlan.model_validate(SMALL | {"channel": "moe"}), Run(tmp_path))
    ids = np.arange(40, dtype=np.int64).reshape(2, 20)
    batch = Batch(ids, ids + 1, None, ("", ""), 40)
    objective = next_token_loss(model.trunk)
    model.trunk.eval()
    plain, count, none = objective(batch)[:3]  # type: ignore[misc]
    model.trunk.train()
    whole, _, parts = objective(batch)[:3]  # type: ignore[misc]
    assert not none and set(parts) == {"balance", "router_z"} and count == 40
    assert torch.allclose(whole, plain + sum(parts.values()))
    assert float(parts["balance"]) / count >= 0.01 * 2 * 2 * 0.9  # weight, layers, experts chosen


def test_only_the_experts_a_token_passes_through_are_counted():
    small, large = mixture(6, experts=3), mixture(6, experts=30)
    assert flops(large, 10) - flops(small, 10) == 2 * 6 * 27 * 10  # a longer router, and nothing else
    assert flops(small, 10) == 10 * (2 * 6 * 3 + 2 * 3 * 2 * 6 * 10)


@pytest.mark.parametrize(
    ("settings_", "told"),
    [
        ({"experts": 2, "active": 3}, "3 of 2 experts"),
        ({"experts": 4, "active": 1}, "the router learns nothing"),
        ({"experts": 0}, "experts"),
        ({"balance": -1}, "balance"),
    ],
)
def test_mixtures_that_cannot_be_are_refused_when_the_recipe_is_read(settings_, told):
    with pytest.raises((ValueError, RecipeError), match=told):
        DecoderPlan.model_validate({"channel": {"moe": settings_}})


def test_a_new_mixture_opens_in_transformers_as_a_mixtral(tmp_path: Path):
    from transformers import AutoModelForCausalLM

    for channel in ("moe", {"moe": {"experts": 5, "active": 3, "router_z": 0.0}}):
        plan = DecoderPlan.model_validate(SMALL | {"initial": 0.2, "channel": channel})
        model = new_model(plan, Run(tmp_path))
        assert model.family.name == "mixtral"
        model.save(tmp_path / "model")
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert type(theirs).__name__ == "MixtralForCausalLM"
        ids = torch.randint(0, 257, (2, 24), generator=torch.Generator().manual_seed(0))
        assert (theirs(ids).logits - model.logits(ids)).abs().max() < 1e-4


@pytest.mark.parametrize("kernels", ["auto", "pytorch"])
def test_an_answer_is_the_same_to_the_bit_in_company(tmp_path: Path, kernels):
    plan = DecoderPlan.model_validate(SMALL | {"width": 64, "initial": 0.3, "channel": {"moe": {"experts": 5}}})
    model = new_model(plan, Run(tmp_path))
    prompts = [[7 * k % 250 + 1 for k in range(length)] for length in (3, 40, 17, 1, 29)]
    said = []
    for slots in (1, 3, 5):
        with Engine(model, deterministic=True, slots=slots, dtype="float32", kernels=kernels) as engine:
            answers = engine.generate(prompts, max_tokens=16, temperature=1.0, seed=3, logprobs=True, ignore_eos=True)
        said.append([(answer.tokens, answer.logprobs) for answer in answers])
    assert said[0] == said[1] == said[2]


def test_evenness_of_a_load_is_told_from_nought_to_one():
    assert load_entropy(torch.tensor([5, 5, 5, 5])) == pytest.approx(1.0)
    assert load_entropy(torch.tensor([7, 0, 0])) == pytest.approx(0.0)
    assert 0 < load_entropy(torch.tensor([9, 1])) < 1
