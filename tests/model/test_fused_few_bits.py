"""Whole steps in C++ over a cache in few bits: what PyTorch's path says and keeps, and a text may go from one to the other at any call."""

from __future__ import annotations

import random

import pytest
import torch
from random_models import VOCABULARY
from test_fused import CACHED, CAPACITY, FAMILIES, HERE, LLAMA, OF_EACH_KIND, steps, trunk_of, twin

from steelyard.core.errors import SteelyardError
from steelyard.generate.states.quantized import Quantized, QuantizedStore, Scheme, encode
from steelyard.kernels import native
from steelyard.model.fused import FusedTrunk, fused
from steelyard.model.linears.native import go_native
from steelyard.model.state import Dense, State
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk

pytestmark = pytest.mark.skipif(not HERE, reason=native.absence() or "no C++ routines")

CPU = torch.device("cpu")


def kept(bits: int = 4, window: int = 20, group: int = 8, horizon: int = 24, keys="channel", dtype=torch.float32) -> Quantized:
    return Quantized(Scheme(bits, window, group, horizon), keys, dtype, CPU)


def random_case(number: int) -> tuple[str, Quantized]:
    """A family and a way of keeping its cache."""
    dice = random.Random(number)
    window = dice.choice([0, 1, 7, 16, 40, 128])
    scheme = Scheme(dice.choice([2, 4, 8]), window, dice.choice([8, 16, 32, 64, 128]), dice.choice([0, 5, 24, 64]))
    return CACHED[number % len(CACHED)], Quantized(scheme, dice.choice(["channel", "token"]), torch.float32, CPU)


def stores(state: State) -> list[QuantizedStore]:
    return [store for pool in state.pools.values() for store in (pool.keys, pool.values)]  # type: ignore[attr-defined]


def noted(state: State) -> tuple:
    """What is known of each slot besides its numbers."""
    return [pool.lengths for pool in state.pools.values()], [store.since for store in stores(state)]  # type: ignore[attr-defined]


def rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


class Watched:
    """Holds every group that a call of the routines rounded to what Python makes of the same floats."""

    def __init__(self, fast: FusedTrunk):
        self.fast, self.groups = fast, 0

    def __call__(self, ids_bt, step: Step, state: State) -> torch.Tensor:
        hidden = self.fast(ids_bt, step, state)
        for slot, start, length in zip(step.slots, step.starts, step.lengths, strict=True):
            for store in stores(state) if length else []:
                self.check(store, slot, start, start + length)
        return hidden

    def check(self, store: QuantizedStore, slot: int, start: int, end: int) -> None:
        scheme = store.scheme
        for first in range(scheme.rounded(start), scheme.rounded(end), scheme.group):
            if first < end - scheme.kept:
                continue  # a long piece: its floats are gone
            places = [token % scheme.kept for token in range(first, first + scheme.group)]
            expected = encode(store.recent[slot, places].transpose(0, 1), scheme.bits, store.by, store.share)
            for mine, theirs in zip(store.codes, expected, strict=True):
                assert torch.equal(mine[slot, :, first // scheme.group], theirs)
            self.groups += 1


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("number", range(4))
def test_hidden_states_are_pytorchs_and_codes_are_bit_by_bit_what_python_makes_of_the_same_floats(tmp_path, number, name):
    family, storage = random_case(number := 4 * HERE.index(name) + number)  # each set of routines has cases of its own
    trunk = trunk_of(*FAMILIES[family], tmp_path)
    _, fast = twin(trunk, name=name, storage=storage)
    own, wide, watched = trunk.new_state(4, CAPACITY, storage), trunk.new_state(4, CAPACITY, Dense()), Watched(fast)
    ours, theirs, plain = (
        torch.cat(steps(trunk, run, state, number)) for run, state in ((watched, fast.state), (trunk, own), (trunk, wide))
    )
    # A number that lies half-way between two codes may fall to either side, as sums differ in their last bits.
    rounding = rms(theirs - plain)
    assert rms(ours - theirs) < 0.1 * rounding and float((ours - theirs).abs().median()) < 1e-3 * rms(plain)
    assert rounding > 1e-5 * rms(plain) and watched.groups > 0
    assert noted(fast.state) == noted(own)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("family", OF_EACH_KIND[1:3])
@pytest.mark.parametrize("scheme", [Scheme(4, 20, 8, 24), Scheme(2, 0, 32, 7)], ids=["window", "none"])
def test_a_token_has_the_same_bits_whatever_stands_beside_it_however_a_text_is_cut_and_whatever_was_there_before(
    tmp_path, name, family, scheme
):
    trunk, storage = trunk_of(*FAMILIES[family], tmp_path), Quantized(scheme, "channel", torch.float32, CPU)
    _, fast = twin(trunk, name=name, storage=storage)
    _, single = twin(trunk, name=name, threads=1, storage=storage)
    for store in stores(fast.state):
        store.recent.fill_(float("nan"))
        for part in store.codes:
            part.fill_(255)
    ids = torch.randint(1, VOCABULARY, (3, 200), generator=torch.Generator().manual_seed(4))

    def run(through, slots, starts, lengths, part):
        with torch.inference_mode():
            return through(part, Step(slots, starts, lengths, part.shape[1], CPU, capacity=CAPACITY), through.state)

    together = run(fast, (0, 1, 2), (0, 0, 0), (200, 90, 7), ids)
    for row, length in enumerate((200, 90, 7)):
        pieces, start = [], 0
        for size in (1, 3, 90, 2, 1, 40, 63):
            if part := ids[row, start : min(start + size, length)].tolist():
                pieces.append(run(single, (3,), (start,), (len(part),), torch.tensor([part]))[0])
                start += len(part)
        assert torch.equal(torch.cat(pieces), together[row, :length])


class Alternating:
    """One call through the routines, the next through PyTorch, over the same memory."""

    def __init__(self, fast: FusedTrunk, trunk: Trunk):
        self.ways, self.calls = (fast, trunk), 0

    def __call__(self, ids_bt, step: Step, state: State) -> torch.Tensor:
        self.calls += 1
        return self.ways[self.calls % 2](ids_bt, step, state)


@pytest.mark.parametrize("bits", [2, 8])
def test_calls_of_a_text_may_go_either_way_over_one_memory(tmp_path, bits):
    trunk, storage = trunk_of(*LLAMA, tmp_path), kept(bits)
    _, fast = twin(trunk, storage=storage)
    own, wide = trunk.new_state(4, CAPACITY, storage), trunk.new_state(4, CAPACITY, Dense())
    mixed = torch.cat(steps(trunk, Alternating(fast, trunk), fast.state, 3))
    theirs, plain = (torch.cat(steps(trunk, trunk, state, 3)) for state in (own, wide))
    assert rms(mixed - theirs) < 0.1 * rms(theirs - plain)
    assert noted(fast.state) == noted(own)


@pytest.mark.parametrize("back", [1, 9, 24])
@pytest.mark.parametrize("verb", ["rewind", "fork", "move"])
def test_a_text_that_goes_back_or_is_copied_goes_on_as_if_it_had_never_been_further(tmp_path, back, verb):
    _, fast = twin(trunk_of(*LLAMA, tmp_path), storage=kept())
    ids = torch.randint(1, VOCABULARY, (2, 150), generator=torch.Generator().manual_seed(5))

    def run(slot, start, tokens):
        with torch.inference_mode():
            return fast(tokens[None], Step((slot,), (start,), (len(tokens),), len(tokens), CPU, capacity=CAPACITY), fast.state)[0]

    run(0, 0, ids[0, :120])
    slot = 0 if verb == "rewind" else 2
    if verb == "fork":
        fast.state.fork(0, 2)
    elif verb == "move":
        fast.state.load(2, fast.state.export(0))
    position = 120 - back
    assert fast.state.rewind(slot, position) == position
    on = torch.cat([run(slot, position, ids[1, :1]), run(slot, position + 1, ids[1, 1:60])])
    fresh = run(1, 0, torch.cat((ids[0, :position], ids[1, :60])))
    assert torch.equal(on, fresh[position:])


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("keys", ["channel", "token"])
@pytest.mark.parametrize("factor", [1e9, float("nan")])
def test_numbers_that_few_bits_cannot_hold_are_refused_by_both_ways(tmp_path, factor, keys, name):
    trunk, storage = trunk_of(*LLAMA, tmp_path), kept(keys=keys)
    trunk.blocks[1].mixer.key.weight.mul_(factor)  # type: ignore[union-attr]
    _, fast = twin(trunk, name=name, storage=storage)
    ids = torch.randint(1, VOCABULARY, (1, 60), generator=torch.Generator().manual_seed(6))
    said = []
    for run, state in ((fast, fast.state), (trunk, trunk.new_state(4, CAPACITY, storage))):
        with pytest.raises(SteelyardError, match="answer without `kv_cache`") as refused, torch.inference_mode():
            run(ids, Step((0,), (0,), (60,), 60, CPU, capacity=CAPACITY), state)
        said.append(str(refused.value))
    assert all("keys or values from" in text for text in said) and ("nan" in said[0]) == (factor != factor)


@pytest.mark.parametrize("storage", [kept(group=48), kept(dtype=torch.bfloat16)], ids=["a group that divides no stretch", "narrow floats"])
def test_what_the_routines_cannot_read_is_left_to_pytorch(tmp_path, storage):
    trunk = trunk_of(*LLAMA, tmp_path).with_weights(torch.float32)
    go_native(trunk, native.Pool(native.routines_for(HERE[0]), 1))  # type: ignore[arg-type]
    assert fused(trunk, trunk.new_state(4, CAPACITY, storage)) is None
