"""Griffin's recurrence: the paper's equations, a token at a time; what a new one keeps; what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from steelyard.core.errors import ModelFileError, RecipeError
from steelyard.model.families.config import Config
from steelyard.model.families.recurrent_gemma import plan
from steelyard.model.mixers.recurrent_gemma import RecurrentGemma, RecurrentGemmaPlan
from steelyard.model.new import DecoderPlan, initialize
from steelyard.model.step import Step


def mixer(**settings: object) -> RecurrentGemma:
    plan = DecoderPlan.model_validate({"mixer": {"recurrent_gemma": settings}, "width": 48, "depth": 1})
    made = initialize(plan.trunk(61).build(), plan, 1).blocks[0].mixer
    assert isinstance(made, RecurrentGemma)
    return made


def by_the_paper(layer: RecurrentGemma, u_btd: torch.Tensor) -> torch.Tensor:
    """Equations 1 to 4 and the block around them, token by token."""
    heads, outputs = layer.plan.heads, []
    assert layer.recurrence_gate is not None and layer.input_gate is not None
    branch, gate = layer.input(u_btd), F.gelu(layer.gate(u_btd), approximate="tanh")
    state = torch.zeros(u_btd.shape[0], layer.plan.inner)
    for time in range(u_btd.shape[1]):
        x = layer.convolution_bias.clone().expand(len(u_btd), -1)
        for tap in range(layer.plan.taps):
            if time - tap >= 0:
                x = x + layer.convolution[:, 0, layer.plan.taps - 1 - tap] * branch[:, time - tap]

        def through(weights: torch.Tensor, bias: torch.Tensor, x: torch.Tensor = x) -> torch.Tensor:
            parts = [part @ weights[head] + bias[head] for head, part in enumerate(x.chunk(heads, -1))]
            return torch.sigmoid(torch.cat(parts, -1))

        r = through(layer.recurrence_gate, layer.recurrence_gate_bias)
        i = through(layer.input_gate, layer.input_gate_bias)
        a = torch.sigmoid(-layer.decay) ** (8 * r)  # softplus(l) = -log sigmoid(-l)
        state = i * x if time == 0 else a * state + torch.sqrt(1 - a * a) * (i * x)
        outputs.append(layer.output(gate[:, time] * state))
    return torch.stack(outputs, 1)


def test_a_whole_text_at_once_is_the_papers_recurrence():
    layer, x = mixer(expand=1.5, heads=3), torch.randn(2, 75, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in (layer.input_gate_bias, layer.recurrence_gate_bias, layer.convolution_bias):
            parameter.normal_(generator=torch.Generator().manual_seed(2))
        assert torch.allclose(layer(x, Step.whole(2, 75, x.device)), by_the_paper(layer, x), atol=1e-5)


def test_a_new_mixer_keeps_as_much_of_its_past_as_the_paper_says():
    kept = torch.exp(-8 * F.softplus(mixer(expand=40.0).decay))  # where the recurrence gate is wide open
    assert 0.9 <= kept.min() < 0.91 and 0.99 < kept.max() <= 0.999
    assert abs(kept.square().mean() - (0.9**2 + 0.999**2) / 2) < 0.01


def test_where_nothing_is_forgotten_slopes_are_finite():
    layer = mixer()
    with torch.no_grad():
        layer.decay.fill_(-200.0)  # softplus is 0: the root would be of 0
    layer(torch.randn(1, 20, 48, requires_grad=True), Step.whole(1, 20, torch.device("cpu"))).sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in layer.parameters())


def test_long_texts_cost_as_many_numbers_of_memory_as_short_ones():
    assert RecurrentGemmaPlan(24, 3).build(12).memory_bytes() == 4 * 24 * 4


def test_sizes_that_do_not_fit_are_refused():
    for settings in ({"expand": 0.01}, {"heads": 7}):
        with pytest.raises(RecipeError, match="heads"):
            DecoderPlan.model_validate({"mixer": {"recurrent_gemma": settings}, "width": 48}).check()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"block_types": []}, "block_types"),
        ({"block_types": ["recurrent", "convolution"]}, "block_types"),
        ({"block_types": "recurrent"}, "block_types"),
        ({"lru_width": 31}, "lru_width"),
        ({"intermediate_size": 1}, "intermediate_size"),
        ({"logits_soft_cap": 0}, "logits_soft_cap"),
        ({"attention_window_size": 0}, "attention_window_size"),
        ({"conv1d_width": -1}, "conv1d_width"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "stretched"),
    ],
)
def test_configs_that_say_what_cannot_be_are_refused_by_name(changes, word):
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 20, "vocab_size": 50}
    plan(Config(sizes))
    with pytest.raises(ModelFileError, match=word):
        plan(Config(sizes | changes))
