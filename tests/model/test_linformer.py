"""Linformer: attention over projected keys and values, for encoders only."""

from __future__ import annotations

import pytest
import torch
from new_parts import ids

from steelyard.core.errors import RecipeError, UnsupportedError
from steelyard.model.channels.gated import GatedPlan
from steelyard.model.depth.stacked import BlockPlan, StackedPlan
from steelyard.model.encoder_decoder import initialize_both
from steelyard.model.heads.pool import PoolPlan
from steelyard.model.inputs.tokens import TokensPlan
from steelyard.model.mixers.attention import AttentionPlan
from steelyard.model.mixers.linformer import Linformer, LinformerPlan
from steelyard.model.new import DecoderPlan
from steelyard.model.new_encoder_decoder import NewEncoderDecoder
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk, TrunkPlan

CPU = torch.device("cpu")


def made(rows: int, longest: int) -> Linformer:
    generator = torch.Generator().manual_seed(1)
    part = LinformerPlan(2, 6, rows, longest).build(10)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return part


def encoder() -> Trunk:
    torch.manual_seed(0)
    block = BlockPlan(LinformerPlan(2, 8, 5, 40), GatedPlan(24))
    return TrunkPlan(16, TokensPlan(61), StackedPlan((block, block)), {"pool": PoolPlan("mean", True)}, context=40).build().eval()


@pytest.mark.parametrize("time", [1, 9, 20])
def test_it_is_the_equation(time):
    part, x = made(7, 20), torch.randn(2, time, 10)
    q, k, v = ((x @ linear.weight.T).unflatten(-1, (2, 6)).transpose(1, 2) for linear in (part.query, part.key, part.value))
    scores = q @ (part.project_keys[:, :time] @ k).transpose(-1, -2) / 6**0.5
    expected = (scores.softmax(-1) @ (part.project_values[:, :time] @ v)).transpose(1, 2).flatten(2) @ part.output.weight.T
    assert (part(x, Step.whole(2, time, CPU)) - expected).abs().max() < 1e-5


def test_as_many_rows_as_tokens_and_the_identity_are_attention():
    part, x, step = made(20, 20), torch.randn(2, 20, 10), Step.whole(2, 20, CPU)
    attention = AttentionPlan(2, 2, 6, causal=False).build(10)
    for name in ("query", "key", "value", "output"):
        getattr(attention, name).storage = getattr(part, name).storage
    torch.nn.init.eye_(part.project_keys)
    torch.nn.init.eye_(part.project_values)
    assert (part(x, step) - attention(x, step)).abs().max() < 1e-5


def test_an_encoder_of_it_reads_documents_apart_and_padding_not_at_all():
    trunk = encoder()
    first, second = ids(1, 13, 1), ids(1, 20, 2)
    segments = torch.tensor([[0] * 13 + [1] * 20 + [-1] * 5])
    line = torch.cat((first, second, ids(1, 5, 3)), 1)
    with torch.inference_mode():
        together = trunk(line, Step.whole(1, 38, CPU, segments=segments))[0]
        alone = torch.cat([trunk(part, Step.whole(1, part.shape[1], CPU))[0] for part in (first, second)])
        padded = trunk(torch.cat((first, ids(1, 7, 4)), 1), Step((), (0,), (13,), 20, CPU))[0, :13]
    assert (together[:33] - alone).abs().max() < 1e-5
    assert (padded - alone[:13]).abs().max() < 1e-5


def test_every_token_hears_later_ones():
    trunk, text = encoder(), ids(1, 30)
    changed = text.clone()
    changed[0, 25] = (changed[0, 25] + 1) % 61
    with torch.inference_mode():
        difference = trunk(text, Step.whole(1, 30, CPU)) - trunk(changed, Step.whole(1, 30, CPU))
    assert bool((difference[0].abs().amax(-1) > 1e-7).all())


def test_a_decoder_refuses_it_and_says_what_to_use():
    with pytest.raises(RecipeError, match="later ones") as found:
        DecoderPlan.model_validate({"mixer": ["attention", "linformer"]}).check()
    assert "performer" in str(found.value.do)


PAIR = {"kind": "encoder_decoder", "width": 32, "depth": 2, "context": 24, "encoder": {"mixer": {"linformer": {"rows": 6}}}, "decoder": {}}


def test_the_encoder_of_an_encoder_decoder_takes_it_and_reads_no_padding():
    plan = NewEncoderDecoder.model_validate(PAIR)
    model = plan.plan(61, 0).build()
    model = initialize_both(model, plan.encoder, plan.decoder, 3).eval().requires_grad_(False)
    assert {type(block.mixer) for block in model.encoder.blocks} == {Linformer}
    sources, targets = ids(2, 20, 1), ids(2, 6, 2)
    together, alone = model(sources, (20, 9), targets), model(sources[1:, :9], (9,), targets[1:])
    assert (together[1] - alone[0]).abs().max() < 1e-4
    changed = sources.clone()
    changed[0, 19] = (changed[0, 19] + 1) % 61  # the first target hears the source's last token
    assert (model(changed, (20, 9), targets) - together)[0, 0].abs().max() > 1e-6


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"decoder": {"mixer": "linformer"}}, "later ones"),
        ({"mixer": {"linformer": {"rows": 6}}}, "later ones"),
        ({"encoder": {"mixer": {"linformer": {"rows": 25}}}}, "25 rows for texts of at most 24 tokens"),
    ],
)
def test_a_pair_refuses_it_where_it_cannot_be(changes, told):
    with pytest.raises(RecipeError, match=told):
        NewEncoderDecoder.model_validate(PAIR | changes).check()


def test_a_text_longer_than_the_projections_is_refused():
    with pytest.raises(UnsupportedError, match="41 tokens"):
        encoder()(ids(1, 41), Step.whole(1, 41, CPU))
