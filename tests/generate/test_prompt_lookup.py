"""Prompt lookup changes how often the model runs, never what it says."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_engines import Heard, Script, generation, run_all, scheduler, talker

from steelyard.core import levers
from steelyard.core.errors import RecipeError
from steelyard.core.protocols import AnswerSettings
from steelyard.generate import sequences
from steelyard.generate.engine import Engine
from steelyard.generate.processor import FunctionProcessor
from steelyard.generate.sampling import draw
from steelyard.generate.scheduler import Scheduler
from steelyard.generate.sequences import Generation
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import Lookup, PromptLookup
from steelyard.generate.speculation.suffix_automaton import SuffixAutomaton
from steelyard.model.model import Model

CONTEXT = 290
BATCHES = 200


@pytest.fixture(scope="module")
def model() -> Model:
    return talker(20.0, max_position_embeddings=CONTEXT, num_hidden_layers=1)


def echo(tokens: list[int], logits: torch.Tensor) -> torch.Tensor:
    """What a trained model does by itself: it favours the token that followed the last one before."""
    earlier = next((place for place in range(len(tokens) - 2, -1, -1) if tokens[place] == tokens[-1]), None)
    if earlier is not None:
        logits[tokens[earlier + 1]] += 12.0
    return logits


@pytest.fixture(scope="module")
def spec(model) -> EngineSpec:
    return EngineSpec(model, deterministic=True, slots=3, dtype="float32", processors=(FunctionProcessor(echo),))


@pytest.fixture(scope="module")
def plain(spec) -> Scheduler:
    return scheduler(spec)


@pytest.fixture(scope="module")
def looking(spec) -> Scheduler:
    return scheduler(PromptLookup(tokens=6, shortest=1).decode(spec))


def random_request(dice: random.Random, greedy: bool | None = None) -> tuple[list[int], AnswerSettings]:
    """A prompt that repeats itself, as prompts worth looking things up in do, and settings of every kind."""
    phrase = [dice.randrange(256) for _ in range(dice.randint(1, 12))]
    length = dice.choice([3, 20, 20, 40, 40, 40, dice.randint(245, 262), CONTEXT - dice.randint(1, 9)])
    prompt = (phrase * CONTEXT)[:length]
    prompt[dice.randrange(length)] = dice.randrange(256)
    greedy = dice.random() < 0.4 if greedy is None else greedy
    wanted = AnswerSettings(
        max_tokens=dice.randint(1, 12),
        temperature=0.0 if greedy else dice.choice([0.3, 0.7, 1.0]),
        top_k=dice.choice([0, 0, 4, 30]),
        top_p=dice.choice([1.0, 1.0, 0.8]),
        min_p=dice.choice([0.0, 0.0, 0.1]),
        repetition_penalty=dice.choice([1.0, 1.0, 0.8, 1.2]),
        presence_penalty=dice.choice([0.0, 0.0, -0.5]),
        frequency_penalty=dice.choice([0.0, 0.0, 0.3]),
        seed=dice.randrange(1000),
        stop=dice.choice([(), (), ("a",), ("é", chr(phrase[0]))]),
        alternatives=dice.choice([0, 2]),
        token_events=True,
        ignore_eos=dice.random() < 0.5,
    )
    return prompt, wanted


def answers(turns: Scheduler, model: Model, requests) -> tuple[list[Heard], list[Generation]]:
    heard = [Heard() for _ in requests]
    made = [generation(model, prompt, wanted, ear, CONTEXT) for (prompt, wanted), ear in zip(requests, heard, strict=True)]
    for request in made:
        turns.add(request)
    run_all(turns)
    return heard, made


def test_the_text_is_the_same_with_and_without_in_200_random_batches(plain, looking, model, record_property):
    """Tokens, every log-probability and the reason to end, greedy and sampled, to the bit."""
    dice = random.Random(2)
    passes = tokens = 0
    for batch in range(BATCHES):
        requests = [random_request(dice) for _ in range(dice.randint(1, 3))]
        expected, _ = answers(plain, model, requests)
        heard, made = answers(looking, model, requests)
        for one, other, (prompt, wanted) in zip(expected, heard, requests, strict=True):
            assert one.said == other.said, (batch, prompt, wanted)
            assert one.usage.completion_tokens == other.usage.completion_tokens
        passes += sum(request.passes for request in made)
        tokens += sum(one.usage.verified for one in expected)
    record_property("tokens a pass", tokens / passes)
    assert tokens / passes > 1.2, "too few guesses were right for this to show anything"


def test_noise_keyed_by_the_pass_instead_of_the_position_is_caught_by_the_same_comparison(plain, looking, model, monkeypatch):
    """The negative control: with wrong keys guesses change what is said."""
    at_pass: dict[str, int] = {}
    accept = Generation.accept

    def watched(self, logits, draft, found=()):
        at_pass["now"] = self.passes
        accept(self, logits, draft, found)

    monkeypatch.setattr(Generation, "accept", watched)
    monkeypatch.setattr(sequences, "draw", lambda row, wanted, position, *known, **pool: draw(row, wanted, at_pass["now"], *known, **pool))
    different = {greedy: _different(plain, looking, model, greedy) for greedy in (True, False)}
    assert different[True] == 0, "greedy answers have no noise"
    assert different[False] >= 3


def _different(plain: Scheduler, looking: Scheduler, model: Model, greedy: bool) -> int:
    dice, different = random.Random(3), 0
    for _ in range(20):
        requests = [random_request(dice, greedy) for _ in range(2)]
        pairs = zip(answers(plain, model, requests)[0], answers(looking, model, requests)[0], strict=True)
        different += any(one.said != other.said for one, other in pairs)
    return different


@dataclasses.dataclass(frozen=True)
class Guesser:
    """Guesses at random, or always the same token: whatever is guessed, the text must not change."""

    horizon: int
    fixed: int | None
    fingerprint = "guesser"

    def start(self, tokens):
        return _Guesses(self, random.Random(len(tokens)))


@dataclasses.dataclass(frozen=True)
class _Guesses:
    guesser: Guesser
    dice: random.Random

    def propose(self, most):
        return [self.dice.randrange(260) if self.guesser.fixed is None else self.guesser.fixed] * self.dice.randint(0, most)

    def advance(self, tokens):
        assert tokens


@pytest.mark.parametrize("fixed", [None, 5, 257])
def test_wrong_guesses_change_nothing(spec, plain, model, fixed):
    guessing = scheduler(dataclasses.replace(spec, speculation=Guesser(7, fixed)))
    dice = random.Random(4)
    for _ in range(12):
        requests = [random_request(dice) for _ in range(3)]
        expected, heard = answers(plain, model, requests)[0], answers(guessing, model, requests)[0]
        assert [one.said for one in expected] == [one.said for one in heard]


class _Troubled(_Guesses):
    def propose(self, most):
        raise KeyError("no idea")


def test_a_guesser_in_trouble_fails_its_own_request_alone(model, monkeypatch):
    guesser = Guesser(4, None)
    monkeypatch.setattr(Guesser, "start", lambda self, tokens: (_Troubled if tokens == [7] else _Guesses)(self, random.Random(1)))
    turns = scheduler(EngineSpec(model, slots=2, speculation=guesser))
    wanted = AnswerSettings(max_tokens=6, ignore_eos=True)
    heard, _ = answers(turns, model, [([5], wanted), ([7], wanted), ([6], wanted)])
    assert [one.reason for one in heard] == ["length", "error", "length"]
    assert sorted(turns.slots.free) == [0, 1]


# Where answers end


@pytest.fixture(scope="module")
def copied(model, spec) -> Callable[..., Heard]:
    """The answer of a model that says given words and then its end token, with lookup; that it is the same without is asserted."""
    (end,) = model.tokenizer.eos_ids
    without, with_lookup = (scheduler(PromptLookup(tokens=tokens).decode(spec)) for tokens in (0, 8))

    def answer(words: list[int], prompt: list[int], **options) -> Heard:
        wanted = AnswerSettings(**({"max_tokens": 200, "token_events": True} | options))
        heard = []
        for turns in (without, with_lookup):
            turns.spec = dataclasses.replace(turns.spec, processors=(FunctionProcessor(Script(words, end)),))
            heard += answers(turns, model, [(prompt, wanted)])[0]
        assert heard[0].said == heard[1].said
        assert heard[0].usage.completion_tokens == heard[1].usage.completion_tokens
        return heard[1]

    return answer


WORDS = list(range(40, 70))


def test_an_answer_that_quotes_its_prompt_needs_few_passes(copied):
    heard = copied(WORDS, [1, *WORDS, 2, 3])
    assert (heard.usage.completion_tokens, heard.reason) == (30, "stop")
    # Two tokens to recognise the quotation by, then nine tokens a pass; the last pass ends on the end token.
    assert heard.usage.verified == 2 + 4


@pytest.mark.parametrize("most", [*range(1, 12), 29, 30, 31])
def test_guesses_never_go_beyond_max_tokens(copied, most):
    heard = copied(WORDS, [1, *WORDS, 2, 3], max_tokens=most)
    assert len(heard.tokens) == min(most, 30)
    assert heard.reason == ("stop" if most > 30 else "length")


@pytest.mark.parametrize("before", range(2, 9))
def test_an_end_token_inside_a_guess_ends_the_answer(copied, model, before):
    (end,) = model.tokenizer.eos_ids
    heard = copied(WORDS[:before], [1, *WORDS[:before], end, *WORDS[before:], 2, 3])
    assert ([token.id for token in heard.tokens], heard.reason) == (WORDS[:before], "stop")
    assert heard.usage.verified < before + 1 or before == 2


def test_past_an_end_token_inside_a_guess_an_answer_goes_on_where_asked(copied, model):
    (end,) = model.tokenizer.eos_ids
    words = [*WORDS[:5], end, *WORDS[5:10]]
    heard = copied(words, [1, *words, 2, 3], ignore_eos=True, max_tokens=11)
    assert [token.id for token in heard.tokens] == words


@pytest.mark.parametrize("place", range(2, 12))
def test_a_stop_string_inside_a_guess_ends_the_answer(copied, model, place):
    stop = model.tokenizer.decode([WORDS[place]])
    heard = copied(WORDS, [1, *WORDS, 2, 3], stop=(stop,))
    assert (heard.text, heard.reason) == (model.tokenizer.decode(WORDS[:place]), "stop")
    assert [token.id for token in heard.tokens] == WORDS[: place + 1]


@pytest.mark.parametrize("room", range(1, 12))
def test_guesses_never_go_beyond_the_context(copied, room):
    prompt = [1, *WORDS, *[2] * (CONTEXT - len(WORDS) - 1 - room)]
    heard = copied(WORDS, prompt, ignore_eos=True)
    assert (len(heard.tokens), heard.reason) == (room, "length")


def test_cancelling_amid_guesses_frees_the_slot_and_leaves_the_rest_as_it_was(model, spec):
    (end,) = model.tokenizer.eos_ids
    prompt, wanted = [1, *WORDS, 2, 3], AnswerSettings(max_tokens=200, token_events=True)

    turns = scheduler(PromptLookup().decode(dataclasses.replace(spec, slots=1, processors=())))
    (expected,), _ = answers(turns, model, [(prompt, wanted)])
    turns.slots.held.clear()
    first, second = Heard(), Heard()
    script = FunctionProcessor(Script(WORDS, end))
    turns.spec = dataclasses.replace(turns.spec, processors=(script,))
    request = generation(model, prompt, wanted, first, CONTEXT)
    turns.add(request)
    with torch.inference_mode():
        for _ in range(4):
            turns.turn()
    request.cancel()
    turns.spec = dataclasses.replace(turns.spec, processors=())
    turns.add(generation(model, prompt, wanted, second, CONTEXT))
    run_all(turns)
    assert first.reason == "cancelled" and 2 < len(first.tokens) < 30
    assert [token.id for token in first.tokens] == WORDS[: len(first.tokens)]
    assert second.said == expected.said
    assert turns.slots.free == [0]


# The guesses themselves


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.integers(0, 40),
    st.none() | st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 6),
)
def test_a_guess_is_what_followed_the_latest_occurrence_of_the_longest_known_ending(tokens, cut, longest, shortest, most):
    session = Lookup(8, longest, shortest).start(tokens[:cut])
    for token in tokens[cut:]:
        session.advance([token])
    found = _searched(tokens, longest or len(tokens), shortest, most)
    assert session.propose(most) == [found[place % len(found)] for place in range(most) if found]


def _searched(tokens: list[int], longest: int, shortest: int, most: int) -> list[int]:
    for size in range(min(longest, len(tokens)), shortest - 1, -1):
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == tokens[len(tokens) - size :]:
                return tokens[start + size : start + size + most]
    return []


@pytest.mark.parametrize("text", ["one token", "two in turn", "random", "words"])
def test_the_automaton_stays_linear_and_its_guesses_right_on_long_texts_of_every_kind(text):
    dice = random.Random(1)
    words = [[dice.randrange(50) for _ in range(5)] for _ in range(20)]
    tokens = {
        "one token": [7] * 6000,
        "two in turn": [1, 2] * 3000,
        "random": [dice.randrange(3) for _ in range(6000)],
        "words": [token for _ in range(1200) for token in dice.choice(words)],
    }[text]
    automaton = SuffixAutomaton()
    for count, token in enumerate(tokens, 1):
        automaton.append(token)
        if automaton.matched:
            size, before = automaton.matched, automaton.before
            assert before < count and (count % 97 or tokens[before - size : before] == tokens[count - size : count])
    assert automaton.states <= 2 * len(tokens)
    assert sum(map(len, automaton._more.values())) <= 3 * len(tokens)


def test_guessing_no_tokens_is_no_change_at_all(model):
    spec = EngineSpec(model)
    assert PromptLookup(tokens=0).decode(spec) is spec
    assert PromptLookup(tokens=4).decode(spec).fingerprint != spec.fingerprint


def test_the_lever_is_found_by_name_and_refuses_settings_that_mean_nothing():
    lever = levers.parse({"prompt_lookup": 5})
    assert isinstance(lever, PromptLookup) and lever.tokens == 5
    for wrong in ({"tokens": -1}, {"tokens": 65}, {"longest": 0}, {"longest": 1}, {"longest": 3, "shortest": 4}, {"lenght": 3}):
        with pytest.raises(RecipeError):
            levers.parse({"prompt_lookup": wrong})
    with pytest.raises(RecipeError, match="conflicts with speculation"):
        levers.check_chain([lever, lever], {"weights"}, "arm")
    with pytest.raises(RecipeError, match="needs weights"):
        levers.check_chain([lever], set(), "arm")


def test_the_engine_says_the_same_with_the_lever_and_counts_fewer_passes(model):
    prompts = ["ab ab ab ab ab ab", "one two one two one"]
    options = {"max_tokens": 40, "temperature": 0.3, "seed": 1, "ignore_eos": True}
    with Engine(model, deterministic=True) as without:
        expected = without.generate(prompts, **options)
    with Engine.from_spec(PromptLookup(shortest=1).decode(EngineSpec(model, deterministic=True))) as engine:
        got = engine.generate(prompts, **options)
    assert [(one.text, one.tokens) for one in got] == [(one.text, one.tokens) for one in expected]
    assert sum(one.usage.verified for one in got) < sum(one.usage.verified for one in expected)
