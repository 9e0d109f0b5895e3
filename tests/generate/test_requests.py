"""One request after another: what is refused, how answers end, and that nobody's trouble is anybody else's."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from tiny_engines import WAIT, Heard, Script, generation, scheduler, talker
from tiny_talker import tiny_tokenizer

from steelyard.core.errors import ContextLengthError, SteelyardError, UnsupportedError
from steelyard.core.protocols import AnswerSettings, Done, Failure, Message, Text, Token
from steelyard.generate.engine import Engine
from steelyard.generate.processor import CONSTRAINT, SHAPE
from steelyard.generate.spec import EngineSpec
from steelyard.model.model import Model
from steelyard.model.template import ChatTemplate

CONTEXT = 128
FOREVER = AnswerSettings(max_tokens=10_000, ignore_eos=True, token_events=True)


@pytest.fixture(scope="module")
def model() -> Model:
    return talker(max_position_embeddings=CONTEXT)


@pytest.fixture(scope="module")
def engine(model):
    with Engine(model, slots=2, deterministic=True) as engine:
        yield engine


def ask(engine: Engine, prompt="abc", listener: Callable | None = None, **options) -> Heard:
    """Submits a request; `listener` hears every event after the record has."""
    heard = Heard()

    def on_event(event) -> None:
        heard(event)
        if listener is not None:
            listener(event)

    heard.request = engine.submit(prompt, AnswerSettings(**({"token_events": True} | options)), on_event)  # type: ignore[attr-defined]
    return heard


def all_slots_free(engine: Engine) -> bool:
    """Whether nothing holds a slot, once the turn in which the last request ended is over."""
    deadline = time.monotonic() + WAIT
    while engine.scheduler.busy and time.monotonic() < deadline:
        time.sleep(0.001)
    return sorted(engine.scheduler.slots.free) == list(range(engine.spec.slots))


# How an answer ends


def test_an_answer_ends_after_max_tokens(engine):
    for most in (1, 2, 17):
        (done,) = engine.generate(["abc"], max_tokens=most, ignore_eos=True)
        assert (len(done.tokens), done.finish_reason, done.usage.completion_tokens) == (most, "length", most)


def test_the_end_token_ends_an_answer_and_is_no_part_of_it(model):
    (end,) = model.tokenizer.eos_ids
    words = model.tokenizer.encode("fine")
    with Engine(model, processors=[Script(words, end)]) as engine:
        (done,) = engine.generate(["abc"], max_tokens=20)
    assert (done.text, [token.id for token in done.tokens], done.finish_reason) == ("fine", words, "stop")
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.verified) == (3, 4, 5)


def test_every_end_token_of_the_tokenizer_ends_an_answer(model):
    tokenizer = dataclasses.replace(model.tokenizer, eos_ids=(65, 70))
    for end in (65, 70):
        with Engine(dataclasses.replace(model, tokenizer=tokenizer), processors=[Script([66, 67], end)]) as engine:
            (done,) = engine.generate(["abc"], max_tokens=9)
        assert ([token.id for token in done.tokens], done.finish_reason) == ([66, 67], "stop")


def test_an_answer_that_ends_at_once_is_empty(model):
    (end,) = model.tokenizer.eos_ids
    with Engine(model, processors=[Script([], end)]) as engine:
        (done,) = engine.generate(["abc"], max_tokens=20)
    assert (done.text, done.tokens, done.finish_reason, done.usage.completion_tokens) == ("", (), "stop", 0)


def test_the_end_token_on_the_last_allowed_place_is_a_stop_not_a_length(model):
    (end,) = model.tokenizer.eos_ids
    words = model.tokenizer.encode("fine")
    for most, reason in [(4, "length"), (5, "stop")]:
        with Engine(model, processors=[Script(words, end)]) as engine:
            assert engine.generate(["abc"], max_tokens=most)[0].finish_reason == reason


def test_past_the_end_token_an_answer_goes_on_where_asked(model):
    (end,) = model.tokenizer.eos_ids
    with Engine(model, processors=[Script([], end)]) as engine:
        (done,) = engine.generate(["abc"], max_tokens=3, ignore_eos=True)
    assert ([token.id for token in done.tokens], done.finish_reason) == ([end] * 3, "length")


@pytest.mark.parametrize("length", [CONTEXT - 1, CONTEXT - 2, CONTEXT - 50])
def test_an_answer_that_reaches_the_context_ends_with_length(engine, length):
    (done,) = engine.generate([[5] * length], max_tokens=10_000, ignore_eos=True)
    assert (len(done.tokens), done.finish_reason) == (CONTEXT - length, "length")


# What is refused


def test_nothing_runs_where_one_of_several_prompts_is_refused(model):
    read: list[int] = []

    def told(tokens, logits):
        read.append(len(tokens))
        return logits

    with Engine(model, processors=[told]) as engine:
        with pytest.raises(ContextLengthError):
            engine.generate(["fine", "a" * 128], max_tokens=50)
        engine.generate(["x"], max_tokens=1)
    assert read == [1]


def test_prompts_longer_than_the_context_are_refused_with_both_counts(engine, model):
    with pytest.raises(ContextLengthError, match=r"128 tokens and 1 to generate.*128"):
        engine.generate(["fine", "a" * 128])
    with Engine(model, context=50) as short:
        with pytest.raises(ContextLengthError, match=r"60 tokens.*50"):
            short.generate(["a" * 60])
        with pytest.raises(ContextLengthError, match=r"52 tokens.*51"):
            short.score([("a" * 51, "b")])
        assert len(short.score([("a" * 50, "b")])) == 1  # the last token is predicted, never read
    with pytest.raises(ContextLengthError, match=r"201 tokens.*129"):
        engine.score_text(["a" * 200])


@pytest.mark.parametrize(
    "prompt",
    ["", [], None, 5, 2.5, [1, 2.5], [True], [None], ["text"], [[1, 2]], [1, "a"], {"role": "user"}, [260], [-1], [10**30], b"bytes"],
    ids=repr,
)
def test_what_is_no_prompt_is_refused(engine, prompt):
    with pytest.raises(SteelyardError, match="prompt"):
        engine.generate([prompt], max_tokens=1)


def test_a_token_the_table_has_no_row_for_is_refused_in_texts_too(model):
    class Wider(type(model.tokenizer)):
        def encode(self, text, special=True):
            return [*super().encode(text, special), 260]

    wider = copy.copy(model.tokenizer)
    wider.__class__ = Wider
    with Engine(dataclasses.replace(model, tokenizer=wider)) as engine:
        for use in (lambda: engine.generate(["abc"]), lambda: engine.score([("a", "b")])):
            with pytest.raises(SteelyardError, match=r"\[260.*outside the vocabulary of 260"):
                use()


def test_bytes_are_ids_only_when_a_list_says_so(engine):
    assert engine.generate([list(b"ab")], max_tokens=1)[0].usage.prompt_tokens == 2


def test_one_bare_string_instead_of_a_list_is_refused(engine):
    with pytest.raises(SteelyardError, match=r"generate\(\[text\]\)"):
        engine.generate("abc")


def test_ids_may_come_as_arrays_and_tensors(engine):
    plain, *others = engine.generate([[7, 8, 9], (7, 8, 9), numpy.array([7, 8, 9]), torch.tensor([7, 8, 9])], max_tokens=8)
    assert all(other.text == plain.text for other in others)


nan, inf = float("nan"), float("inf")


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": 2.5},
        {"max_tokens": True},
        {"max_tokens": None},
        {"temperature": -0.1},
        {"temperature": nan},
        {"temperature": inf},
        {"temperature": "hot"},
        {"top_k": -1},
        {"top_k": 2.5},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": nan},
        {"min_p": -0.1},
        {"min_p": 1.5},
        {"repetition_penalty": 0},
        {"repetition_penalty": -2},
        {"repetition_penalty": inf},
        {"presence_penalty": nan},
        {"frequency_penalty": -inf},
        {"alternatives": -1},
        {"alternatives": 101},
        {"seed": 1.0},
        {"seed": "seven"},
        {"stop": ("",)},
        {"stop": "END"},
        {"stop": (3,)},
        {"temprature": 1},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused_by_name(engine, options):
    (name,) = options
    with pytest.raises(SteelyardError, match=name):
        engine.generate(["abc"], **options)


def test_settings_are_given_in_one_way_only(engine):
    with pytest.raises(SteelyardError, match="temperature"):
        engine.generate(["abc"], settings=AnswerSettings(max_tokens=1), temperature=1.0)
    with pytest.raises(SteelyardError, match="AnswerSettings"):
        engine.submit("abc", {"max_tokens": 1}, print)


@pytest.mark.parametrize(
    "options",
    [
        {"slots": 0},
        {"slots": 2.5},
        {"slots": -3},
        {"slots": 10**12},
        {"context": 1},
        {"context": 0},
        {"threads": 0},
        {"threads": -1},
        {"prefill": 0},
        {"kernels": "fast"},
        {"dtype": "int3"},
        {"slotz": 1},
    ],
    ids=str,
)
def test_engine_settings_that_mean_nothing_are_refused_by_name(model, options):
    (name,) = options
    with pytest.raises(SteelyardError, match=name):
        Engine(model, **options)


def test_a_model_that_cannot_talk_is_refused(model):
    with pytest.raises(UnsupportedError, match="cannot generate"):
        Engine(Model(model.trunk, model.family, model.config))


# What is said


def test_a_conversation_is_read_as_its_rendered_text(engine, model):
    talk = [{"role": "user", "content": "Hi"}]
    rendered = model.render(talk)
    answers = engine.generate([talk, [Message("user", "Hi")], rendered], max_tokens=12)
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].usage.prompt_tokens == len(model.tokenizer.encode(rendered))


def test_the_specs_template_takes_the_place_of_the_models(model):
    shout = ChatTemplate("{{ messages[0].content | upper }}", {})
    with Engine(model, template=shout) as engine:
        one, two = engine.generate([[{"role": "user", "content": "hi"}], "HI"], max_tokens=8)
    assert one.text == two.text and one.usage.prompt_tokens == 2


def test_without_logprobs_the_text_is_the_same_and_no_tokens_are_kept(engine):
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 4}
    (told,), (untold,) = engine.generate(["abc"], **options), engine.generate(["abc"], logprobs=False, **options)
    assert told.text == untold.text
    assert (len(told.tokens), untold.tokens, untold.logprobs) == (12, (), [])


def test_readings_of_the_clock_are_in_order(engine):
    (done,) = engine.generate(["abc"], max_tokens=3)
    assert done.timing.submitted <= done.timing.first_token <= done.timing.finished
    assert 0 <= done.timing.to_first_token <= done.timing.seconds


def test_a_bos_token_is_put_before_text_once_where_the_tokenizer_asks_for_it(model):
    begins = Model(model.trunk, model.family, model.config, tiny_tokenizer(begins=True), model.template)
    with Engine(begins) as engine:
        assert engine.encode("ab") == [begins.tokenizer.bos_id, *model.tokenizer.encode("ab")]
        assert engine.encode("<|begin|>ab") == engine.encode("ab")
        assert engine.encode("") == [begins.tokenizer.bos_id]
        assert engine.encode([1, 2]) == [1, 2]


def test_what_can_change_an_answer_changes_the_fingerprint_and_nothing_else_does(model):
    def fingerprint(**settings) -> str:
        return EngineSpec(model, **settings).fingerprint

    plain = fingerprint()
    assert plain == fingerprint(slots=3) == fingerprint(context=60)
    processors = [
        lambda tokens, logits: logits,
        lambda tokens, logits: -logits,
        partial(pow, 2),
        partial(pow, 3),
        Script([1], 2),
        Script([2], 2),
    ]
    prints = []
    for processor in processors:
        with Engine(model, processors=[processor]) as engine:
            prints.append(engine.fingerprint)
    changed = [fingerprint(deterministic=True), fingerprint(dtype="float16"), fingerprint(template=ChatTemplate("x", {})), *prints]
    assert len({plain, *changed}) == 1 + len(changed)


# Others are not disturbed


def test_a_cancelled_request_frees_its_slot_for_the_next(model):
    with Engine(model, slots=1) as engine:
        first = Heard()

        def cancel_at_five(event) -> None:
            first(event)
            if len(first.tokens) == 5:
                request.cancel()

        begun = threading.Event()
        request = None
        request = engine.submit("abc", FOREVER, lambda event: (begun.wait(WAIT), cancel_at_five(event)))
        second = ask(engine, max_tokens=3)
        begun.set()
        assert second.wait().reason in ("length", "stop")
        assert first.wait().reason == "cancelled"
        assert len(first.tokens) == 5 and first.usage.completion_tokens == 5
        assert "".join(token.text for token in first.tokens) == first.text


def test_a_request_cancelled_while_it_waits_never_runs(model):
    with Engine(model, slots=1) as engine:
        gate = threading.Event()
        first = ask(engine, listener=lambda event: gate.wait(WAIT), max_tokens=2, ignore_eos=True)
        second, third = ask(engine, max_tokens=2), ask(engine, max_tokens=2, ignore_eos=True)
        second.request.cancel()
        gate.set()
        assert (second.wait().reason, second.text, second.usage.completion_tokens) == ("cancelled", "", 0)
        assert first.wait().reason == third.wait().reason == "length"


def test_cancelling_what_has_ended_changes_nothing(engine):
    heard = ask(engine, max_tokens=2, ignore_eos=True).wait()
    heard.request.cancel()
    assert engine.generate(["abc"], max_tokens=2, ignore_eos=True)[0].finish_reason == "length"
    assert heard.reason == "length"


@pytest.mark.parametrize("kind", [Token, Text, Done, Failure, object], ids=lambda kind: kind.__name__)
def test_a_listener_that_raises_ends_its_own_request_alone(model, kind):
    """Failure stands for one that raises on hearing of its own failure as well."""

    def listener(event) -> None:
        if isinstance(event, kind) or (kind is Failure and isinstance(event, Token)):
            raise ValueError("boom")

    with Engine(model, slots=2, deterministic=True) as engine:
        alone = ask(engine, "xyz", max_tokens=30, ignore_eos=True, temperature=1.0).wait()
        beside, troubled = (
            ask(engine, "xyz", max_tokens=30, ignore_eos=True, temperature=1.0),
            ask(engine, listener=listener, max_tokens=9, ignore_eos=True),
        )
        after = ask(engine, "xyz", max_tokens=30, ignore_eos=True, temperature=1.0)
        assert beside.wait().said == after.wait().said == alone.said
        assert all_slots_free(engine)
    assert troubled.reason == ("length" if kind is Done else "error")
    if kind is not Done:
        assert "boom" in (troubled.failure or "")


class Moody:
    """A processor that has trouble with requests of seed 13 only."""

    order, fingerprint = SHAPE, "moody"

    def __init__(self, trouble: str):
        self.trouble = trouble

    def start(self, settings):
        if settings.seed != 13:
            return None
        if self.trouble == "start":
            raise ValueError("cannot start")
        return self

    def __call__(self, logits, view):
        match self.trouble:
            case "call":
                raise ZeroDivisionError("cannot call")
            case "later" if len(view.generated) == 3:
                raise ValueError("cannot go on")
            case "nan":
                return logits * nan
            case "infinity":
                return logits + torch.tensor([inf] + [0.0] * (len(logits) - 1))
            case "nothing left":
                return torch.full_like(logits, -inf)
            case "shape":
                return logits[:3]
            case "none":
                return None
        return logits

    def advance(self, token):
        if self.trouble == "advance":
            raise ValueError("cannot advance")

    def rewind(self, count):
        raise AssertionError("nothing was rewound")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("trouble", ["start", "call", "later", "nan", "infinity", "nothing left", "shape", "none", "advance"])
def test_a_processor_in_trouble_fails_its_request_and_leaves_the_others_alone(model, trouble, temperature):
    with Engine(model, slots=2, processors=[Moody(trouble)]) as engine:
        options = {"max_tokens": 8, "temperature": temperature, "ignore_eos": True}
        heard = [ask(engine, seed=seed, **options) for seed in (1, 13, 2, 13)]
        assert [one.wait().reason for one in heard] == ["length", "error", "length", "error"]
        assert heard[1].failure and all(one.failure is None for one in (heard[0], heard[2]))
        assert len(heard[1].tokens) == (3 if trouble == "later" else 0)
        with pytest.raises(SteelyardError, match="generate"):
            engine.generate(["abc"], seed=13, **options)
        assert all_slots_free(engine)


class Note:
    """A processor that notes when it is called."""

    fingerprint = "note"

    def __init__(self, order: int, name: str, notes: list[str]):
        self.order, self.name, self.notes = order, name, notes

    def start(self, settings):
        return self

    def __call__(self, logits, view):
        self.notes.append(self.name)
        return logits

    def advance(self, token):
        assert isinstance(token, int)


def test_processors_work_in_the_order_of_their_kind_and_then_of_the_list(model):
    notes: list[str] = []
    kinds = [(SHAPE, "shape"), (CONSTRAINT, "constraint"), (SHAPE, "shape again"), (CONSTRAINT, "constraint again")]
    with Engine(model, processors=[Note(order, name, notes) for order, name in kinds]) as engine:
        engine.generate(["abc"], max_tokens=1)
    assert notes == ["constraint", "constraint again", "shape", "shape again"]


def test_a_step_that_cannot_be_computed_is_told_to_those_in_it_and_the_engine_goes_on(model):
    with Engine(model, slots=2) as engine:
        (before,) = engine.generate(["abc"], max_tokens=4)
        run = engine.scheduler.host.run

        def broken(*arguments):
            raise RuntimeError("out of memory")

        engine.scheduler.host.run = broken
        with pytest.raises(SteelyardError, match="out of memory"):
            engine.generate(["abc"], max_tokens=4)
        with pytest.raises(SteelyardError, match="out of memory"):
            engine.score([("a", "b")])
        engine.scheduler.host.run = run
        assert engine.generate(["abc"], max_tokens=4)[0].text == before.text
        assert all_slots_free(engine)


# Closing


def test_closing_ends_everything_and_gives_the_memory_back(model):
    engine = Engine(model, slots=2)
    begun, closing = threading.Event(), threading.Event()

    def held(event) -> None:
        """Keeps the first answers under way until the engine is closed."""
        begun.set()
        closing.wait(WAIT)

    heard = [ask(engine, listener=held, max_tokens=10_000, ignore_eos=True) for _ in range(5)]
    assert begun.wait(WAIT) and engine.scheduler.host.state.bytes() > 0
    closing.set()
    engine.close()
    engine.close()
    for one in heard:
        assert one.ended.is_set() and one.reason in ("error", "length")
        assert one.reason == "length" or "closed" in one.failure
    assert heard[4].reason == "error"
    assert engine.scheduler.host.state.bytes() == 0
    for use in (lambda: engine.generate(["abc"]), lambda: engine.score([("a", "b")]), lambda: ask(engine)):
        with pytest.raises(SteelyardError, match="closed"):
            use()


ENDS_WITHOUT_CLOSING = """
from tiny_engines import talker
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.engine import Engine

engine = Engine(talker())
engine.generate([[1, 2, 3]], max_tokens=3)
engine.submit([1, 2, 3], AnswerSettings(max_tokens=1000, ignore_eos=True), lambda event: None)
"""


def test_a_program_may_end_without_closing_its_engine():
    paths = os.pathsep.join(str(Path(__file__).parents[up]) for up in (0, 1))
    done = subprocess.run(
        [sys.executable, "-c", ENDS_WITHOUT_CLOSING], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_listener_may_close_its_engine_and_may_ask_it_more(model):
    engine = Engine(model)
    more: list[Heard] = []
    first = ask(engine, listener=lambda event: more or more.append(ask(engine, "xyz", max_tokens=2, ignore_eos=True)), max_tokens=2)
    assert first.wait().reason and more[0].wait().reason == "length"
    last = ask(engine, listener=lambda event: engine.close(), max_tokens=20)
    assert last.wait().reason == "error"
    engine.close()


# Taking turns


def test_waiting_requests_are_served_in_the_order_they_came(model):
    turns = scheduler(EngineSpec(model, slots=2))
    order: list[int] = []
    for number in range(9):
        turns.add(generation(model, "abc", AnswerSettings(max_tokens=3, ignore_eos=True), lambda event, n=number: order.append(n), CONTEXT))
    with torch.inference_mode():
        while turns.busy:
            turns.turn()
    assert list(dict.fromkeys(order)) == list(range(9))
    assert turns.slots.free and len(turns.slots.free) == 2


def test_answers_under_way_are_not_starved_by_a_long_prompt():
    model = talker(max_position_embeddings=4096)
    turns = scheduler(EngineSpec(model, slots=2))
    under_way, newcomer = Heard(), Heard()
    with torch.inference_mode():
        turns.add(generation(model, "abc", FOREVER, under_way, 4096))
        turns.turn()
        turns.add(generation(model, [9] * 3000, AnswerSettings(max_tokens=1), newcomer, 4096))
        before = len(under_way.tokens)
        count = 0
        while not newcomer.events:
            turns.turn()
            count += 1
    assert count >= 5
    assert len(under_way.tokens) == before + count


def test_many_people_asking_at_once_each_get_their_own_answer(engine):
    prompts = [f"question {number}" for number in range(24)]
    options = {"max_tokens": 12, "temperature": 1.0, "ignore_eos": True}
    expected = [answer.text for answer in engine.generate(prompts, **options)]
    answers: dict[int, str] = {}

    def person(which: int) -> None:
        for number in range(which, len(prompts), 4):
            answers[number] = engine.generate([prompts[number]], **options)[0].text

    people = [threading.Thread(target=person, args=(which,)) for which in range(4)]
    for thread in people:
        thread.start()
    for thread in people:
        thread.join(WAIT)
    assert [answers[number] for number in range(len(prompts))] == expected
    assert all_slots_free(engine)


def test_interrupting_generate_cancels_what_it_asked_for(engine, monkeypatch):
    """Ctrl-C arrives while somebody waits for a result."""

    def interrupted(self, timeout=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.generate(["abc"] * 6, max_tokens=100_000, ignore_eos=True)
    (done,) = engine.generate(["abc"], max_tokens=1)
    assert done.usage.completion_tokens <= 1
