"""A cache in few bits keeps the engine's promises: the same text whatever else runs, and the lever says what it did."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_engines import Heard, alone, generation, run_all, scheduler, talker

from steelyard.core import levers
from steelyard.core.errors import RecipeError
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.engine import Engine
from steelyard.generate.scheduler import Scheduler
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.generate.states.kv_cache import KvCache
from steelyard.kernels import native

MODEL = talker(12.0, max_position_embeddings=600)
LEVER = KvCache(bits=4, window=16, group=8)
WANTED = AnswerSettings(max_tokens=24, temperature=0.8, seed=3, token_events=True, ignore_eos=True)


def spec(lever: KvCache = LEVER, **changes) -> EngineSpec:
    return lever.decode(EngineSpec(MODEL, **({"deterministic": True, "slots": 3, "dtype": "float32"} | changes)))


def words(count: int, first: int = 0) -> list[int]:
    return [(first + 7 * i * i) % 251 for i in range(count)]


@pytest.fixture(scope="module")
def crowded() -> Scheduler:
    return scheduler(spec())


@pytest.fixture(scope="module")
def lonely(crowded) -> Scheduler:
    return Scheduler(crowded.trunk, crowded.spec, crowded.context)


def answer(turns: Scheduler, prompt: list[int], wanted: AnswerSettings = WANTED) -> tuple:
    heard = Heard()
    alone(turns, generation(MODEL, prompt, wanted, heard, turns.context))
    return heard.said


arrivals = st.lists(
    st.tuples(st.sampled_from([3, 15, 40, 255, 257, 300, 530]), st.integers(0, 3), st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=5
)  # fmt: skip


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests=arrivals)
def test_every_answer_equals_its_solo_run_bit_for_bit(crowded, lonely, requests):
    heard, made = [Heard() for _ in requests], []
    for (length, first, _, seed), ear in zip(requests, heard, strict=True):
        made.append(generation(MODEL, words(length, first), dataclasses.replace(WANTED, seed=seed), ear, crowded.context))
    with torch.inference_mode():
        turn = 0
        while crowded.busy or turn <= 6:
            for request, (_, _, arrival, _) in zip(made, requests, strict=True):
                if arrival == turn:
                    crowded.add(request)
            crowded.turn()
            turn += 1
    for (length, first, _, seed), ear in zip(requests, heard, strict=True):
        assert ear.said == answer(lonely, words(length, first), dataclasses.replace(WANTED, seed=seed))


def test_a_conversation_that_goes_on_reuses_what_it_can_and_says_the_same(crowded, lonely):
    crowded.slots.held.clear()
    prompt = words(200)
    first, again = Heard(), Heard()
    request = generation(MODEL, prompt, WANTED, first, crowded.context)
    crowded.add(request)
    run_all(crowded)
    longer = [*prompt, *request.generated[:-5], *words(9, 4)]
    following = generation(MODEL, longer, WANTED, again, crowded.context)
    crowded.add(following)
    run_all(crowded)
    assert following.reused == len(prompt) + len(request.generated) - 5
    assert again.said == answer(lonely, longer)


def test_a_text_that_shares_only_its_beginning_is_read_anew_and_says_the_same(crowded, lonely):
    crowded.slots.held.clear()
    alone(crowded, generation(MODEL, words(500), WANTED, Heard(), crowded.context))
    crowded.slots.held = {slot: held for slot, held in crowded.slots.held.items() if held.tokens}
    other = [*words(500)[:300], *words(20, 5)]
    heard = Heard()
    request = generation(MODEL, other, WANTED, heard, crowded.context)
    crowded.add(request)
    run_all(crowded)
    assert request.reused == 0 and heard.said == answer(lonely, other)


def test_guesses_that_are_taken_back_change_no_word(lonely):
    guessing = scheduler(PromptLookup(tokens=12, shortest=1).decode(spec()))
    for first in range(3):
        prompt = words(30, first) * 3
        wanted = dataclasses.replace(WANTED, max_tokens=60, temperature=0.3)
        assert answer(guessing, prompt, wanted) == answer(lonely, prompt, wanted)


def test_scores_pass_through_the_rounded_cache_in_pieces_of_any_size():
    text = "A text is read in pieces, and later pieces read what earlier ones left in the cache. " * 4
    scores = {}
    for lever in (KvCache(bits=16), KvCache(bits=8, window=16, group=8), KvCache(bits=2, window=16, group=8)):
        for prefill in (32, 600):
            with Engine.from_spec(spec(lever, deterministic=False, kernels="reference", prefill=prefill)) as engine:
                scores[lever.bits, prefill] = engine.score_text([text])[0].logprob
    off = {bits: abs(scores[bits, 32] - scores[16, 32]) for bits in (8, 2)}
    assert off[2] > 10 * off[8] > 1e-4
    assert all(scores[bits, 32] == pytest.approx(scores[bits, 600], abs=0.05 * off[2]) for bits in (16, 8, 2))


def test_it_is_found_by_its_name_and_16_bits_change_nothing():
    assert levers.find("kv_cache")[0] is KvCache
    plain = EngineSpec(MODEL)
    assert KvCache(**KvCache.identity).decode(plain) is plain
    assert levers.parse({"kv_cache": 2}) == KvCache(bits=2)


@pytest.mark.parametrize("settings", [{"bits": 3}, {"window": -1}, {"group": 12}, {"keys": "head"}])
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(RecipeError):
        levers.parse({"kv_cache": settings})


def test_numerics_and_fingerprint_tell_how_the_cache_is_kept():
    plain, few = EngineSpec(MODEL), KvCache().decode(EngineSpec(MODEL))
    assert few.numerics["cache"] == "4 bits, the last 128 tokens in floats" != plain.numerics["cache"]
    told = {KvCache(**changes).decode(plain).fingerprint for changes in ({}, {"bits": 2}, {"window": 64}, {"group": 64}, {"keys": "token"})}
    assert len(told | {plain.fingerprint}) == 6


def test_the_engine_s_cache_is_small_and_whole_steps_in_cpp_read_it():
    with Engine.from_spec(KvCache(bits=2, window=16, group=32).decode(EngineSpec(MODEL, slots=2))) as engine:
        host = engine.scheduler.host
        small, plain = host.state.bytes(), 2 * 2 * 2 * 2 * 600 * 8 * 4  # keys, values; blocks; slots; heads; tokens; width; bytes
        assert (host.fused is None) == (native.routines() is None) and small < plain / 2


@pytest.mark.skipif(native.routines() is None, reason=native.absence() or "no C++ routines")
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_routines_and_pytorch_score_a_text_alike_through_the_rounded_cache(bits):
    text = "A text is read by the routines or by PyTorch, and both round the same numbers in the same way. " * 4
    scores = {}
    for kernels, lever in (("auto", KvCache(bits=bits, window=16, group=8)), ("pytorch", KvCache(bits=bits, window=16, group=8)), ("pytorch", KvCache(bits=16))):  # fmt: skip
        with Engine.from_spec(spec(lever, deterministic=False, kernels=kernels)) as engine:
            scores[kernels, lever.bits] = engine.score_text([text])[0].logprob
    rounding = abs(scores["pytorch", bits] - scores["pytorch", 16])
    assert abs(scores["auto", bits] - scores["pytorch", bits]) < 0.1 * rounding


def test_two_levers_that_keep_the_states_conflict():
    with pytest.raises(RecipeError, match="conflicts"):
        levers.check_chain([KvCache(), KvCache(bits=8)], {"weights"}, "arm")
