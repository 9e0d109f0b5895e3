"""Guesses made by models: what they may change, what they may not, and what they cost."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from arrivals import CONTEXT, arrivals, take_turns
from hypothesis import HealthCheck, given, settings
from tiny_engines import Heard, alone, generation, run_all, scheduler, talker
from tiny_talker import tiny_tokenizer
from toy_recurrence import recurrent_talker

from steelyard.core import levers
from steelyard.core.errors import RecipeError, SteelyardError, UnsupportedError
from steelyard.core.protocols import AnswerSettings
from steelyard.core.references import ModelRef
from steelyard.generate.engine import Engine
from steelyard.generate.processor import FunctionProcessor
from steelyard.generate.scheduler import Scheduler
from steelyard.generate.sequences import Generation
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.early_exit import EarlyExit
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.generate.speculation.self_speculative import SelfSpeculative, every_fourth
from steelyard.generate.speculation.speculative import Speculative
from steelyard.model.model import Model

MODEL = talker(12.0, max_position_embeddings=CONTEXT, num_hidden_layers=3)


def worse(model: Model, share: float = 0.03) -> Model:
    """A draft that is often right: the model itself with noise on its weights."""
    trunk, generator = copy.deepcopy(model.trunk), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trunk.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(parameter + share * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return model.with_trunk(trunk)


def drafted_by(draft: Model, **options) -> Speculative:
    return Speculative(draft=ModelRef("draft", draft), **options)


DRAFT = worse(MODEL)
LEVERS = {
    "speculative": drafted_by(DRAFT),
    "speculative coupled": drafted_by(DRAFT, verify="coupled", tokens=6),
    "self_speculative": SelfSpeculative(skip=(1,)),
    "self_speculative coupled": SelfSpeculative(skip=(1,), verify="coupled"),
    "early_exit": EarlyExit(exit=2),
    "early_exit coupled": EarlyExit(exit=2, verify="coupled"),
    "prompt_lookup": PromptLookup(shortest=1),
}
SAME_TEXT = [name for name in LEVERS if "coupled" in name or name == "prompt_lookup"]


def spec_of(name: str | None, model: Model = MODEL, **options) -> EngineSpec:
    spec = EngineSpec(model, **{"deterministic": True, "slots": 3, "dtype": "float32", "kernels": "pytorch"} | options)
    return LEVERS[name].decode(spec) if name else spec


PLAIN = scheduler(spec_of(None))


def said_alone(turns: Scheduler, prompt: list[int], wanted: AnswerSettings) -> Heard:
    heard = Heard()
    alone(turns, generation(MODEL, prompt, wanted, heard, turns.context))
    return heard


@pytest.mark.parametrize("name", LEVERS)
def test_an_answer_is_the_same_whatever_else_runs_arrives_or_is_cancelled(name):
    """About 200 requests over all levers. Where the text is to be that of plain decoding, it is, to the bit."""
    crowded = scheduler(spec_of(name))
    lonely = Scheduler(crowded.trunk, crowded.spec, crowded.context, {key: host.trunk for key, host in crowded.companions.items()})

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(arrivals)
    def check(requests):
        together = take_turns(crowded, MODEL, requests)
        for (prompt, wanted, _, cancel), beside in zip(requests, together, strict=True):
            solo = said_alone(lonely, prompt, wanted)
            if beside.reason == "cancelled":
                assert cancel is not None
                assert beside.tokens == solo.tokens[: len(beside.tokens)]
            else:
                assert beside.said == solo.said
            if name in SAME_TEXT or not wanted.temperature:
                assert solo.said == said_alone(PLAIN, prompt, wanted).said
        assert sorted(crowded.slots.free) == [0, 1, 2]

    check()


@pytest.mark.parametrize("verify", ["rejection", "coupled"])
@pytest.mark.parametrize("model", [MODEL, recurrent_talker(8.0, max_position_embeddings=CONTEXT)], ids=["attention", "recurrence"])
def test_a_draft_that_is_the_model_itself_is_always_right(model, verify):
    turns = scheduler(drafted_by(model, tokens=3, verify=verify).decode(spec_of(None, model)))
    wanted = AnswerSettings(max_tokens=17, temperature=1.0, frequency_penalty=0.3, top_p=0.9, seed=4, ignore_eos=True)
    request = generation(model, list(range(250)), wanted, Heard(), turns.context)
    alone(turns, request)
    assert request.guessed == request.agreed > 10
    # One token when the prompt was read; then four a pass, but for guesses cut short where a stretch of keys ends and at the answer's end.
    assert request.passes <= 1 + 4 + 2


@pytest.mark.parametrize("name", ["speculative", "self_speculative coupled", "early_exit"])
def test_guesses_of_models_save_passes(name):
    turns, saved = scheduler(spec_of(name, deterministic=False)), 0
    for seed in range(4):
        wanted = AnswerSettings(max_tokens=24, temperature=0.5, seed=seed, ignore_eos=True)
        request = generation(MODEL, [seed, 5, 9], wanted, Heard(), turns.context)
        alone(turns, request)
        saved += 24 - request.passes
        assert request.agreed <= request.guessed
    assert saved > 10


@pytest.mark.parametrize("name", ["self_speculative", "early_exit"])
def test_verification_fills_the_blocks_that_guessing_left_out(name):
    turns = scheduler(spec_of(name))
    request = generation(MODEL, [1, 2, 3], AnswerSettings(max_tokens=12, ignore_eos=True), Heard(), turns.context)
    alone(turns, request)
    lengths = {pool.lengths[0] for pool in turns.host.state.pools.values()}
    assert request.guessed and len(lengths) == 1 and lengths <= {13, 14, 15}


def test_the_model_that_guesses_reads_long_prompts_in_pieces_while_others_go_on():
    model = talker(12.0, max_position_embeddings=2048)
    turns = scheduler(drafted_by(worse(model)).decode(EngineSpec(model, slots=2, dtype="float32", kernels="pytorch")))
    wanted, short, long = AnswerSettings(max_tokens=40, ignore_eos=True), Heard(), Heard()
    requests = [generation(model, prompt, wanted, ear, 2048) for prompt, ear in (([1, 2], short), ([7] * 1500, long))]
    for request in requests:
        turns.add(request)
    read = []
    with torch.inference_mode():
        while turns.drafting and turns.drafting.lengths[1] < 1500 and len(read) < 20:
            before = requests[0].passes
            turns.turn()
            read.append((turns.host.lengths[1] + turns.drafting.lengths[1], requests[0].passes - before))
    steps = [after - before for (before, _), (after, _) in zip(read, read[1:], strict=False)]
    assert max(steps) <= 512 + 256 + 8, "a turn reads little more than its budget"
    assert all(passes for _, passes in read), "the short answer goes on in every turn"
    run_all(turns)
    assert short.reason == long.reason == "length"


def test_what_a_processor_raises_on_a_guess_fails_its_own_request_alone():
    def troubled(tokens: list[int], logits: torch.Tensor) -> torch.Tensor:
        if tokens[0] == 7 and len(tokens) > 4:
            raise KeyError("no idea")
        return logits

    for name in ("speculative", "early_exit"):
        turns = scheduler(spec_of(name, slots=2, processors=(FunctionProcessor(troubled),)))
        heard = [Heard() for _ in range(4)]
        wanted = AnswerSettings(max_tokens=6, ignore_eos=True, token_events=True)
        for prompt, ear in zip(([5], [7, 1], [6], [7, 1]), heard, strict=True):
            turns.add(generation(MODEL, prompt, wanted, ear, turns.context))
        run_all(turns)
        assert [ear.reason for ear in heard] == ["length", "error", "length", "error"]
        assert sorted(turns.slots.free) == [0, 1]
        assert heard[0].said == said_alone(PLAIN, [5], wanted).said


def test_a_draft_that_says_nothing_drawable_is_an_error_of_the_request():
    broken = worse(MODEL, 0.0)
    with torch.no_grad():
        broken.trunk.heads["lm"].linear.weight.fill_(float("nan"))  # type: ignore[union-attr]
    turns, heard = scheduler(drafted_by(broken).decode(spec_of(None, deterministic=False))), Heard()
    turns.add(generation(MODEL, [1], AnswerSettings(max_tokens=5, temperature=1.0), heard, turns.context))
    run_all(turns)
    assert heard.reason == "error" and "no token can be drawn" in (heard.failure or "")


# Levers and their settings


def test_guessing_no_tokens_is_no_change_at_all():
    spec = spec_of(None)
    for lever in (drafted_by(DRAFT, **Speculative.identity), SelfSpeculative(**SelfSpeculative.identity), EarlyExit(**EarlyExit.identity)):
        assert lever.decode(spec) is spec
    prints = [LEVERS[name].decode(spec).fingerprint for name in LEVERS]
    assert len({spec.fingerprint, *prints}) == len(LEVERS) + 1


def test_a_draft_with_another_tokenizer_is_refused():
    other = dataclasses.replace(DRAFT, tokenizer=tiny_tokenizer(eos=None))
    with pytest.raises(UnsupportedError, match="another tokenizer"):
        drafted_by(other).decode(spec_of(None))


def test_a_draft_of_a_shorter_context_is_refused():
    short = talker(max_position_embeddings=64)
    with pytest.raises(SteelyardError, match="draft"):
        Engine.from_spec(drafted_by(short).decode(spec_of(None)))


@pytest.mark.parametrize(
    "lever", [SelfSpeculative(skip=(3,)), SelfSpeculative(skip=(0, 1, 2)), EarlyExit(exit=3), EarlyExit(exit=9)], ids=repr
)
def test_blocks_a_model_has_not_are_refused_by_number(lever):
    with pytest.raises(SteelyardError, match="3"):
        lever.decode(spec_of(None))


def test_models_of_one_block_have_nothing_to_leave_out():
    single = talker(num_hidden_layers=1)
    for lever in (SelfSpeculative(), EarlyExit()):
        with pytest.raises(SteelyardError):
            lever.decode(EngineSpec(single))


def test_by_default_every_fourth_block_is_left_out_but_neither_the_first_nor_the_last():
    assert every_fourth(30) == (7, 11, 15, 19, 23, 27)
    assert every_fourth(2) == () and every_fourth(3) == (1,)


def test_settings_that_mean_nothing_are_refused():
    for entry in (
        {"speculative": {"tokens": 4}},
        {"speculative": {"draft": "x", "verify": "maybe"}},
        {"self_speculative": {"skip": []}},
        {"self_speculative": {"skip": [1, 1]}},
        {"self_speculative": {"skip": [-1]}},
        {"early_exit": 0},
        {"early_exit": {"tokens": 33}},
    ):
        with pytest.raises(RecipeError):
            levers.parse(entry)
    with pytest.raises(RecipeError, match="conflicts with speculation"):
        levers.check_chain([levers.parse({"speculative": "x"}), levers.parse("early_exit")], {"weights"}, "arm")


def test_the_engine_says_the_same_greedily_with_every_lever():
    prompts, options = ["ab ab ab", "one two"], {"max_tokens": 20, "ignore_eos": True}
    said = []
    for name in (None, *LEVERS):
        with Engine.from_spec(spec_of(name)) as engine:
            said.append([(one.text, one.tokens) for one in engine.generate(prompts, **options)])
    assert all(one == said[0] for one in said)


def test_a_generation_counts_what_was_guessed_and_what_was_right():
    request = Generation([1], AnswerSettings(), Heard(), MODEL.tokenizer.stream_decoder(), frozenset(), 8)  # type: ignore[union-attr]
    assert (request.guessed, request.agreed) == (0, 0)
