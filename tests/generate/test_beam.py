"""Beam search finds what brute force and transformers find, shares slots fairly, and says only the winner."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from tiny_engines import Heard, generation, run_all, scheduler, talker

from steelyard.core import levers
from steelyard.core.errors import RecipeError, SteelyardError
from steelyard.core.protocols import AnswerSettings
from steelyard.core.references import ModelRef
from steelyard.generate.beams.beam import Beam, BeamSearch
from steelyard.generate.beams.search import Beams
from steelyard.generate.engine import Engine
from steelyard.generate.processor import FunctionProcessor
from steelyard.generate.readouts.contrastive import Contrastive
from steelyard.generate.readouts.plausible import contrasted
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.generate.states.kv_cache import KvCache
from steelyard.model.model import Model

CONTEXT = 128
SAYS = 5  # tokens 0-4 and the end token are all that the narrow engine may say


@pytest.fixture(scope="module")
def model() -> Model:
    return talker(8.0, max_position_embeddings=CONTEXT)


def request(spec: EngineSpec, model: Model, prompt: list[int], settings: AnswerSettings, heard: Heard) -> Beams:
    assert isinstance(spec.search, BeamSearch) and model.tokenizer is not None
    return spec.search.request(prompt, settings, heard, model.tokenizer, CONTEXT)


def answer(spec: EngineSpec, **settings) -> tuple[list[int], float]:
    """Tokens of the winner, and its log-probability as told with them."""
    with Engine.from_spec(spec) as engine:
        (said,) = engine.generate([[70, 71, 72]], settings=AnswerSettings(token_events=True, **settings))
    return [token.id for token in said.tokens], sum(token.sampled_logprob for token in said.tokens)


# What is found


def narrow(model: Model) -> FunctionProcessor:
    """Leaves five tokens and the end token, so that all short answers can be listed."""
    assert model.tokenizer is not None
    allowed = [*range(SAYS), *model.tokenizer.eos_ids]

    def keep(tokens: list[int], logits: torch.Tensor) -> torch.Tensor:
        out = torch.full_like(logits, float("-inf"))
        out[allowed] = logits[allowed] / 4  # flat enough that greedy decoding is often wrong
        return out

    return FunctionProcessor(keep)


def brute_force(model: Model, prompt: list[int], longest: int, penalty: float) -> tuple[list[int], float]:
    """The best of all answers of at most `longest` tokens, the end token among them, by scoring every one of them."""
    assert model.tokenizer is not None
    (end,) = model.tokenizer.eos_ids
    allowed = [*range(SAYS), end]
    best: tuple[float, list[int], float] | None = None
    for length in range(longest + 1):
        for words in itertools.product(range(SAYS), repeat=length):
            whole = [*words, end] if length < longest else list(words)
            logits = model.logits([[*prompt, *whole]])[0, len(prompt) - 1 : -1, allowed] / 4
            logprobs = torch.log_softmax(logits.double(), -1)
            total = sum(float(logprobs[place, allowed.index(token)]) for place, token in enumerate(whole))
            score = total / len(whole) ** penalty
            if best is None or score > best[0]:
                best = (score, list(words), sum(float(logprobs[p, allowed.index(t)]) for p, t in enumerate(words)))
    assert best is not None
    return best[1], best[2]


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5, 2.0])
def test_a_wide_search_finds_the_best_of_all_answers(penalty):
    different = 0
    for seed in range(4):
        model = talker(8.0, max_position_embeddings=CONTEXT, num_hidden_layers=1, seed=seed)
        for longest in (1, 3, 4):
            spec = EngineSpec(model, slots=128, dtype="float32", processors=(narrow(model),), context=16)
            wide = Beam(beams=128, length_penalty=penalty, early_stopping="never").decode(spec)
            expected = brute_force(model, [70, 71, 72], longest, penalty)
            found = answer(wide, max_tokens=longest)
            assert found[0] == expected[0] and found[1] == pytest.approx(expected[1], abs=1e-3)
            different += answer(spec, max_tokens=longest)[0] != found[0]
    assert different, "greedy decoding finds all of them too: this shows nothing"


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Random models, here and in transformers."""
    from transformers import AutoModelForCausalLM

    out = []
    for seed in range(3):
        model = talker(10.0, max_position_embeddings=CONTEXT, seed=seed)
        assert model.tokenizer is not None
        model.tokenizer.eos_ids = tuple(range(0, 256, 11))  # so many that answers do end
        directory = tmp_path_factory.mktemp(f"twin{seed}")
        model.save(directory)
        out.append((model, AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()))
    return out


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("penalty", [1.0, 0.0, -1.0, 1.7])
def test_the_text_is_that_of_transformers(twins, early_stopping, penalty):
    dice = random.Random(3)
    ended = 0
    for model, theirs in twins:
        ends = list(model.tokenizer.eos_ids)
        for beams in (2, 3, 5):
            prompt = [dice.randrange(256) for _ in range(dice.randint(2, 9))]
            spec = EngineSpec(model, slots=beams, dtype="float32", context=64)
            lever = Beam(beams=beams, length_penalty=penalty, early_stopping=early_stopping)
            with Engine.from_spec(lever.decode(spec)) as engine:
                (said,) = engine.generate([prompt], max_tokens=12)
            ids = torch.tensor([prompt])
            expected = theirs.generate(
                ids, attention_mask=torch.ones_like(ids), num_beams=beams, do_sample=False, max_new_tokens=12,
                length_penalty=penalty, early_stopping=early_stopping, eos_token_id=ends, pad_token_id=0,
            )[0, len(prompt) :].tolist()  # fmt: skip
            cut = expected[: next((place for place, token in enumerate(expected) if token in ends), len(expected))]
            ended += len(cut) < len(expected)
            assert [token.id for token in said.tokens] == cut, (beams, prompt)
            assert said.finish_reason == ("stop" if len(cut) < len(expected) else "length")
    assert ended > 0


def test_more_beams_never_lose_to_greedy_in_these_sums_and_often_win(model):
    """Not a law of beam search (hypotheses can be crowded out); on these seeds it holds, and shows that wider is likelier."""
    spec = EngineSpec(model, slots=8, dtype="float32")
    sums = [answer(Beam(beams=k, length_penalty=0).decode(spec), max_tokens=10, ignore_eos=True) for k in (2, 8)]
    with Engine.from_spec(spec) as engine:
        (plain,) = engine.generate([[70, 71, 72]], max_tokens=10, ignore_eos=True)
    assert sums[1][1] >= sums[0][1] >= sum(plain.logprobs) - 1e-4 and sums[1][1] > sum(plain.logprobs) + 0.1


# How an answer is told


def test_tokens_carry_the_models_own_log_probabilities(model):
    with Engine.from_spec(Beam(beams=3).decode(EngineSpec(model, dtype="float32"))) as engine:
        (said,) = engine.generate([[70, 71]], settings=AnswerSettings(max_tokens=8, token_events=True, alternatives=2, ignore_eos=True))
    ids = [token.id for token in said.tokens]
    logprobs = torch.log_softmax(model.logits([[70, 71, *ids]])[0, 1:-1], -1)
    for place, token in enumerate(said.tokens):
        assert token.logprob == pytest.approx(float(logprobs[place, token.id]), abs=1e-4)
        assert token.sampled_logprob == pytest.approx(token.logprob, abs=1e-4)
        assert token.entropy == pytest.approx(float(torch.special.entr(logprobs[place].exp()).sum()), abs=1e-3)
        assert token.alternatives[0][0] == int(logprobs[place].argmax())
    assert said.usage.completion_tokens == 8 and said.usage.verified == 8


def test_a_stop_string_ends_an_answer_and_is_not_part_of_it(model):
    spec = Beam(beams=4, early_stopping=True).decode(EngineSpec(model, dtype="float32"))
    with Engine.from_spec(spec) as engine:
        (free,) = engine.generate([[70, 71]], max_tokens=12, ignore_eos=True)
        word = free.text[3:5]
        (cut,) = engine.generate([[70, 71]], max_tokens=12, stop=(word,), ignore_eos=True)
        (never,) = engine.generate([[70, 71]], max_tokens=12, stop=("no such words",), ignore_eos=True)
    assert word not in cut.text and cut.finish_reason == "stop"
    assert never.text == free.text and never.finish_reason == "length"


def test_constraints_and_penalties_hold_in_every_branch(model):
    """Their sessions go back and on as branches fork; a session that missed a token would let another repetition through."""
    spec = Beam(beams=5, length_penalty=0).decode(EngineSpec(model, dtype="float32", deterministic=True))
    options = {"max_tokens": 20, "ignore_eos": True, "frequency_penalty": 1000.0}
    with Engine.from_spec(spec) as engine:
        (said,) = engine.generate([[70, 71]], **options)
        ids = [token.id for token in said.tokens]
        assert len(set(ids)) == len(ids) == 20
        (again,) = engine.generate([[70, 71]], max_tokens=20, ignore_eos=True)
        assert len({token.id for token in again.tokens}) < 20, "the model does not repeat itself: this shows nothing"


def test_a_constraint_is_met(model):
    pytest.importorskip("llguidance")
    from steelyard.generate.constraints.constraint import Constraint

    spec = Beam(beams=4).decode(Constraint(regex="[ab]{3}(c|dd)").decode(EngineSpec(model, dtype="float32")))
    with Engine.from_spec(spec) as engine:
        (said,) = engine.generate([[70, 71]], max_tokens=12)
    assert said.text[:3].strip("ab") == "" and said.text[3:] in ("c", "dd") and said.finish_reason == "stop"


def test_what_stands_beside_the_model_forks_with_it(model):
    """An amateur that kept another branch's tokens would tell other probabilities."""
    weak = talker(8.0, max_position_embeddings=CONTEXT, num_hidden_layers=1, hidden_size=16, seed=3)
    contrast = Contrastive(amateur=ModelRef("weak", weak))
    spec = Beam(beams=5).decode(contrast.decode(EngineSpec(model, dtype="float32", context=CONTEXT)))
    with Engine.from_spec(spec) as engine:
        (said,) = engine.generate([[70, 71]], max_tokens=12, ignore_eos=True)
    ids = [70, 71, *(token.id for token in said.tokens)]
    own, other = (torch.log_softmax(each.logits([ids])[0], -1) for each in (model, weak))
    expected = contrasted(own, other, 1.0, 0.1, "kept")
    for place, token in enumerate(said.tokens):
        assert token.logprob == pytest.approx(float(expected[1 + place, token.id]), abs=1e-3)


@pytest.mark.parametrize("bits", [8, 2])
def test_searches_fork_quantized_caches_too(model, bits):
    spec = KvCache(bits=bits, window=8, group=8).decode(EngineSpec(model, dtype="float32", deterministic=True, context=CONTEXT))
    asked = {"max_tokens": 20, "ignore_eos": True}
    prompt = list(range(60, 110))
    with Engine.from_spec(Beam(beams=4).decode(spec)) as engine:
        first, again = (engine.generate([prompt], **asked)[0] for _ in range(2))
        (together,) = {answer.text for answer in engine.generate([prompt] * 3, **asked)}
    assert first.text == again.text == together


# Slots


def test_the_text_does_not_depend_on_what_else_runs(model):
    dice = random.Random(5)
    spec = Beam(beams=3).decode(EngineSpec(model, deterministic=True, slots=7, context=CONTEXT, dtype="float32"))
    requests = []
    for _ in range(10):
        shared = [70, 71, 72, 73, 74] * dice.randint(0, 6)
        prompt = [*shared, *(dice.randrange(256) for _ in range(dice.randint(1, 40)))]
        requests.append((prompt, AnswerSettings(max_tokens=dice.randint(1, 16), token_events=True, alternatives=1, stop=("e",))))
    apart, together = [Heard() for _ in requests], [Heard() for _ in requests]
    turns = scheduler(spec)
    for (prompt, wanted), ear in zip(requests, apart, strict=True):
        turns.slots.held.clear()
        turns.add(request(spec, model, prompt, wanted, ear))
        run_all(turns)
    for (prompt, wanted), ear in zip(requests, together, strict=True):
        turns.add(request(spec, model, prompt, wanted, ear))
    run_all(turns)
    assert [ear.said for ear in apart] == [ear.said for ear in together]
    assert sorted(turns.slots.free) == list(range(7)) and not turns.running


def test_searches_and_scores_share_the_slots(model):
    spec = Beam(beams=4).decode(EngineSpec(model, slots=5, dtype="float32"))
    with Engine.from_spec(spec) as engine, Engine.from_spec(EngineSpec(model, dtype="float32")) as plain:
        heard = [Heard() for _ in range(5)]
        for ear in heard:
            engine.submit([70, 71], AnswerSettings(max_tokens=10), ear)
        scores = engine.score([("ab", "cd")] * 5)
        assert scores[0].logprob == pytest.approx(plain.score([("ab", "cd")])[0].logprob, abs=1e-4)
        texts = {ear.wait().text for ear in heard}
    assert len(texts) == 1


def test_a_cancelled_search_frees_all_its_slots_and_says_nothing(model):
    spec = Beam(beams=3).decode(EngineSpec(model, slots=3, dtype="float32"))
    turns, first, second = scheduler(spec), Heard(), Heard()
    running = request(spec, model, [70, 71], AnswerSettings(max_tokens=50, ignore_eos=True), first)
    turns.add(running)
    turns.add(request(spec, model, [70, 71], AnswerSettings(max_tokens=4, ignore_eos=True), second))
    with torch.inference_mode():
        for _ in range(4):
            turns.turn()
    assert turns.slots.free == [] and first.text == ""
    running.cancel()
    run_all(turns)
    assert first.reason == "cancelled" and first.text == "" and second.reason == "length" and second.text
    assert sorted(turns.slots.free) == [0, 1, 2]


def test_a_failing_processor_ends_its_search_alone(model):
    def spoil(tokens: list[int], logits: torch.Tensor) -> torch.Tensor:
        if tokens[0] == 99 and len(tokens) > 4:
            return logits * float("nan")
        return logits

    spec = Beam(beams=2).decode(EngineSpec(model, slots=4, dtype="float32", processors=(FunctionProcessor(spoil),)))
    turns, bad, good = scheduler(spec), Heard(), Heard()
    wanted = AnswerSettings(max_tokens=8, ignore_eos=True)
    turns.add(request(spec, model, [99, 98], wanted, bad))
    turns.add(request(spec, model, [70, 71], wanted, good))
    run_all(turns)
    assert bad.reason == "error" and "no token can be drawn" in (bad.failure or "") and good.reason == "length"
    assert sorted(turns.slots.free) == [0, 1, 2, 3]


def test_a_prompt_read_before_is_not_read_again(model):
    spec = Beam(beams=3).decode(EngineSpec(model, slots=3, dtype="float32"))
    turns = scheduler(spec)
    said = []
    for _ in range(2):
        heard = Heard()
        search = request(spec, model, list(range(40)), AnswerSettings(max_tokens=6, ignore_eos=True), heard)
        turns.add(search)
        run_all(turns)
        said.append(heard.text)
    assert search.reused == 39 and said[0] == said[1]


# Settings


def test_one_beam_is_no_change_at_all(model):
    spec = EngineSpec(model)
    assert Beam(beams=1).decode(spec) is spec


def test_settings_tell_engines_apart(model):
    spec = EngineSpec(model)
    kinds = [Beam(beams=1), Beam(), Beam(beams=2), Beam(length_penalty=0.5), Beam(early_stopping=True), Beam(early_stopping="never")]
    assert len({lever.decode(spec).fingerprint for lever in kinds}) == len(kinds)


def test_what_cannot_be_searched_is_refused_with_a_reason(model):
    with pytest.raises(SteelyardError, match="9 beams in 8 slots"):
        Beam(beams=9).decode(EngineSpec(model))
    import dataclasses

    spec = Beam(beams=4).decode(EngineSpec(model))
    with pytest.raises(SteelyardError, match="4 branches in 2 slots"):
        Engine.from_spec(dataclasses.replace(spec, slots=2))
    with pytest.raises(SteelyardError, match="guessed ahead"):
        Engine.from_spec(PromptLookup().decode(spec))
    with pytest.raises(SteelyardError, match="guessed ahead"):
        Beam().decode(PromptLookup().decode(EngineSpec(model)))
    with pytest.raises(RecipeError, match="conflicts with speculation"):
        levers.check_chain([PromptLookup(), Beam()], {"weights"}, "arm")
    with pytest.raises(RecipeError, match="`prompt_lookup` conflicts with beam"):
        levers.check_chain([Beam(), PromptLookup()], {"weights"}, "arm")
    with Engine.from_spec(spec) as engine, pytest.raises(SteelyardError, match="does not sample"):
        engine.generate([[70]], temperature=0.7)


def test_an_answer_of_one_token_and_a_vocabulary_with_one_word_left_are_fine(model):
    only = FunctionProcessor(lambda tokens, logits: torch.where(torch.arange(len(logits)) == 65, logits, float("-inf")))
    with Engine.from_spec(Beam(beams=4).decode(EngineSpec(model, processors=(only,)))) as engine:
        (one, four) = (engine.generate([[70]], max_tokens=count)[0] for count in (1, 4))
    assert [token.id for token in one.tokens] == [65] and [token.id for token in four.tokens] == [65] * 4


def test_plain_requests_still_run_beside_a_search(model):
    """A scheduler serves both; the engine makes searches of all its requests."""
    spec = Beam(beams=3).decode(EngineSpec(model, slots=4, dtype="float32", deterministic=True))
    turns, plain, alone, searched = scheduler(spec), Heard(), Heard(), Heard()
    wanted = AnswerSettings(max_tokens=9, ignore_eos=True)
    turns.add(generation(model, [70, 71], wanted, alone, CONTEXT))
    run_all(turns)
    turns.add(request(spec, model, [80, 81], wanted, searched))
    turns.add(generation(model, [70, 71], wanted, plain, CONTEXT))
    run_all(turns)
    assert plain.text == alone.text and searched.reason == "length"
