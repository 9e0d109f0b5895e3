"""Encoder and decoder: what cross-attention computes, what padding may not change, and that writing is what reading says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steelyard.core.errors import ContextLengthError, DataError, RecipeError, UnsupportedError
from steelyard.data.batching import NOT_LEARNED, Place
from steelyard.data.pairs import Pairs, batch_of
from steelyard.model.encoder_decoder import EncoderDecoder, initialize_both, two_trunks
from steelyard.model.mixers.cross_attention import SIDE, CrossAttentionLever, CrossAttentionPlan, Encoded
from steelyard.model.new import DecoderPlan
from steelyard.model.step import Step
from steelyard.train.supervised.pairs import pair_loss

CPU = torch.device("cpu")
KINDS = {"attention": ("attention", "all"), "lstm": ("lstm", "all"), "summary": ("lstm", "last")}
every_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, width: int = 32) -> EncoderDecoder:
    mixer, sees = KINDS[kind]
    source = DecoderPlan.model_validate({"mixer": mixer, "width": 24, "depth": 2, "context": 16, "initial": 0.3})
    target = DecoderPlan.model_validate({"mixer": mixer, "width": width, "depth": 2, "context": 16, "initial": 0.3})
    plan = two_trunks(source, target, CrossAttentionLever(sees=sees), (11, 13))
    return initialize_both(plan.build(), source, target, 3).eval().requires_grad_(False)


def random_ids(rows: int, time: int, most: int, seed: int) -> torch.Tensor:
    return torch.randint(1, most, (rows, time), generator=torch.Generator().manual_seed(seed))


def test_cross_attention_is_pytorchs_multi_head_attention_over_the_source():
    torch.manual_seed(0)
    ours, theirs = (
        CrossAttentionPlan(4, 8, 20).build(32),
        torch.nn.MultiheadAttention(32, 4, bias=False, kdim=20, vdim=20, batch_first=True),
    )
    with torch.no_grad():
        for mine, other in ((ours.query, theirs.q_proj_weight), (ours.key, theirs.k_proj_weight), (ours.value, theirs.v_proj_weight)):
            other.copy_(mine.weight.normal_())
        theirs.out_proj.weight.copy_(ours.output.weight.normal_())
        x, m, lengths = torch.randn(3, 5, 32), torch.randn(3, 7, 20), (7, 4, 1)
        padding = torch.arange(7) >= torch.tensor(lengths)[:, None]
        y = ours(x, replace(Step.whole(3, 5, CPU), side={SIDE: Encoded(m, lengths)}))
        assert (y - theirs(x, m, m, key_padding_mask=padding)[0]).abs().max() < 1e-4


@every_kind
def test_padding_and_company_change_nothing(kind):
    model, sources, targets = made(kind), random_ids(2, 9, 11, 1), random_ids(2, 6, 13, 2)
    together = model(sources, (9, 4), targets)
    alone = model(sources[1:, :4], (4,), targets[1:])
    assert (together[1] - alone[0]).abs().max() < 1e-4


@every_kind
def test_writing_token_by_token_is_what_the_whole_says_each_time(kind):
    model, sources = made(kind), random_ids(3, 8, 11, 4)
    encoded = model.encode(sources, (8, 5, 3))
    answers = model.answer(encoded, 10)
    for row, answer in enumerate(answers):
        own = model.encode(sources[row : row + 1, : encoded.lengths[row]], encoded.lengths[row : row + 1])
        written = [0]
        for _ in range(10):
            token = int(model.logits(own, torch.tensor([written]))[0, -1].argmax())
            if token == 0:
                break
            written.append(token)
        assert answer == written[1:]


@every_kind
def test_later_target_tokens_are_unknown_and_the_source_is_heard(kind):
    model, sources, targets = made(kind), random_ids(1, 8, 11, 5), random_ids(1, 6, 13, 6)
    before = model(sources, (8,), targets)
    later, other = targets.clone(), sources.clone()
    later[0, 4], other[0, 7] = later[0, 4] % 12 + 1, other[0, 7] % 10 + 1
    assert (model(sources, (8,), later) - before)[0, :4].abs().max() < 1e-6
    assert (model(other, (8,), targets) - before).abs().max() > 1e-4


@every_kind
def test_every_weight_learns_from_pairs(kind):
    model = made(kind).train().requires_grad_(True)
    batch = batch_of([([1, 2, 3, 4], [5, 6]), ([7, 8], [9, 10, 11])])
    loss, learned = pair_loss(model)(batch)
    assert learned == 7
    loss.backward()
    silent = {name for name, weight in model.named_parameters() if weight.grad is None or not bool(weight.grad.abs().sum() > 0)}
    # With one key there is nothing to choose: neither queries nor keys matter.
    assert {name.split(".")[-3] for name in silent} <= ({"query", "key"} if kind == "summary" else set())


def test_batches_of_pairs_begin_and_end_targets_and_resume_where_they_stopped():
    batch = batch_of([([1, 2, 3], [4]), ([5], [6, 7])], border=9)
    assert batch.ids.tolist() == [[9, 4, 0], [9, 6, 7]]
    assert batch.targets.tolist() == [[4, 9, NOT_LEARNED], [6, 7, 9]]
    assert batch.source.tolist() == [[1, 2, 3], [5, 0, 0]] and batch.lengths == (3, 1) and batch.tokens == 9
    pairs = Pairs([([number], [number]) for number in range(1, 8)], 3, seed=5)
    stream = pairs.iterate()
    seen = [next(stream) for _ in range(5)]
    assert sorted(int(row[0]) for batch, _ in seen[:3] for row in batch.source) == list(range(1, 8))
    again = next(pairs.iterate(seen[3][1]))
    assert again[0].ids.tolist() == seen[4][0].ids.tolist() and again[1] == seen[4][1] == Place(1, 2)


def test_what_does_not_fit_is_refused():
    with pytest.raises(RecipeError, match="second text"):
        DecoderPlan.model_validate({"mixer": "cross_attention"}).check()
    plan = DecoderPlan.model_validate({"width": 32, "depth": 1, "context": 8})
    with pytest.raises(RecipeError, match="do not divide"):
        two_trunks(plan, plan, CrossAttentionLever(heads=5), (9, 9))
    model = made("attention")
    with pytest.raises(UnsupportedError, match="without a source"):
        model.decoder.logits(torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(ContextLengthError, match="at most 16"):
        model.answer(model.encode(random_ids(1, 3, 11, 1), (3,)), 17)
    with pytest.raises(DataError, match="pair 1 is empty"):
        batch_of([([1], [2]), ([], [3])])
