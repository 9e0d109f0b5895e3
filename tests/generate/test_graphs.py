"""An engine whose decoding steps are recorded says what it says without, and knows where it may not record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from arrivals import CONTEXT, arrivals, take_turns
from hypothesis import given, settings
from op_tapes import on_tape
from tiny_engines import scheduler, talker
from torch import Tensor

from steelyard.compress.quantize.quantize import Quantize
from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.engine import Engine
from steelyard.generate.processor import FunctionProcessor
from steelyard.generate.scheduler import Scheduler
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.generate.states.kv_cache import KvCache
from steelyard.model.graphed import GraphedTrunk
from steelyard.model.model import Model
from steelyard.model.sites import SiteProgram
from steelyard.model.step import Step


class Counted(GraphedTrunk):
    """Counts the steps that were replayed."""

    replayed = 0

    def __call__(self, ids_bt: Tensor, step: Step) -> Tensor:
        self.replayed += 1
        return super().__call__(ids_bt, step)


@pytest.fixture(scope="module")
def model() -> Model:
    return talker(5.0, max_position_embeddings=CONTEXT)


def dictated(tokens: list[int], logits: Tensor) -> Tensor:
    """Each answer's next token is a matter of its place, so that rounding turns none; what the model thinks of it is told nevertheless."""
    out = torch.full_like(logits, -1e9)
    out[len(tokens) // 2 % 5] = 0.0
    return out


def spec(model: Model, **changes: object) -> EngineSpec:
    return EngineSpec(model, slots=3, dtype="float32", kernels="pytorch", **changes)  # type: ignore[arg-type]


def on_tapes(spec: EngineSpec) -> Scheduler:
    """A scheduler whose answering model decodes by tapes, which know nothing of the host."""
    turns = scheduler(replace(spec, graphs=True))
    turns.host.graphed = Counted(turns.trunk, turns.host.state, on_tape)
    return turns


@pytest.fixture(scope="module")
def both(model) -> tuple[Scheduler, Scheduler]:
    said = spec(model, processors=(FunctionProcessor(dictated),))
    return scheduler(said), on_tapes(said)


@pytest.fixture(scope="module")
def guessing(model) -> tuple[Scheduler, Scheduler]:
    said = PromptLookup(tokens=4).decode(spec(model, processors=(FunctionProcessor(dictated),)))
    return scheduler(said), on_tapes(said)


def compare(plain: Scheduler, recorded: Scheduler, model: Model, requests: list) -> None:
    """Both say the same of the same tokens: as sure, to rounding."""
    both = []
    for turns in (plain, recorded):
        turns.slots.held.clear()
        both.append(take_turns(turns, model, requests))
    for mine, theirs in zip(*both, strict=True):
        assert (mine.text, mine.reason, mine.failure) == (theirs.text, theirs.reason, None)
        for one, other in zip(mine.tokens, theirs.tokens, strict=True):
            assert one.id == other.id and one.logprob == pytest.approx(other.logprob, abs=1e-3, rel=1e-4)
            assert one.entropy == pytest.approx(other.entropy, abs=1e-3)


@settings(max_examples=6, deadline=None)
@given(requests=arrivals)
def test_requests_that_come_and_go_are_answered_alike(both, model, requests):
    compare(*both, model, requests)


@settings(max_examples=5, deadline=None)
@given(requests=arrivals)
def test_guesses_that_are_taken_back_change_nothing(guessing, model, requests):
    compare(*guessing, model, requests)


def test_a_prompt_and_a_row_with_a_program_go_the_trunks_way(model):
    turns = on_tapes(spec(model))
    recorded = turns.host.graphed
    assert isinstance(recorded, Counted)
    take_turns(turns, model, [([1, 2, 3], AnswerSettings(max_tokens=5, ignore_eos=True), 0, None)])
    assert recorded.replayed == 4  # the first token comes of the prompt
    with Engine.from_spec(replace(spec(model), graphs=True)) as engine:
        engine.scheduler.host.graphed = counted = Counted(engine.trunk, engine.scheduler.host.state, on_tape)
        program = SiteProgram(skip={1: (0,)})
        engine.generate(["abc"], max_tokens=5, ignore_eos=True, programs=[program])
        assert counted.replayed == 0
        engine.generate(["abc"], max_tokens=5, ignore_eos=True)
        assert counted.replayed == 4


@pytest.mark.parametrize("bits", [None, 8, 4, "fp8"])
def test_an_engine_told_to_record_is_as_sure_of_the_same(bits):
    model = talker(5.0, intermediate_size=96)
    check_with_and_without(model if bits is None else Quantize(bits=bits).compress(model, None), without=None, graphs=True)


def check_with_and_without(model: Model, without: bool | None, graphs: bool | None) -> None:
    """Two engines of one model, the second of which records: what they think of dictated answers is the same, to rounding."""
    said = []
    for told in (without, graphs):
        with Engine(model, [dictated], dtype="float32", kernels="pytorch", graphs=told) as engine:
            assert (engine.scheduler.host.graphed is not None) == (told is graphs)
            said.append([one.logprobs for one in engine.generate(["abc", "a long prompt", "x"], max_tokens=30, ignore_eos=True)])
    for one, other in zip(*said, strict=True):
        assert len(one) == 30 and one == pytest.approx(other, abs=0.05)  # a last bit may turn what an activation is rounded to


@pytest.mark.parametrize("asked", [None, True])
def test_a_device_that_cannot_record_answers_without_unless_it_was_told_to(model, asked, caplog):
    def full(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        compute()  # a capture warms up before it fails
        raise torch.OutOfMemoryError("the device's memory is full")

    with Engine.from_spec(spec(model)) as engine:
        (expected,) = engine.generate(["abc"], max_tokens=8, ignore_eos=True)
    with Engine.from_spec(replace(spec(model), graphs=asked)) as engine:
        host = engine.scheduler.host
        host.graphed = GraphedTrunk(host.trunk, host.state, full)
        if asked:
            with pytest.raises(SteelyardError, match="memory is full"):
                engine.generate(["abc"], max_tokens=8)
        else:
            (answer,) = engine.generate(["abc"], max_tokens=8, ignore_eos=True)
            assert answer.text == expected.text and host.graphed is None and "could not be recorded" in caplog.text


def test_nothing_is_recorded_on_a_cpu_unless_asked_for_and_the_fingerprint_knows(model):
    assert not spec(model).graphed and not spec(model, graphs=False).graphed and spec(model, graphs=True).graphed
    assert spec(model).fingerprint == spec(model, graphs=False).fingerprint != spec(model, graphs=True).fingerprint
    assert spec(model, graphs=True).numerics["kernels"] == "pytorch, graphs"


def test_what_cannot_be_recorded_is_refused_where_it_is_asked_for(model):
    with pytest.raises(SteelyardError, match="graphs with deterministic"):
        Engine(model, kernels="pytorch", graphs=True, deterministic=True)
    with pytest.raises(SteelyardError, match="graphs with kernels='reference'"):
        Engine(model, kernels="reference", graphs=True)
    with pytest.raises(UnsupportedError, match="a cache that is not plain tensors"):
        Engine.from_spec(KvCache(bits=8).decode(spec(model, graphs=True)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU: `pytest tests/generate/test_graphs.py` where one is")
@pytest.mark.parametrize("bits", [None, 8, 4, "fp8"])
def test_on_a_gpu_an_engine_with_graphs_is_as_sure_as_one_without(bits):
    model = talker(5.0, hidden_size=64, intermediate_size=96)
    model = model if bits is None else Quantize(bits=bits).compress(model, None)
    model = model.with_trunk(model.trunk.to("cuda"))
    check_with_and_without(model, without=False, graphs=None)
