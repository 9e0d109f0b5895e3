"""Keys and values on disk: the same bits as in memory, whatever is done to slots, and little memory."""

from __future__ import annotations

import dataclasses
import gc
import os
from unittest import mock

import pytest
import torch
from plan_talkers import plan_talker
from tiny_engines import talker

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.beams.beam import Beam
from steelyard.generate.engine import Engine
from steelyard.generate.offload import Offload
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.generate.states.kv_cache import KvCache
from steelyard.generate.states.on_disk import DiskStates
from steelyard.model.state import Dense, KeyValuePool
from steelyard.model.step import Step

MODEL = talker(12.0, max_position_embeddings=600)
"""Heads of 8: a page of the disk holds 128 tokens in float32 and 256 in bfloat16."""
WHOLE = EngineSpec(MODEL, dtype="float32", kernels="reference", slots=3, deterministic=True)
WANTED = AnswerSettings(max_tokens=20, temperature=0.8, seed=3, token_events=True, ignore_eos=True)


def words(count: int, first: int = 0) -> list[int]:
    return [(first + 7 * i * i) % 251 for i in range(count)]


PROMPTS = [words(3), words(300, 2), [*words(200), *words(9, 4)], words(40, 1), [*words(200), *words(7, 6)], words(127, 5), words(129, 5)]


def answers(spec: EngineSpec) -> tuple:
    with Engine.from_spec(spec) as engine:
        said = [engine.generate(PROMPTS, settings=WANTED), *(engine.generate([prompt], settings=WANTED) for prompt in PROMPTS[1:3])]
        scores = engine.score([("one begin", " and an end"), ("one begin", " or another"), ("", "a text that stands alone " * 12)])
    return [[(each.text, each.tokens) for each in some] for some in said], scores


@pytest.mark.parametrize(
    ("lever", "changes"),
    [
        (Offload(keep=1, states=True), {}),
        (Offload(keep=0, states=True), {"prefix_bytes": 1 << 20}),
        (Offload(keep=1, states=True), {"dtype": "bfloat16", "kernels": "pytorch"}),
    ],
)
def test_an_engine_says_the_same_bits_as_with_states_in_memory(lever, changes):
    whole = dataclasses.replace(WHOLE, **changes)
    assert answers(lever.decode(whole)) == answers(whole)


@pytest.mark.parametrize("other", [PromptLookup(tokens=6, shortest=1), Beam(beams=3)])
def test_what_is_taken_back_or_forked_is_the_same_too(other):
    whole = other.decode(WHOLE)
    settings = AnswerSettings(max_tokens=20, ignore_eos=True)
    prompts = [words(30, first) * 3 for first in range(3)]
    said = []
    for spec in (whole, Offload(keep=1, states=True).decode(whole)):
        with Engine.from_spec(spec) as engine:
            said.append([each.text for each in engine.generate(prompts, settings=settings)])
    assert said[0] == said[1]


def pools(numbers: torch.dtype, slots: int, layers: int) -> tuple[list[KeyValuePool], list[KeyValuePool], DiskStates]:
    """The same memory twice: in plain tensors, and on disk."""
    storage, plain = DiskStates(numbers, torch.float32), Dense(rounding=numbers)
    return (
        [KeyValuePool.of(plain, slots, 2, 700, 8) for _ in range(layers)],
        [KeyValuePool.of(storage, slots, 2, 700, 8) for _ in range(layers)],
        storage,
    )


@pytest.mark.parametrize("numbers", [torch.float32, torch.bfloat16])
def test_every_verb_of_slots_does_what_it_does_in_memory(numbers):
    memory, disk, _ = pools(numbers, 4, 3)
    generator = torch.Generator().manual_seed(1)

    def call(slots: tuple[int, ...], starts: tuple[int, ...], lengths: tuple[int, ...]) -> None:
        step = Step(slots, starts, lengths, max(lengths), torch.device("cpu"), capacity=700, deterministic=True)
        for one, other in zip(memory, disk, strict=True):
            fresh = torch.randn(2, len(slots), 2, max(lengths), 8, generator=generator)
            one.write(step, *fresh), other.write(step, *fresh)
            for rows, extent in step.extents:
                for (times, *expected), (stretch, *found) in zip(
                    one.views(step, rows, extent), other.views(step, rows, extent), strict=True
                ):
                    assert times == stretch
                    numbers_of = range(step.rows) if isinstance(rows, slice) else rows
                    for a, b in zip(expected, found, strict=True):
                        for place, row in enumerate(numbers_of):
                            end = step.starts[row] + step.lengths[row] if step.lengths[row] else 0
                            assert a.shape == b.shape and torch.equal(a[place, :, :end], b[place, :, :end])

    call((0, 1, 2), (0, 0, 0), (130, 5, 300))
    call((0, 1, 2), (130, 5, 300), (1, 1, 1))
    for each in (*memory, *disk):
        each.fork(2, 3, 290)
        assert each.rewind(0, 100) == 100
    call((0, 1, 3), (100, 6, 290), (60, 0, 3))
    for one, other in zip(memory, disk, strict=True):
        assert all(torch.equal(one.export(3)[key].to(numbers), other.export(3)[key]) for key in ("keys", "values"))
        parts = [one.export(2, 0, 64), one.export(2, 64, 200), one.export(2, 200, 301)]
        back = [other.export(2, 0, 64), other.export(2, 64, 200), other.export(2, 200, 301)]
        for number, start in enumerate((0, 64, 200)):
            one.load(1, parts[number], start), other.load(1, back[number], start)
    call((1,), (301,), (2,))


def test_a_pass_reads_every_store_once_the_next_layer_ahead_of_its_use():
    _, disk, storage = pools(torch.float32, 2, 5)
    for start in range(3):
        step = Step((0, 1), (start, start), (1, 1), 1, torch.device("cpu"), capacity=700)
        for number, pool in enumerate(disk):
            pool.write(step, *torch.randn(2, 2, 2, 1, 8))
            assert set(storage._ahead) == ({2 * number + 2, 2 * number + 3} if number < 4 else set())
    storage.do(lambda: None)
    assert storage.reads == 3 * 2 * 5


def test_four_stores_are_in_memory_however_many_there_are_and_nothing_is_left_behind(tmp_path):
    spec = Offload(keep=1, states=True, folder=tmp_path).decode(dataclasses.replace(WHOLE, model=talker(12.0, num_hidden_layers=12)))
    plain = dataclasses.replace(spec, states=None)
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    with Engine.from_spec(spec) as engine, Engine.from_spec(plain) as other:
        small, large = engine.scheduler.host.state.bytes(), other.scheduler.host.state.bytes()
        assert small == 4 * large / 24
        assert engine.generate([words(3)], max_tokens=2)[0].text == other.generate([words(3)], max_tokens=2)[0].text
        assert os.listdir(tmp_path) == []
    gc.collect()
    assert files is None or len(os.listdir("/proc/self/fd")) <= files


def test_a_disk_that_is_full_fails_the_requests_and_every_later_one():
    with Engine.from_spec(Offload(keep=1, states=True).decode(WHOLE)) as engine:
        told = pytest.raises(SteelyardError, match="keys and values cannot be written .No space left")
        with mock.patch.object(os, "pwritev", side_effect=OSError(28, "No space left on device")), told:
            engine.generate([words(5)], settings=WANTED)
        with pytest.raises(SteelyardError, match="cannot be written"):
            engine.generate([words(5)], settings=WANTED)


def test_what_cannot_go_to_disk_is_refused_by_name():
    few = KvCache(bits=4)
    with pytest.raises(UnsupportedError, match="4 bits"):
        Offload(states=True).decode(few.decode(WHOLE))
    with pytest.raises(UnsupportedError, match="float32 on disk"):
        few.decode(Offload(keep=1, states=True).decode(WHOLE))
    with pytest.raises(UnsupportedError, match="fixed size"):
        Offload(keep=1, states=True).decode(dataclasses.replace(WHOLE, model=plan_talker({"mixer": {"mamba": {}}})))


def test_numerics_and_fingerprint_tell_that_states_are_on_disk():
    spec = Offload(keep=1, states=True).decode(WHOLE)
    assert spec.numerics["cache"] == "float32 on disk" and spec.fingerprint != WHOLE.fingerprint
