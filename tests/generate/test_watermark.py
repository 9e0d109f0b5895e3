"""A marked text is found by its key and by no other; an unmarked one as seldom as the binomial says."""

from __future__ import annotations

import collections
import itertools
import math
import random

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tiny_engines import Heard, generation, run_all, scheduler, talker

from steelyard.core import levers
from steelyard.core.errors import DataError, RecipeError, SteelyardError
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.engine import Engine
from steelyard.generate.processor import FunctionProcessor, View
from steelyard.generate.processors import green_lists
from steelyard.generate.processors.green_lists import GreenLists, detect, detect_text
from steelyard.generate.processors.typical import Typical
from steelyard.generate.processors.watermark import Mark, Watermark
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.model.model import Model

CONTEXT = 512
SAMPLED = {"temperature": 1.0, "ignore_eos": True, "logprobs": True}


@pytest.fixture(scope="module")
def model() -> Model:
    """Its next token is uncertain (3.6 nats or so), as a mark needs it."""
    return talker(6.0, max_position_embeddings=CONTEXT, num_hidden_layers=1)


def written(spec: EngineSpec, count: int, tokens: int, seed: int = 0) -> list[list[int]]:
    """The ids of sampled answers."""
    with Engine.from_spec(spec) as engine:
        answers = engine.generate([[place + 1, 7, 9] for place in range(count)], max_tokens=tokens, seed=seed, **SAMPLED)
    return [[token.id for token in answer.tokens] for answer in answers]


@pytest.fixture(scope="module")
def marked(model) -> list[list[int]]:
    return written(Watermark().decode(EngineSpec(model, dtype="float32")), 12, 400)


@pytest.fixture(scope="module")
def unmarked(model) -> list[list[int]]:
    return written(EngineSpec(model, dtype="float32"), 12, 400)


LISTS = GreenLists("steelyard")


def scores(texts, lists=LISTS) -> list[float]:
    return [detect(text, lists).z_score for text in texts]


# The lists


@settings(max_examples=100, deadline=None)
@given(
    st.text(min_size=1, max_size=8),
    st.floats(0.01, 0.99),
    st.lists(st.integers(0, 2**40), min_size=1, max_size=4),
    st.integers(1, 20_000),
    st.integers(1, 20_000),
)
def test_one_token_and_a_whole_list_agree_whatever_the_size_of_the_table(key, gamma, context, vocabulary, other):
    lists = GreenLists(key, gamma, len(context))
    after = lists.after(context, vocabulary)
    assert all(lists.holds(context, token) == after[token] for token in range(0, vocabulary, 97))
    least = min(vocabulary, other)
    assert numpy.array_equal(after[:least], lists.after(context, other)[:least])


@pytest.mark.parametrize("gamma", [0.1, 0.25, 0.5, 0.9])
def test_gamma_of_all_tokens_are_green_and_lists_of_other_keys_and_contexts_have_nothing_to_do_with_it(gamma):
    size = 50_000
    lists = GreenLists("a", gamma)
    one = lists.after([5], size)
    for other in (lists.after([6], size), GreenLists("b", gamma).after([5], size), GreenLists("a", gamma, 2).after([5, 5], size)):
        slack = 5 * math.sqrt(gamma * (1 - gamma) / size)
        assert abs(other.mean() - gamma) < slack
        assert abs((one & other).mean() - gamma**2) < slack


def test_neighbouring_tokens_and_contexts_are_green_independently():
    """Chi-square over the patterns of four tokens in a row, and of one token after four contexts in a row."""
    lists = GreenLists("a", 0.5)
    table = numpy.stack([lists.after([context], 512) for context in range(512)])
    for rows in (table, table.T):
        patterns = rows.reshape(-1, 4) @ [1, 2, 4, 8]
        assert stats.chisquare(numpy.bincount(patterns, minlength=16)).pvalue > 1e-3


# The mark


def test_green_logits_are_raised_by_delta_and_nothing_else_changes():
    logits = torch.randn(300)
    logits[::3] = float("-inf")
    before = logits.clone()
    shaped = Mark(LISTS, 1.5).start(AnswerSettings())(logits, View([4], [8, 9]))
    green = torch.from_numpy(LISTS.after([9], 300))
    assert torch.equal(shaped, torch.where(green, before + 1.5, before)) and torch.equal(logits, before)


def test_the_context_reaches_back_into_the_prompt_and_without_enough_of_it_nothing_is_marked():
    logits = torch.zeros(300)
    session = Mark(GreenLists("k", 0.25, 3), 2.0).start(AnswerSettings())
    seen = [
        session(logits, View([1, 2, 3], [])),
        session(logits, View([1, 2], [3])),
        session(logits, View([9, 9], [1, 2, 3])),
    ]
    assert all(torch.equal(one, seen[0]) for one in seen) and seen[0].any()
    assert not session(logits, View([2], [3])).any()


def test_transformers_marks_and_detects_alike_given_our_lists(monkeypatch, marked, unmarked):
    from transformers import PretrainedConfig, WatermarkDetector, WatermarkingConfig
    from transformers.generation.logits_process import WatermarkLogitsProcessor

    def ours(self, ids):
        return torch.from_numpy(LISTS.after(ids[-1:].tolist(), 260)).nonzero()[:, 0]

    monkeypatch.setattr(WatermarkLogitsProcessor, "_get_greenlist_ids", ours)
    config = WatermarkingConfig(greenlist_ratio=0.25, bias=2.0, context_width=1)
    theirs = WatermarkLogitsProcessor(260, "cpu", greenlist_ratio=0.25, bias=2.0, context_width=1)
    logits = torch.randn(260)
    shaped = Mark(LISTS, 2.0).start(AnswerSettings())(logits, View([4], [8, 9]))
    assert torch.equal(theirs(torch.tensor([[4, 8, 9]]), logits[None].clone())[0], shaped)

    detector = WatermarkDetector(PretrainedConfig(vocab_size=260, bos_token_id=-1), "cpu", config, ignore_repeated_ngrams=True)
    for text in (*marked[:3], *unmarked[:3]):
        found, expected = detect(text, LISTS), detector(torch.tensor([text]), z_threshold=4.0, return_dict=True)
        assert found.scored == expected.num_tokens_scored[0] and found.green == expected.num_green_tokens[0]
        assert found.z_score == pytest.approx(expected.z_score[0])
        assert found.marked == expected.prediction[0]


# What the detector finds


def test_the_z_score_of_marked_text_grows_as_the_root_of_its_length(marked):
    lengths = (25, 50, 100, 200, 400)
    found = {length: [detect(text[:length], LISTS) for text in marked] for length in lengths}
    per_root = [numpy.mean([one.z_score / math.sqrt(one.scored) for one in found[length]]) for length in lengths]
    assert max(per_root) < 1.15 * min(per_root)
    slope = numpy.polyfit(
        [numpy.log(numpy.mean([one.scored for one in found[length]])) for length in lengths],
        [numpy.log(numpy.mean([one.z_score for one in found[length]])) for length in lengths],
        1,
    )[0]
    assert 0.42 < slope < 0.58
    assert min(scores([text[:200] for text in marked])) > 4


@pytest.mark.parametrize("other", [GreenLists("Steelyard"), GreenLists("steelyard", 0.25, 2), GreenLists("steelyard ", 0.5)])
def test_another_key_or_width_finds_nothing(marked, other):
    assert max(map(abs, scores(marked, other))) < 4 and not any(detect(text, other).marked for text in marked)


def test_unmarked_text_is_not_found(unmarked):
    assert max(map(abs, scores(unmarked))) < 4 and not any(detect(text, LISTS).marked for text in unmarked)


def test_false_positives_follow_the_binomial():
    """3,000 random texts of 60 tokens: green counts fit Binomial(n, gamma), and p-values at most alpha come that often or less."""
    dice, size = random.Random(1), 60
    found = [detect([dice.randrange(5000) for _ in range(size)], GreenLists(f"key {number}")) for number in range(3000)]
    found = [one for one in found if one.scored == size - 1]
    assert len(found) > 2900
    law = stats.binom(size - 1, 0.25)
    low, high = int(law.ppf(0.01)), int(law.ppf(0.99))
    counts = collections.Counter(min(max(one.green, low), high) for one in found)
    expected = [law.cdf(low), *(law.pmf(k) for k in range(low + 1, high)), law.sf(high - 1)]
    observed = [counts[k] for k in range(low, high + 1)]
    assert stats.chisquare(observed, [len(found) * share for share in expected]).pvalue > 1e-3
    for alpha in (0.2, 0.05, 0.01, 0.001):
        share = sum(one.p_value <= alpha for one in found) / len(found)
        assert share <= alpha + 3 * math.sqrt(alpha / len(found))
    assert all(one.p_value == pytest.approx(law.sf(one.green - 1)) for one in found)


def test_a_text_that_repeats_itself_is_not_taken_for_a_marked_one_as_counting_every_repetition_would():
    dice, wrong, naive = random.Random(2), 0, 0
    for number in range(400):
        lists, phrase = GreenLists(f"key {number}"), [dice.randrange(5000) for _ in range(30)]
        text = phrase * 20
        found = detect(text, lists)
        assert found.scored == 30 and found.tokens == 600
        wrong += found.z_score > 4
        green = sum(lists.holds([a], b) for a, b in itertools.pairwise(text))
        naive += (green - 0.25 * 599) / math.sqrt(599 * 0.25 * 0.75) > 4
    assert wrong == 0 and naive > 40


@pytest.mark.parametrize("times", [1, 3, 9])
def test_a_prompt_in_front_weakens_the_z_score_by_the_root_of_the_marked_share(marked, unmarked, times):
    """As documented: with as many unmarked tokens as marked ones 0.71 of it is left, with nine times as many 0.32."""
    dice, alone, behind = random.Random(3), [], []
    for text in marked:
        prompt = [dice.randrange(260) for _ in range(times * 100)]
        alone.append(detect(text[:100], LISTS).z_score)
        behind.append(detect(prompt + text[:100], LISTS).z_score)
    left = numpy.mean(behind) / numpy.mean(alone)
    assert left == pytest.approx(1 / math.sqrt(1 + times), abs=0.13)


def test_a_changed_token_spoils_two_scores(marked):
    """A tenth of the tokens replaced at random leaves about 0.8 of the excess: the mark is still found."""
    dice, left = random.Random(4), []
    for text in marked:
        changed = [dice.randrange(260) if place % 10 == 5 else token for place, token in enumerate(text)]
        left.append(detect(changed, LISTS).z_score / detect(text, LISTS).z_score)
        assert detect(changed, LISTS).marked
    assert 0.72 < numpy.mean(left) < 0.9


def test_a_text_too_short_for_any_verdict_but_one_is_refused():
    lists = GreenLists("k")
    least = lists.least(3e-5)
    assert 0.25**least <= 3e-5 < 0.25 ** (least - 1)
    with pytest.raises(DataError, match="too few to tell") as raised:
        detect(list(range(least)), lists)
    assert f"at least {least} different 2-grams" in (raised.value.do or "")
    assert detect(list(range(least + 1)), lists).scored == least
    for short in ([], [1], [1] * 500):
        with pytest.raises(DataError, match="too few"):
            detect(short, lists)
    green = [0]
    while len(green) <= least:
        green.append(next(t for t in range(10_000) if t not in green and lists.holds(green[-1:], t)))
    assert (
        detect(green, lists).marked
        and not detect(green[:-1] + [next(t for t in range(99) if not lists.holds(green[-2:-1], t))], lists).marked
    )


@pytest.mark.parametrize("settings", [{"gamma": 0.0}, {"gamma": 1.0}, {"gamma": math.nan}, {"width": 0}, {"key": ""}])
def test_lists_that_mean_nothing_are_refused(settings):
    with pytest.raises(SteelyardError, match=next(iter(settings))):
        GreenLists(**({"key": "k"} | settings))


@pytest.mark.parametrize("share", [0, 1, -1, math.nan])
def test_a_share_of_false_positives_that_is_none_is_refused(share):
    with pytest.raises(SteelyardError, match="false_positives"):
        detect(list(range(100)), GreenLists("k"), share)


def test_text_is_scored_by_its_own_tokens_and_the_detector_loads_no_model(model):
    text = "A mark is looked for in this text, and of course none is found in it. " * 2
    ids = model.tokenizer.encode(text)
    assert detect_text(text, model.tokenizer, LISTS) == detect(ids, LISTS)
    assert "torch" not in vars(green_lists)


# In the engine


def request(dice: random.Random) -> tuple[list[int], AnswerSettings]:
    prompt = [dice.randrange(256) for _ in range(dice.randint(1, 6))] * 5
    return prompt, AnswerSettings(
        max_tokens=20,
        temperature=dice.choice([0.0, 0.0, 0.4, 0.8]),
        top_k=dice.choice([0, 20]),
        repetition_penalty=dice.choice([1.0, 0.8]),
        presence_penalty=dice.choice([0.0, -0.5]),
        seed=dice.randrange(1000),
        token_events=True,
        ignore_eos=True,
    )


def said(spec: EngineSpec, model: Model, requests) -> list[tuple]:
    turns, heard = scheduler(spec), [Heard() for _ in requests]
    made = [generation(model, prompt, wanted, ear, CONTEXT) for (prompt, wanted), ear in zip(requests, heard, strict=True)]
    for one in made:
        turns.add(one)
    run_all(turns)
    said.passes = sum(one.passes for one in made)  # type: ignore[attr-defined]
    return [ear.said for ear in heard]


@pytest.mark.parametrize("width", [1, 3])
def test_the_text_is_the_same_inside_speculation(width):
    model = talker(20.0, max_position_embeddings=CONTEXT, num_hidden_layers=1)
    dice, passes = random.Random(5), {"plain": 0, "looking": 0}
    spec = Watermark(width=width).decode(EngineSpec(model, deterministic=True, slots=3, dtype="float32"))
    looking = PromptLookup(shortest=1).decode(spec)
    for _ in range(12):
        requests = [request(dice) for _ in range(3)]
        expected = said(spec, model, requests)
        passes["plain"] += said.passes  # type: ignore[attr-defined]
        assert said(looking, model, requests) == expected
        passes["looking"] += said.passes  # type: ignore[attr-defined]
    assert passes["looking"] < passes["plain"], "no guess was right, so nothing was shown"


def test_greedy_answers_are_marked_too(model):
    with Engine.from_spec(Watermark(delta=4).decode(EngineSpec(model, dtype="float32"))) as engine:
        (answer,) = engine.generate([[1, 7, 9]], max_tokens=200, ignore_eos=True)
    assert detect([token.id for token in answer.tokens], LISTS).marked


def test_the_mark_comes_last_whatever_the_order_of_levers_and_brings_back_nothing_ruled_out(model):
    allowed = torch.zeros(260, dtype=torch.bool)
    allowed[40:80] = True

    def rule_out(tokens: list[int], logits: torch.Tensor) -> torch.Tensor:
        return logits.masked_fill(~allowed, float("-inf"))

    dice = random.Random(6)
    requests = [request(dice) for _ in range(4)]
    texts = []
    for chain in itertools.permutations([Typical(mass=0.5), Watermark()]):
        spec = EngineSpec(model, deterministic=True, dtype="float32")
        for lever in chain:
            spec = lever.decode(spec)
        constraint = FunctionProcessor(rule_out)
        constraint.order = 0
        texts.append(
            said(EngineSpec(model, deterministic=True, dtype="float32", processors=(*spec.processors, constraint)), model, requests)
        )
    assert texts[0] == texts[1]
    assert all(allowed[token.id] for _, tokens, _ in texts[0] for token in tokens)


def test_rewinding_leaves_no_trace():
    session = Mark(LISTS, 2.0).start(AnswerSettings())
    logits, view = torch.randn(260), View([3], [5])
    first = session(logits, view)
    for token in (8, 9):
        view.generated.append(token)
        session.advance(token)
        assert not torch.equal(session(logits, view), first)
    del view.generated[-2:]
    session.rewind(2)
    assert torch.equal(session(logits, view), first)


def test_a_delta_of_zero_is_no_change_at_all(model):
    spec = EngineSpec(model)
    assert Watermark(delta=0).decode(spec) is spec


def test_every_setting_changes_the_fingerprint(model):
    made = [Watermark(**setting) for setting in ({}, {"delta": 1}, {"gamma": 0.5}, {"key": "other"}, {"width": 2}, {"delta": 0})]
    assert len({lever.decode(EngineSpec(model)).fingerprint for lever in made}) == len(made)
    assert len({lever.fingerprint for lever in made}) == len(made)


def test_the_lever_is_found_by_name_and_refuses_settings_that_mean_nothing():
    lever = levers.parse({"watermark": 1.5})
    assert isinstance(lever, Watermark) and lever.delta == 1.5
    for wrong in ({"delta": -1}, {"delta": math.inf}, {"gamma": 0}, {"gamma": 1}, {"key": ""}, {"width": 0}, {"length": 3}):
        with pytest.raises(RecipeError):
            levers.parse({"watermark": wrong})
    with pytest.raises(RecipeError, match="conflicts with watermark"):
        levers.check_chain([lever, Watermark(key="other")], {"weights"}, "arm")
    with pytest.raises(RecipeError, match="needs weights"):
        levers.check_chain([lever], set(), "arm")
