"""RWKV-7: chunks of the generalised delta rule are the paper's recurrence; the first layer's values reach the later ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from new_parts import VOCABULARY, ids

from steelyard.core.errors import RecipeError
from steelyard.model.mixers.rwkv7 import FASTEST, FIRST_VALUES, Rwkv7, Rwkv7Plan, delta_rule
from steelyard.model.new import DecoderPlan, initialize
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk

CPU = torch.device("cpu")


def one_by_one(asked, fall, removed, rate, written, told, state, begins):
    """Equation 16, a token at a time, with each token's whole transition matrix."""
    out = []
    for at in range(asked.shape[1]):
        if begins is not None:
            state = state * ~begins[:, at, None, None, None]
        h = removed[:, at]
        transition = torch.diag_embed(fall[:, at].exp()) - h[..., :, None] * (rate[:, at] * h)[..., None, :]
        state = state @ transition + told[:, at][..., :, None] * written[:, at][..., None, :]
        out.append((state @ asked[:, at][..., None])[..., 0])
    return torch.stack(out, 1), state


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2), st.integers(1, 100), st.integers(1, 3), st.integers(1, 6), st.booleans(), st.integers(0, 999))
def test_chunks_and_their_gradients_are_the_recurrence(rows, time, heads, width, several, seed):
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    shape = (rows, time, heads, width)
    leaves = [
        normal(*shape),
        -FASTEST * (3 * normal(*shape)).sigmoid(),
        torch.nn.functional.normalize(normal(*shape), dim=-1),
        (3 * normal(*shape)).sigmoid(),
        normal(*shape),
        normal(*shape),
        normal(rows, heads, width, width),
    ]
    begins, step = None, Step.whole(rows, time, CPU)
    if several:
        begins = torch.rand(rows, time, generator=draw) < 0.1
        begins[:, 0] = False
        step = Step.whole(rows, time, CPU, segments=begins.cumsum(1))
    weights, results = normal(*shape), []
    rules: Any = ((delta_rule, step), (one_by_one, begins))
    for rule, last in rules:
        given_ = [leaf.clone().requires_grad_() for leaf in leaves]
        y, state = rule(*given_, last)
        results.append([y, state, *torch.autograd.grad((y * weights).sum() + state.sum(), given_)])
    for ours, wanted in zip(*results, strict=True):
        assert torch.allclose(ours, wanted, atol=1e-8)


def by_the_paper(layer: Rwkv7, x_btd: torch.Tensor, first: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Section 4.1, equations 3 to 17, one text's token after the other: (outputs, values before they are mixed)."""
    heads, d = layer.plan.heads, layer.plan.head_width
    before, state, out, kept = torch.zeros(x_btd.shape[0], x_btd.shape[2]), torch.zeros(x_btd.shape[0], heads, d, d), [], []

    def low(part, x, function=lambda few: few):
        bias = part.wide.bias
        return function(x @ part.narrow.weight.T) @ part.wide.weight.T + (0 if bias is None else bias)

    for at in range(x_btd.shape[1]):
        x = x_btd[:, at]
        m = {name: torch.lerp(x, before, share) for name, share in layer.mix.items()}
        before = x
        r, k, v = m["receptance"] @ layer.receptance.weight.T, m["key"] @ layer.key.weight.T, m["value"] @ layer.value.weight.T
        kept.append(v)
        if layer.share is not None and first is not None:
            v = torch.lerp(v, first[:, at], torch.sigmoid(low(layer.share, m["value"])))
        w = torch.exp(-torch.exp(torch.tensor(-0.5)) * torch.sigmoid(low(layer.decay, m["decay"], torch.tanh)))
        a = torch.sigmoid(low(layer.rate, m["rate"]))
        g = low(layer.gate, m["gate"], torch.sigmoid)
        h = (k * layer.removal).view(-1, heads, d)
        h = h / h.norm(dim=-1, keepdim=True)
        k = (k * torch.lerp(torch.ones_like(a), a, layer.replacement)).view(-1, heads, d)
        r, v, w, a = (part.view(-1, heads, d) for part in (r, v, w, a))
        state = state @ (torch.diag_embed(w) - h[..., None] * (a * h)[..., None, :]) + v[..., None] * k[..., None, :]
        p = torch.nn.functional.group_norm((state @ r[..., None]).flatten(1), heads, layer.norm_weight, layer.norm_bias, eps=1e-5 * d)
        p = p + ((r * k * layer.bonus.view(heads, d)).sum(-1, keepdim=True) * v).flatten(1)
        out.append((g * p) @ layer.output.weight.T)
    return torch.stack(out, 1), torch.stack(kept, 1)


def layers(width: int = 32, **settings: object) -> list[Rwkv7]:
    """The mixers of a decoder, every number of them drawn."""
    trunk = made({"mixer": {"rwkv7": settings}, "width": width, "depth": 3})
    mixers = [module for module in trunk.modules() if isinstance(module, Rwkv7)]
    with torch.no_grad():
        for mixer in mixers:
            mixer.bonus.normal_(generator=torch.Generator().manual_seed(3))
            mixer.norm_bias.normal_(generator=torch.Generator().manual_seed(4))
    return mixers


def made(new: dict) -> Trunk:
    plan = DecoderPlan.model_validate({"initial": 0.3} | new)
    return initialize(plan.trunk(VOCABULARY).build(), plan, 1).eval().requires_grad_(False)


@pytest.mark.parametrize("heads", [1, 4])
def test_layers_are_the_papers_with_the_first_ones_values_in_all_others(heads):
    x, step, first = torch.randn(2, 70, 32, generator=torch.Generator().manual_seed(0)), Step.whole(2, 70, CPU), None
    for layer in layers(heads=heads, rank=5):
        wanted, values = by_the_paper(layer, x, first)
        first = values if first is None else first
        assert torch.allclose(layer(x, step), wanted, atol=1e-4)
        assert torch.allclose(step.carry[FIRST_VALUES], first, atol=1e-5)


def test_only_the_first_of_its_layers_has_no_share_of_the_first_values():
    trunk = made({"mixer": ["attention", "rwkv7"], "width": 32, "depth": 6})
    assert [block.mixer.share is None for block in trunk.blocks if isinstance(block.mixer, Rwkv7)] == [True, False, False]  # type: ignore[union-attr]


def test_a_layer_whose_first_values_were_skipped_takes_its_own():
    layer = layers()[1]
    x = torch.randn(1, 9, 32)
    assert torch.allclose(layer(x, Step.whole(1, 9, CPU)), by_the_paper(layer, x, None)[0], atol=1e-4)


def test_a_text_far_longer_than_a_chunk_stays_within_floats():
    trunk = made({"mixer": "rwkv7", "width": 32, "depth": 2, "initial": 1.0})
    assert bool(trunk.logits(ids(1, 3000)).isfinite().all())


def test_long_texts_cost_as_many_numbers_of_memory_as_short_ones():
    assert Rwkv7Plan(3, 4, 2, first=True).build(12).memory_bytes() == 4 * (12 + 3 * 4 * 4)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(RecipeError, match="heads"):
        DecoderPlan.model_validate({"mixer": {"rwkv7": {"heads": 5}}, "width": 32}).check()
