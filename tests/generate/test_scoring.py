"""Scores are the log-likelihoods one gets by hand, with the token boundary where lm-eval puts it."""

from __future__ import annotations

import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_engines import Heard, talker
from tiny_talker import tiny_tokenizer
from tokenizers import decoders, pre_tokenizers

from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import AnswerSettings, Score
from steelyard.generate.engine import Engine
from steelyard.generate.host import Host
from steelyard.generate.scoring import Item, families, pair
from steelyard.model.model import Model
from steelyard.model.tokenizer import Tokenizer

CONTEXT = 320


@pytest.fixture(scope="module")
def model() -> Model:
    return talker(max_position_embeddings=CONTEXT)


@pytest.fixture(scope="module")
def engine(model):
    with Engine(model, dtype="float32", deterministic=True, slots=3) as engine:
        yield engine


def by_hand(model: Model, before: list[int], after: list[int], size: int) -> Score:
    """The definition: sum of log p(token | everything before it)."""
    logprobs = torch.log_softmax(model.logits([before + after])[0].double(), -1)[len(before) - 1 : -1]
    picked = logprobs[torch.arange(len(after)), torch.tensor(after)]
    return Score(float(picked.sum()), bool((logprobs.argmax(-1) == torch.tensor(after)).all()), len(after), size)


def assert_equal(score: Score, expected: Score) -> None:
    assert score.logprob == pytest.approx(expected.logprob, rel=1e-5, abs=1e-3)
    assert (score.greedy, score.tokens, score.bytes) == (expected.greedy, expected.tokens, expected.bytes)


texts = st.text("abc é東\n", min_size=1, max_size=30)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(texts.map(lambda text: "x" + text), texts), min_size=1, max_size=5))
def test_a_score_is_the_sum_of_log_probabilities_of_the_continuation(engine, model, pairs):
    for score, (context, continuation) in zip(engine.score(pairs), pairs, strict=True):
        kept = context.rstrip()
        moved = context[len(kept) :] + continuation
        before, after = model.tokenizer.encode(kept), model.tokenizer.encode(moved)
        assert_equal(score, by_hand(model, before, after, len(continuation.encode())))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text("ab é", min_size=1, max_size=200 // 2), min_size=1, max_size=4))
def test_a_whole_text_is_scored_from_its_first_token_on(engine, model, pieces):
    for score, text in zip(engine.score_text(pieces), pieces, strict=True):
        assert_equal(score, by_hand(model, [model.tokenizer.bos_id], model.tokenizer.encode(text), len(text.encode())))
        assert score == engine.score([("", text)])[0]


def test_long_texts_are_scored_in_pieces_without_a_seam(model):
    """Longer than what the head turns into logits at once (128), than a stretch of keys (256), and read in odd pieces."""
    ids = [(7 * i) % 256 for i in range(CONTEXT - 1)]
    text = model.tokenizer.decode(ids[:5]) + "".join(chr(97 + i % 23) for i in range(CONTEXT - 40))
    expected = by_hand(model, [model.tokenizer.bos_id], model.tokenizer.encode(text), len(text.encode()))
    for options in ({}, {"prefill": 7}, {"deterministic": True}, {"prefill": 100_000}):
        with Engine(model, dtype="float32", **options) as engine:
            (score,) = engine.score_text([text])
            assert score.logprob == pytest.approx(expected.logprob, abs=2e-2)
            assert (score.greedy, score.tokens, score.bytes) == (expected.greedy, expected.tokens, expected.bytes)


def test_the_models_own_greedy_answer_is_greedy_and_no_other_is(engine, model):
    (answer,) = engine.generate([list(range(97, 110))], max_tokens=8, ignore_eos=True)
    ids = [token.id for token in answer.tokens]
    (own,) = engine._score([Item(list(range(97, 110)) + ids, 13, 1)])
    (other,) = engine._score([Item(list(range(97, 110)) + ids[:-1] + [(ids[-1] + 1) % 256], 13, 1)])
    assert own.greedy and not other.greedy
    assert own.logprob == pytest.approx(sum(answer.logprobs), abs=1e-3)


def test_scores_are_the_same_to_the_bit_whatever_else_is_scored_or_said(engine):
    pairs = [(f"Question {number}:", f" answer {number * 37}" * (number + 1)) for number in range(12)]
    alone = [engine.score([each])[0] for each in pairs]
    heard = [Heard() for _ in range(4)]
    for number, ear in enumerate(heard):
        engine.submit(f"Question {number}", AnswerSettings(max_tokens=50, ignore_eos=True), ear)
    assert engine.score(pairs) == alone
    assert engine.score(pairs[::-1]) == alone[::-1]
    assert [ear.wait().reason for ear in heard] == ["length"] * 4


def test_choices_that_share_a_long_context_read_it_once(engine, model):
    context = "The same long context again and again. " * 6
    turns, read = engine.scheduler, []
    together = turns._read_together
    turns._read_together = lambda sequences: read.append(count := together(sequences)) or count
    try:
        scores = engine.score([(context, choice) for choice in ("red", "green", "blue", "yellow", "white", "black")])
    finally:
        del turns._read_together
    length = len(model.tokenizer.encode(context))
    assert sum(read) < (engine.spec.slots + 1) * length
    assert scores == engine.score([(context, choice) for choice in ("red", "green", "blue", "yellow", "white", "black")])


def test_an_empty_continuation_is_refused_and_no_pairs_are_no_scores(engine):
    with pytest.raises(SteelyardError, match="empty continuation"):
        engine.score([("a", "b"), ("a", "")])
    assert engine.score([]) == [] == engine.score_text([])


def test_a_text_without_tokens_is_refused(engine, model, monkeypatch):
    monkeypatch.setattr(type(model.tokenizer), "encode", lambda *_, **__: [])
    with pytest.raises(SteelyardError, match="has no tokens"):
        engine.score([("", "☃")])


def test_white_space_alone_is_a_context_like_none(engine):
    spaces, none = engine.score([("  ", "ab"), ("", "  ab")])
    assert (spaces.logprob, spaces.tokens) == (none.logprob, none.tokens)
    assert (spaces.bytes, none.bytes) == (2, 4)


def test_where_a_text_starts_depends_on_the_tokenizer(model):
    """Its begin token once, where there is one; else its end token."""
    for begins in (False, True):
        tokenizer = tiny_tokenizer(begins=begins)
        with Engine(Model(model.trunk, model.family, model.config, tokenizer), dtype="float32") as engine:
            bos = [tokenizer.bos_id]
            assert_equal(engine.score([("", "ab")])[0], by_hand(model, bos, tokenizer.encode("ab"), 2))
            expected = by_hand(model, (bos if begins else []) + tokenizer.encode("xy"), tokenizer.encode("ab"), 2)
            assert_equal(engine.score([("xy", "ab")])[0], expected)
            assert_equal(engine.score([("<|begin|>xy", "ab")])[0], by_hand(model, bos + tokenizer.encode("xy"), tokenizer.encode("ab"), 2))
    headless = tiny_tokenizer()
    headless = Tokenizer(headless.backend, bos_id=None, eos_ids=headless.eos_ids, pad_id=0)
    with Engine(Model(model.trunk, model.family, model.config, headless), dtype="float32") as engine:
        assert_equal(engine.score([("", "ab")])[0], by_hand(model, [headless.eos_ids[0]], headless.encode("ab"), 2))


def merging_tokenizer() -> Tokenizer:
    """One token a byte, and one more for `ab`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate([*alphabet, "ab"])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return Tokenizer(backend, bos_id=257, eos_ids=(258,), pad_id=0, prefix_ids=())


@pytest.mark.parametrize(
    ("context", "continuation", "before", "after"),
    [
        ("x", "ab", ["x"], ["ab"]),
        ("xab", "c", ["x", "ab"], ["c"]),
        ("xa", "bc", ["x", "ab"], ["c"]),  # the context alone has two tokens, and that is where lm-eval cuts
        ("xa", "b", ["x"], ["ab"]),  # nothing would be left: the token that holds the continuation is scored
        ("a", "b", ["<begin>"], ["ab"]),
    ],
)
def test_a_continuation_that_merges_with_its_context_is_scored_on_the_joined_tokens(model, context, continuation, before, after):
    tokenizer = merging_tokenizer()
    joined = Model(model.trunk, model.family, model.config, tokenizer)
    with Engine(joined, dtype="float32") as engine:
        (score,) = engine.score([(context, continuation)])
    ids = tokenizer.backend.get_vocab() | {"<begin>": tokenizer.bos_id}
    assert_equal(score, by_hand(model, [ids[token] for token in before], [ids[token] for token in after], len(continuation)))


def test_a_text_that_begins_with_the_begin_token_is_not_given_another(engine, model):
    tokenizer = tiny_tokenizer(begins=True)
    with Engine(Model(model.trunk, model.family, model.config, tokenizer), dtype="float32") as engine:
        begin = [tokenizer.bos_id]
        assert_equal(engine.score([("", "<|begin|>ab")])[0], by_hand(model, begin, tokenizer.encode("ab"), 11))
        assert_equal(engine.score([("", "<|begin|>")])[0], by_hand(model, begin, begin, 9))  # alone it is scored: nothing else is left


def test_the_last_token_needs_no_room_and_a_longer_context_is_cut_only_if_asked(model):
    text = "abcdefghijklmnopqrstuvwxyz"
    ids = model.tokenizer.encode(text)
    with Engine(model, dtype="float32", context=16) as engine:
        (full,) = engine.score([(text[:14], text[14:17])])
        assert_equal(full, by_hand(model, ids[:14], ids[14:17], 3))
        with pytest.raises(SteelyardError, match="18 tokens"):
            engine.score([(text[:15], text[15:18])])
        (cut,) = engine.score([(text[:20], text[20:])], cut=True)
        assert cut.cut == 9 and cut.tokens == 6
        assert cut.logprob == pytest.approx(by_hand(model, ids[9:20], ids[20:], 6).logprob, abs=1e-3)
        with pytest.raises(SteelyardError, match="at most 17"):
            engine.score([("a", text)], cut=True)  # the continuation alone is longer than what fits


def rolled_by_hand(model, ids: list[int], window: int) -> float:
    """Every token once: the first window after the start token, the next after one token, the last after as many as fit."""
    total, start = 0.0, [model.tokenizer.bos_id]
    for done in range(0, len(ids), window):
        end = min(done + window, len(ids))
        before = start if done == 0 else ids[end - window - 1 : done]
        total += by_hand(model, before, ids[done:end], 0).logprob
    return total


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text("ab é東", min_size=1, max_size=60), st.integers(1, 70))
def test_rolling_predicts_every_token_once_in_windows(engine, model, text, window):
    (score,) = engine.score_rolling([text], window)
    ids = model.tokenizer.encode(text)
    assert score.logprob == pytest.approx(rolled_by_hand(model, ids, window), rel=1e-5, abs=1e-3)
    assert (score.tokens, score.bytes) == (len(ids), len(text.encode()))


def test_rolling_counts_a_begin_token_that_the_tokenizer_adds_itself(model):
    """So does lm-eval: a text is the tokenizer's ids of it, and the start token stands before them once more."""
    tokenizer = tiny_tokenizer(begins=True)
    with Engine(Model(model.trunk, model.family, model.config, tokenizer), dtype="float32") as engine:
        begin = [tokenizer.bos_id]
        assert_equal(engine.score_rolling(["ab"])[0], by_hand(model, begin, begin + tokenizer.encode("ab"), 2))


def test_a_window_outside_the_context_is_refused(engine):
    for window in (0, -1, CONTEXT + 1):
        with pytest.raises(SteelyardError, match="window"):
            engine.score_rolling(["abc"], window)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.text("ab", max_size=40), st.text("ab", min_size=1, max_size=6)), min_size=1, max_size=20))
def test_what_begins_alike_is_scored_in_one_slot_and_to_the_same_bit(engine, pairs):
    assert engine.score(pairs) == [engine.score([each])[0] for each in pairs]
    items = [pair(engine.model.tokenizer, *each) for each in pairs]
    assert sorted(number for group in families(items, 3) for number in group) == list(range(len(items)))


def test_choices_of_one_question_cost_the_question_once(engine, monkeypatch):
    read, run = [], Host.run
    monkeypatch.setattr(Host, "run", lambda host, pieces, *how, **more: read.extend(pieces) or run(host, pieces, *how, **more))
    contexts = [f"{number:03d}{'abcdefgh' * (4 + number)}" for number in range(20)]
    pairs = [(context, f" {letter * 5}") for context in contexts for letter in "wxyz"]
    engine.score(pairs)
    least = sum(map(len, contexts)) + sum(len(after) - 1 for _, after in pairs)
    apart = sum(len(before) + len(after) - 1 for before, after in pairs)
    assert sum(len(piece.tokens) for piece in read) <= 1.1 * least < apart / 2


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text("ab", min_size=1, max_size=24), min_size=1, max_size=24))
def test_texts_that_part_within_what_is_scored_have_the_scores_they_have_alone(engine, model, pieces):
    scores = engine.score_text(pieces)
    assert scores == [engine.score_text([text])[0] for text in pieces]
    for score, text in zip(scores, pieces, strict=True):
        assert_equal(score, by_hand(model, [model.tokenizer.bos_id], model.tokenizer.encode(text), len(text)))


def test_sentences_that_differ_in_a_word_are_read_together_up_to_that_word(engine, monkeypatch):
    read, run = [], Host.run
    monkeypatch.setattr(Host, "run", lambda host, pieces, *how, **more: read.extend(pieces) or run(host, pieces, *how, **more))
    beginnings = [f"{number:02d}{'qwertyuiop' * 3}" for number in range(12)]
    engine.score_text([f"{before}{word} end" for before in beginnings for word in ("she", "him")])
    apart = sum(2 * (len(before) + 7) for before in beginnings)
    assert sum(len(piece.tokens) for piece in read) <= 0.65 * apart
