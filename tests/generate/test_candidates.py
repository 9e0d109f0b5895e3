"""Draws among a few candidates choose what draws over the whole vocabulary choose, and the head finds what the readable twin finds."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_engines import said_by, talker

from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import AnswerSettings
from steelyard.generate import candidates
from steelyard.generate.candidates import MOST, Candidates, Wish, found_in, restricted, wish
from steelyard.generate.sampling import confidence, draw, filtered, invert, uniform
from steelyard.generate.spec import EngineSpec
from steelyard.kernels import native

HERE = [name for name in native.SETS if native.routines_for(name) is not None]
kinds = pytest.mark.parametrize("name", HERE)
seeds = st.integers(0, 10_000)
filters = st.builds(
    AnswerSettings,
    temperature=st.sampled_from([1e-9, 0.1, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 0, 1, 3, 40, 119, 121, 5000]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.3, 1e-6]),
    min_p=st.sampled_from([0.0, 0.0, 1e-5, 0.05, 1.0]),
    seed=seeds,
)


@pytest.fixture(scope="module")
def pools() -> dict[str, native.Pool]:
    return {name: native.Pool(routines, 3) for name in HERE if (routines := native.routines_for(name)) is not None}


def row_of(seed: int, count: int, kind: str) -> torch.Tensor:
    """Logits that are spread, flat, full of ties, or mostly ruled out."""
    draws = torch.Generator().manual_seed(seed)
    row = torch.randn(count, generator=draws) * {"flat": 0.01, "ties": 2.0}.get(kind, 3.0)
    if kind == "ties":
        row = row.round()
    if kind == "ruled out":
        row[torch.rand(count, generator=draws) < 0.9] = -math.inf
    return row


rows_of_logits = st.builds(
    row_of, seeds, st.sampled_from([1, 5, 63, 64, 65, 700, 1024, 1025, 6000]), st.sampled_from(["spread", "flat", "ties", "ruled out"])
)


def same(first: Candidates, second: Candidates) -> None:
    assert first.ids.tolist() == second.ids.tolist()
    assert first.logits.tobytes() == second.logits.tobytes()
    assert first.whole == second.whole
    assert first.largest == second.largest or math.isnan(first.largest) and math.isnan(second.largest)
    assert (first.mass is None) == (second.mass is None)
    assert first.mass is None or first.mass == pytest.approx(second.mass, rel=3e-6)
    assert first.log_sum == pytest.approx(second.log_sum, rel=3e-6, abs=1e-5, nan_ok=True)
    assert first.entropy == pytest.approx(second.entropy, rel=1e-5, abs=2e-5, nan_ok=True)


# What the head finds


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
wishes = st.builds(Wish, best=st.sampled_from([0, 1, 1, 8, 64, 128]), temperature=st.sampled_from([0.0, 0.5, 2.0]), sums=st.booleans())


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(seeds, st.sampled_from(["spread", "flat", "ties", "ruled out"]), wishes), max_size=5), count=st.integers(1, 700)
)
def test_what_is_fetched_of_several_rows_at_once_is_what_the_readable_twin_finds(device, rows, count):
    logits = [row_of(seed, count, kind) for seed, kind, _ in rows]
    found = candidates.on_device(torch.stack([*logits, torch.zeros(count)]).to(device), [*(one for _, _, one in rows), Wish()])
    for row, (_, _, one), mine in zip(logits, rows, found, strict=False):
        same(mine, found_in(row.numpy(), one))


@pytest.mark.parametrize(("wrong", "largest"), [(math.nan, math.nan), (math.inf, math.nan), (-math.inf, -math.inf)])
def test_rows_that_cannot_be_drawn_from_are_told_by_their_largest(wrong, largest):
    (found,) = candidates.on_device(torch.full((1, 9), wrong), [Wish(3, 1.0, True)])
    assert str(found.largest) == str(largest) and found.mass is None and math.isnan(found.log_sum) and math.isnan(found.entropy)
    with pytest.raises(SteelyardError, match="no token can be drawn"):
        draw(torch.full((9,), wrong), AnswerSettings(temperature=0), 0, found)


@kinds
@settings(max_examples=60, deadline=None)
@given(row=rows_of_logits, best=st.sampled_from([0, 1, 8, 64, 128]), temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]), sums=st.booleans())
def test_the_routines_find_what_the_readable_twin_finds(pools, name, row, best, temperature, sums):
    if not bool((row > -math.inf).any()):
        row[0] = 0.0
    asked = Wish(best, temperature, sums)
    beside = torch.stack((row, torch.zeros_like(row), row.flip(0)))
    ours = candidates.read(beside, [asked, Wish(3, 1.0, True), asked], pools[name])
    same(ours[0], found_in(row.numpy(), asked))
    same(ours[2], found_in(row.flip(0).numpy(), asked))
    single = candidates.read(row[None], [asked], pools[name])[0]
    assert repr((single.mass, single.log_sum, single.entropy)) == repr((ours[0].mass, ours[0].log_sum, ours[0].entropy))
    assert single.ids.tolist() == ours[0].ids.tolist()


@kinds
@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 9), width=st.integers(1, 70), count=st.sampled_from([1, 15, 16, 17, 1023, 1024, 2500]), seed=seeds)
def test_a_head_gives_the_logits_of_its_product_and_what_is_in_them(pools, name, rows, width, count, seed):
    draws = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(count, width, generator=draws), torch.randn(count, generator=draws)
    matrix = native.matrix_float(pools[name].routines, weight.bfloat16(), bias)
    hidden = torch.randn(rows, width, generator=draws)
    asked = [Wish(best, 0.7, True) for best in torch.randint(0, 100, (rows,), generator=draws).tolist()]
    logits, found = candidates.compute(hidden, matrix, asked, pools[name])
    assert torch.equal(logits, matrix(hidden, pools[name]))
    for row, one, here in zip(logits, asked, found, strict=True):
        same(here, found_in(row.numpy(), one))
    alone = candidates.compute(hidden[-1:], matrix, asked[-1:], native.Pool(pools[name].routines, 1))
    assert torch.equal(alone[0][0], logits[-1])
    assert (alone[1][0].mass, alone[1][0].log_sum, alone[1][0].entropy) == (found[-1].mass, found[-1].log_sum, found[-1].entropy)


@kinds
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 63, 1030])
def test_rows_that_hold_what_is_no_number_are_told_apart(pools, name, bad, place):
    row = torch.zeros(1031)
    row[place] = bad
    (found,) = candidates.read(row[None], [Wish(5, 1.0, True)], pools[name])
    assert math.isnan(found.largest) and math.isnan(found_in(row.numpy(), Wish(5)).largest)
    for settings_ in (AnswerSettings(), AnswerSettings(temperature=1.0, top_k=3), AnswerSettings(temperature=1.0, top_p=0.5)):
        with pytest.raises(SteelyardError, match="no token can be drawn"):
            draw(row, settings_, 0, found)
        with pytest.raises(SteelyardError, match="no token can be drawn"):
            draw(row, settings_, 0)


@kinds
def test_where_everything_is_ruled_out_nothing_is_drawn(pools, name):
    row = torch.full((200,), -math.inf)
    (found,) = candidates.read(row[None], [Wish(5, 1.0, True)], pools[name])
    assert found.largest == -math.inf and not len(found.ids)
    for settings_ in (AnswerSettings(), AnswerSettings(temperature=1.0, top_k=3), AnswerSettings(temperature=1.0, min_p=0.5)):
        with pytest.raises(SteelyardError, match="no token can be drawn"):
            draw(row, settings_, 0, found)


# What is drawn


@settings(max_examples=400, deadline=None)
@given(rows_of_logits, filters)
def test_the_choice_is_the_same_whatever_was_known_before(row, wanted):
    if not bool((row > -math.inf).any()):
        row[0] = 0.0
    plain = draw(row, wanted, 3)
    for best in (1, 8, 64, MOST, len(row)):
        asked = Wish(best, wish(wanted).temperature)
        assert draw(row, wanted, 3, found_in(row.numpy(), asked)) == plain
    for name in HERE:
        pool = native.Pool(native.routines_for(name), 1)  # type: ignore[arg-type]
        assert draw(row, wanted, 3, pool=pool).token == plain.token
        assert draw(row, wanted, 3, candidates.read(row[None], [wish(wanted)], pool)[0]).token == plain.token


@settings(max_examples=400, deadline=None)
@given(rows_of_logits, filters)
def test_what_is_drawn_among_candidates_is_what_the_whole_distribution_gives(row, wanted):
    if not bool((row > -math.inf).any()):
        row[0] = 0.0
    probabilities = filtered(row, wanted)
    ids, weights = restricted(row, wanted, None, None)
    drawn = draw(row, wanted, 3)
    assert ids.tolist() == sorted(ids.tolist())
    share = np.zeros(len(row))
    share[ids] = weights / weights.sum()
    # Filters that cut between two numbers a last bit apart may cut on either side of one of them.
    apart = np.abs(share - probabilities.double().numpy()).max()
    if apart < 1e-5 and drawn.token != invert(probabilities, uniform(wanted.seed, 3)):
        edges = share.cumsum()
        assert np.abs(edges - uniform(wanted.seed, 3)).min() < 1e-5
    assert share[drawn.token] > 0
    assert drawn.logprob == pytest.approx(math.log(share[drawn.token]), abs=1e-6)
    kept_here, kept_there = set(ids.tolist()), set(probabilities.nonzero().flatten().tolist())
    assert len(kept_here ^ kept_there) <= max(2, 0.01 * len(kept_there)) or apart < 1e-4


def test_greedy_takes_the_lower_of_two_equals_with_and_without_candidates():
    row = torch.zeros(3000)
    row[[2900, 1500, 40]] = 5.0
    for name in HERE:
        pool = native.Pool(native.routines_for(name), 2)  # type: ignore[arg-type]
        (found,) = candidates.read(torch.stack((row, row)), [Wish(2)] * 2, pool)[:1]
        assert found.ids.tolist() == [40, 1500]
        assert draw(row, AnswerSettings(), 0, found).token == draw(row, AnswerSettings(), 0).token == 40


@pytest.mark.skipif(not HERE, reason=native.absence() or "no C++ routines")
def test_confidence_needs_no_second_look_at_the_logits():
    rows = torch.stack([row_of(seed, 3000, "spread") for seed in range(3)])
    pool = native.Pool(native.routines_for(HERE[0]), 2)  # type: ignore[arg-type]
    known = candidates.read(rows, [Wish(7, sums=True)] * 3, pool)
    plain = confidence(rows, [5, 6, 7], 4)
    for views in (confidence(rows, [5, 6, 7], 4, pool), confidence(rows, [5, 6, 7], 4, pool, known)):
        for ours, theirs in zip(views, plain, strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-5)
            assert ours.entropy == pytest.approx(theirs.entropy, abs=1e-4)
            assert [token for token, _ in ours.alternatives] == [token for token, _ in theirs.alternatives]


def test_engines_with_and_without_candidates_say_the_same(monkeypatch):
    model = talker(8.0, max_position_embeddings=128)
    base = AnswerSettings(max_tokens=20, ignore_eos=True, token_events=True, alternatives=3)
    some = [{}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 20, "top_p": 0.7}, {"top_p": 0.95, "min_p": 0.02}]
    requests = [
        (list(range(9)), dataclasses.replace(base, temperature=heat, seed=seed, **one))
        for seed, one in enumerate(some)
        for heat in (0.0, 0.7, 1.5)
    ]
    spec = EngineSpec(model, dtype="float32", slots=4, deterministic=True)
    ours = said_by(spec, model, requests, 128)
    monkeypatch.setattr("steelyard.generate.host.Pass.read", lambda self, places, wishes: (self.logits(places), []))
    theirs = said_by(spec, model, requests, 128)
    for (text, tokens, reason), (other, others, why) in zip(ours, theirs, strict=True):
        assert (text, reason) == (other, why)
        for one, two in zip(tokens, others, strict=True):
            assert one.logprob == pytest.approx(two.logprob, abs=1e-5)
            assert [token for token, _ in one.alternatives] == [token for token, _ in two.alternatives]
