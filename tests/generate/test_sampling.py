"""A draw is a function of logits, seed and position, and its chances are exactly those the settings define."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tiny_engines import talker
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.candidates import found_in, wish
from steelyard.generate.engine import Engine
from steelyard.generate.processor import View
from steelyard.generate.processors.penalties import Penalties
from steelyard.generate.sampling import AFTERWARDS, confidence, draw, filtered, nucleus, permitted, uniform

logit_lists = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40)


def chances(values, **options) -> torch.Tensor:
    return filtered(torch.tensor(values, dtype=torch.float32), AnswerSettings(**({"temperature": 1.0} | options)))


# Filters


@settings(max_examples=150, deadline=None)
@given(logit_lists, st.sampled_from([0.3, 1.0, 2.5]), st.integers(0, 50), st.floats(0.01, 1), st.sampled_from([0.0, 0.02, 0.3, 1.0]))
def test_filters_keep_exactly_the_mass_they_define(values, temperature, top_k, top_p, min_p):
    plain = torch.softmax(torch.tensor(values, dtype=torch.float32) / temperature, -1)
    kept = chances(values, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    inside = kept > 0
    assert kept.sum() == pytest.approx(1, abs=1e-5)
    assert inside.any()
    # Whatever is kept keeps its proportions, and is at least as likely as anything left out.
    torch.testing.assert_close(kept[inside], plain[inside] / plain[inside].sum(), rtol=1e-4, atol=1e-7)
    assert not (~inside).any() or plain[inside].min() >= plain[~inside].max() - 1e-7


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(-300, 300), min_size=2, max_size=40, unique=True), st.integers(1, 45))
def test_top_k_keeps_the_k_likeliest(values, top_k):
    kept = chances([value / 30 for value in values], top_k=top_k) > 0
    assert set(kept.nonzero().flatten().tolist()) == set(sorted(range(len(values)), key=lambda i: -values[i])[:top_k])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(-300, 300), min_size=2, max_size=40, unique=True), st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_set_of_likeliest_tokens_that_reaches_p(values, top_p):
    logits = [value / 30 for value in values]
    plain = torch.softmax(torch.tensor(logits, dtype=torch.float64), -1)
    kept = chances(logits, top_p=top_p) > 0
    mass, least = float(plain[kept].sum()), float(plain[kept].min())
    assume(abs(mass - top_p) > 1e-5 and abs(mass - least - top_p) > 1e-5)  # rounding decides there
    assert mass >= top_p
    assert mass - least < top_p


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-300, 300), min_size=2, max_size=40, unique=True),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([0, 1, 5]),
    st.sampled_from([1.0, 0.9, 0.35]),
    st.sampled_from([0.0, 0.07, 0.5]),
)
def test_the_chain_of_filters_equals_transformers(values, temperature, top_k, top_p, min_p):
    scores = torch.tensor([[value / 30 for value in values]])
    theirs = TemperatureLogitsWarper(temperature)(None, scores)
    theirs = TopKLogitsWarper(top_k)(None, theirs) if top_k else theirs
    theirs = TopPLogitsWarper(top_p)(None, theirs) if top_p < 1 else theirs
    theirs = torch.softmax(MinPLogitsWarper(min_p)(None, theirs), -1)[0]
    ours = chances(scores[0].tolist(), temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_ties_at_a_threshold_are_all_kept():
    assert chances([1.0, 2.0, 2.0, 0.0], top_k=1).tolist() == [0, 0.5, 0.5, 0]
    assert (chances([0.0] * 5, top_p=0.1) == 0.2).all()
    assert (chances([0.0] * 5, top_k=2) == 0.2).all()


def test_the_nucleus_of_a_flat_distribution_over_a_large_vocabulary_is_right():
    generator = torch.Generator().manual_seed(0)
    plain = torch.softmax(torch.randn(50_000, generator=generator) * 0.1, -1)
    for top_p in (0.001, 0.5, 0.999):
        kept = nucleus(plain, top_p) > 0
        mass, least = float(plain[kept].double().sum()), float(plain[kept].min())
        assert mass >= top_p - 1e-5 and mass - least < top_p + 1e-5


@pytest.mark.parametrize("temperature", [1e-6, 1e-10, 1e-40, 1e-320, 5e-324])
def test_a_temperature_near_zero_is_greedy(temperature):
    generator = torch.Generator().manual_seed(1)
    for seed in range(20):
        logits = torch.randn(50, generator=generator) * 10
        pick = draw(logits, AnswerSettings(temperature=temperature, seed=seed), 3)
        assert pick.token == int(logits.argmax()) and pick.logprob == pytest.approx(0, abs=1e-6)


def test_a_high_temperature_is_nearly_uniform():
    assert chances([0.0, 5.0, -5.0], temperature=9999.0).tolist() == pytest.approx([1 / 3] * 3, abs=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("values", [[math.nan, 1.0], [1.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_nothing_is_drawn_from_logits_that_are_no_numbers(values, temperature):
    with pytest.raises(SteelyardError, match="no token can be drawn"):
        draw(torch.tensor(values), AnswerSettings(temperature=temperature), 0)


def test_tokens_that_are_ruled_out_are_never_drawn():
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf])
    drawn = {draw(logits, AnswerSettings(temperature=1.0, seed=seed), 1).token for seed in range(200)}
    assert drawn == {1, 3}


# Draws

VALUES = [2.0, 1.0, 0.5, 0.0, -0.5, -1.0, 1.7, -3.0]


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.5}, {"top_k": 4}, {"top_p": 0.7}, {"min_p": 0.2}, {"top_k": 6, "top_p": 0.9, "min_p": 0.1}]
)
@pytest.mark.parametrize("over", ["seeds", "positions"])
def test_draws_follow_the_filtered_distribution(options, over):
    count, logits = 2000, torch.tensor(VALUES)
    expected = chances(VALUES, **options)
    seen = torch.zeros(len(VALUES))
    for number in range(count):
        seed, position = (number, 5) if over == "seeds" else (11, number)
        pick = draw(logits, AnswerSettings(**({"temperature": 1.0, "seed": seed} | options)), position)
        assert pick.logprob == pytest.approx(math.log(expected[pick.token]), abs=1e-6)
        seen[pick.token] += 1
    inside = expected > 0
    assert not seen[~inside].any()
    if inside.sum() > 1:
        shares = expected[inside].double()
        assert chisquare(seen[inside].double(), shares / shares.sum() * count).pvalue > 1e-4


def test_a_wrong_distribution_would_be_noticed():
    """The control of the test above: draws at temperature 1 are no draws at 0.9."""
    count, logits, seen = 4000, torch.tensor(VALUES), torch.zeros(len(VALUES))
    for seed in range(count):
        seen[draw(logits, AnswerSettings(temperature=1.0, seed=seed), 5).token] += 1
    assert chisquare(seen.double(), chances(VALUES, temperature=0.9).double() * count, sum_check=False).pvalue < 1e-4


def test_noise_is_uniform_and_unrelated_between_positions_and_seeds():
    noise = numpy.array([[uniform(seed, position) for position in range(200)] for seed in range(200)])
    assert ((noise >= 0) & (noise < 1)).all()
    assert chisquare(numpy.histogram(noise, 20, (0, 1))[0]).pvalue > 1e-4
    assert abs(numpy.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.02
    assert abs(numpy.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 0.02
    assert len(numpy.unique(noise)) == noise.size


def test_noise_stays_the_same_from_one_release_to_the_next():
    """Recorded answers are found again by seed; other noise would make them stale without anyone noticing."""
    assert uniform(7, 3) == 0.6688598173689474
    assert uniform(-1, 0) != uniform(1, 0)
    assert uniform(10**40, 0) != uniform(10**40 + 1, 0)
    assert uniform(numpy.int64(7), 3) == uniform(7, 3)
    assert uniform(7, 3, "other") != uniform(7, 3)


# Penalties


def penalised(logits: torch.Tensor, prompt: list[int], generated: list[int], **options) -> torch.Tensor:
    session = Penalties().start(AnswerSettings(**options))
    assert session is not None
    for token in generated:
        session.advance(token)
    before = logits.clone()
    out = session(logits, View(prompt, generated))
    assert torch.equal(logits, before), "a session must not change what it is given"
    return out


tokens = st.lists(st.integers(0, 15), max_size=12)


@settings(max_examples=100, deadline=None)
@given(tokens.filter(bool), tokens, st.sampled_from([0.5, 1.3, 2.0]))
def test_the_repetition_penalty_equals_transformers(prompt, generated, penalty):
    logits = torch.randn(16, generator=torch.Generator().manual_seed(len(prompt)))
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([prompt + generated]), logits[None])[0]
    torch.testing.assert_close(penalised(logits, prompt, generated, repetition_penalty=penalty), theirs)


@settings(max_examples=100, deadline=None)
@given(tokens, tokens, st.floats(-2, 2), st.floats(-2, 2))
def test_presence_and_frequency_penalties_follow_the_published_formula(prompt, generated, presence, frequency):
    """mu[j] -= c[j] * frequency + (c[j] > 0) * presence, where c counts generated tokens only."""
    assume(presence or frequency)
    logits = torch.randn(16, generator=torch.Generator().manual_seed(3))
    expected = [float(logits[j]) - generated.count(j) * frequency - (j in generated) * presence for j in range(16)]
    ours = penalised(logits, prompt, generated, presence_penalty=presence, frequency_penalty=frequency)
    torch.testing.assert_close(ours, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_together_the_repetition_penalty_comes_first():
    logits = torch.tensor([2.0, -2.0, 1.0])
    ours = penalised(logits, [0], [1, 1], repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    assert ours.tolist() == [1.0, -4.0 - 0.5 - 0.5, 1.0]


@settings(max_examples=50, deadline=None)
@given(tokens, tokens)
def test_penalties_forget_what_is_rewound(kept, dropped):
    options = {"repetition_penalty": 1.5, "presence_penalty": 0.3, "frequency_penalty": 0.2}
    session = Penalties().start(AnswerSettings(**options))
    for token in kept + dropped:
        session.advance(token)
    session.rewind(len(dropped))
    logits = torch.randn(16, generator=torch.Generator().manual_seed(5))
    assert torch.equal(session(logits, View([3], kept)), penalised(logits, [3], kept, **options))


def test_requests_without_penalties_pay_nothing_for_them():
    assert Penalties().start(AnswerSettings(temperature=1.0)) is None


# Confidence


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-20, 20, width=32), min_size=8, max_size=8), min_size=1, max_size=4), st.integers(0, 12))
def test_confidence_is_the_log_softmax_its_entropy_and_its_best(rows, alternatives):
    logits = torch.tensor(rows)
    tokens = [index % 8 for index in range(len(rows))]
    plain = torch.log_softmax(logits.double(), -1)
    for row, token, told in zip(plain, tokens, confidence(logits, tokens, alternatives), strict=True):
        assert told.logprob == pytest.approx(float(row[token]), abs=1e-4)
        assert told.entropy == pytest.approx(float(-(row.exp() * row).sum()), abs=1e-3)
        best = row.topk(min(alternatives, 8)).values.tolist()
        assert [value for _, value in told.alternatives] == pytest.approx(best, abs=1e-4)
        assert all(value == pytest.approx(float(row[other]), abs=1e-4) for other, value in told.alternatives)


@pytest.fixture(scope="module")
def talking() -> SimpleNamespace:
    model = talker()
    with Engine(model, dtype="float32", deterministic=True) as engine:
        yield SimpleNamespace(model=model, engine=engine)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.8, "seed": 3},
        {"temperature": 1.5, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "seed": 4},
        {"temperature": 1.0, "repetition_penalty": 1.4, "presence_penalty": 0.4, "frequency_penalty": 0.3, "seed": 5},
        {"repetition_penalty": 2.0},
    ],
    ids=str,
)
def test_an_answer_is_what_its_settings_draw_from_the_models_own_logits(talking, options):
    """Every token, its log-probability before and after processing and its alternatives, recomputed without the engine."""
    wanted = AnswerSettings(**options)
    (done,) = talking.engine.generate(["abc"], max_tokens=24, ignore_eos=True, alternatives=4, **options)
    prompt, generated = talking.engine.encode("abc"), [token.id for token in done.tokens]
    logits = talking.model.logits([prompt + generated])[0]
    session = Penalties().start(wanted)
    for index, token in enumerate(done.tokens):
        position = len(prompt) + index
        row = logits[position - 1]
        plain = torch.log_softmax(row, -1)
        assert token.logprob == pytest.approx(float(plain[token.id]), abs=2e-4)
        assert [value for _, value in token.alternatives] == pytest.approx(plain.topk(4).values.tolist(), abs=2e-4)
        shaped = session(row, View(prompt, generated[:index])) if session else row
        pick = draw(shaped, wanted, position)
        assert pick.token == token.id
        assert token.sampled_logprob == pytest.approx(pick.logprob, abs=2e-4)
        if session:
            session.advance(token.id)
    assert done.logprobs == [token.logprob for token in done.tokens]


def test_greedy_answers_do_not_depend_on_the_seed_and_equal_top_k_of_one(talking):
    def text(**options) -> str:
        return talking.engine.generate(["abc"], max_tokens=20, ignore_eos=True, **options)[0].text

    assert text() == text(seed=99) == text(temperature=1.0, top_k=1, seed=5) == text(temperature=1.0, top_p=1e-9)


def test_the_same_seed_gives_the_same_answer_in_another_engine_and_another_seed_another(talking):
    options = {"max_tokens": 20, "temperature": 1.0, "ignore_eos": True}
    (first,) = talking.engine.generate(["abc"], seed=1, **options)
    with Engine(talking.model, dtype="float32", deterministic=True, slots=3) as other:
        again, different = other.generate(["abc"], seed=1, **options) + other.generate(["abc"], seed=2, **options)
    assert again.text == first.text != different.text


def test_a_callable_that_works_in_place_does_not_change_the_confidence(talking):
    def flatten(tokens, logits):
        logits.zero_()
        logits[65] = 1.0
        return logits

    (plain,) = talking.engine.generate(["abc"], max_tokens=1, alternatives=3)
    with Engine(talking.model, dtype="float32", deterministic=True, processors=[flatten]) as engine:
        (bent,) = engine.generate(["abc"], max_tokens=1, alternatives=3)
    assert bent.tokens[0].id == 65
    assert bent.tokens[0].alternatives == plain.tokens[0].alternatives
    assert bent.tokens[0].entropy == plain.tokens[0].entropy


@pytest.mark.parametrize("filters", [{"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.05}, {"top_k": 30, "top_p": 0.7, "min_p": 0.01}], ids=str)
def test_a_filtered_draw_that_asks_about_a_few_is_the_draw_from_the_masked_row(filters):
    dice, settled = torch.Generator().manual_seed(3), 0
    for number in range(150):
        logits = 3 * torch.randn(400, generator=dice)
        allowed = torch.rand(400, generator=dice) < (0.02, 0.3, 0.9)[number % 3]
        allowed[int(torch.randint(400, (1,), generator=dice))] = True
        asked = AnswerSettings(temperature=0.8, seed=number, **filters)
        found = found_in(logits.numpy(), wish(asked))
        pick = permitted(logits, asked, number, lambda token, allowed=allowed: bool(allowed[token]), found)
        masked = draw(torch.where(allowed, logits, -torch.inf), asked, number, purpose=AFTERWARDS)
        if pick is not None:
            settled += 1
            assert pick.token == masked.token
            assert pick.logprob == pytest.approx(masked.logprob, abs=1e-6)
    assert settled > 20


def test_drawing_again_what_is_not_permitted_leaves_the_permitted_in_proportion():
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, 1.5])
    allowed = torch.tensor([False, True, False, True, True, False])
    masked, counts, masks = torch.where(allowed, logits, -torch.inf), [0] * 6, 0
    for seed in range(4000):
        asked = AnswerSettings(temperature=1.0, seed=seed)
        pick = permitted(logits, asked, 7, lambda token: bool(allowed[token]))
        masks += pick is None
        counts[(pick or draw(masked, asked, 7, purpose=AFTERWARDS)).token] += 1
    wanted = 4000 * torch.softmax(masked.double(), -1)
    assert masks > 400, "both ways of drawing are in these counts"
    assert counts[0] == counts[2] == counts[5] == 0
    assert chisquare([counts[1], counts[3], counts[4]], wanted[allowed]).pvalue > 1e-3


def test_who_asks_about_nothing_permitted_is_told_to_mask():
    logits, asked = torch.zeros(50), AnswerSettings(temperature=1.0)
    assert permitted(logits, asked, 0, lambda token: False) is None
    assert permitted(logits, dataclasses.replace(asked, temperature=0), 0, lambda token: False) is None
    filtering = dataclasses.replace(asked, top_p=0.5)
    assert permitted(logits, filtering, 0, lambda token: False, found_in(logits.numpy(), wish(filtering))) is None
