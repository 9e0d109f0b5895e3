"""Stores in few bits: what a query sees depends on its position and the tokens, whatever calls, forks, moves and steps back led there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from steelyard.core.errors import SteelyardError
from steelyard.generate.states.quantized import Codes, Quantized, Scheme, decode, encode, pack, unpack
from steelyard.model.state import Dense, KeyValuePool
from steelyard.model.step import Step

CPU = torch.device("cpu")
SLOTS, HEADS, TOKENS, WIDTH = 3, 2, 90, 16
HORIZON = 10


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(bits=st.sampled_from([2, 4, 8]), groups=st.integers(1, 3), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_packing_loses_no_code_and_takes_as_many_bits_as_it_says(bits, groups, width, seed):
    codes = torch.randint(0, 2**bits, (groups, 16, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and packed.numel() * 8 == codes.numel() * bits
    assert torch.equal(unpack(packed, bits), codes)


@pytest.mark.parametrize("by", ["channel", "token"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_no_number_moves_further_than_half_a_step(bits, by):
    x = noise(3, 2, 32, 64) * noise(64, seed=1).exp()
    back = decode(encode(x, bits, by, 32), bits)
    over = -2 if by == "channel" else -1
    parts = x if by == "channel" else x.unflatten(-1, (2, 32))
    step = (parts.amax(over, keepdim=True) - parts.amin(over, keepdim=True)) / (2**bits - 1)
    off = (back - x).abs() if by == "channel" else (back - x).abs().unflatten(-1, (2, 32))
    assert bool((off <= step * 0.51 + parts.abs().amax(over, keepdim=True) * 2**-11).all())  # bounds are 16-bit floats
    assert float(off.mean()) > float(step.mean()) * 0.15  # it really is rounded


def test_a_large_channel_spoils_its_neighbours_only_where_scales_are_shared_along_tokens():
    x = noise(1, 1, 32, 64)
    x[..., 5] += 100
    others = torch.arange(64) != 5
    off = {by: float((decode(encode(x, 2, by, 32), 2) - x)[..., others].abs().mean()) for by in ("channel", "token")}
    assert off["token"] > 3 * off["channel"]


def test_equal_numbers_come_back_as_they_are():
    x = torch.full((1, 1, 8, 4), 0.3330078125)  # a 16-bit float
    assert torch.equal(decode(encode(x, 2, "channel", 4), 2), x)
    assert torch.equal(decode(encode(torch.zeros(1, 1, 8, 4), 2, "token", 4), 2), torch.zeros(1, 1, 8, 4))


@pytest.mark.parametrize("bad", [1e9, float("nan"), float("inf"), float("-inf")])
def test_numbers_that_no_scale_can_hold_are_refused(bad):
    x = noise(1, 1, 8, 4)
    x[0, 0, 3, 2] = bad
    with pytest.raises(SteelyardError, match="keys or values"):
        encode(x, 4, "channel", 4)


class Stores(RuleBasedStateMachine):
    """Any order of writing, forking, going back, moving and freeing shows every query what its position and the tokens say."""

    @initialize(
        bits=st.sampled_from([2, 4, 8]),
        window=st.sampled_from([0, 1, 7, 8, 20]),
        keys=st.sampled_from(["channel", "token"]),
        horizon=st.sampled_from([0, HORIZON, 60]),
        width=st.sampled_from([5, 8, WIDTH]),
    )
    def begin(self, bits, window, keys, horizon, width):
        self.scheme, self.keys = Scheme(bits, window, 8, horizon), keys
        storage = Quantized(self.scheme, keys, torch.float32, CPU)
        self.width = width
        self.stores = [storage.tokens(SLOTS, HEADS, TOKENS, width, role) for role in ("keys", "values")]
        self.pool = KeyValuePool(*self.stores, SLOTS)
        self.held = [torch.zeros(2, HEADS, 0, width) for _ in range(SLOTS)]  # keys and values, as they were
        self.most = [0] * SLOTS

    def seen(self, slot: int, kind: int, position: int) -> torch.Tensor:
        """What the query at a position must see: [h, position + 1, d]."""
        x = self.held[slot][kind, :, : position + 1].clone()
        rounded = max(0, position + 1 - self.scheme.window) // 8 * 8
        for start in range(0, rounded, 8):
            group, by = x[None, :, start : start + 8], self.keys if kind == 0 else "token"
            x[:, start : start + 8] = decode(encode(group, self.scheme.bits, by, self.stores[0].share), self.scheme.bits)[0]
        return x

    @rule(data=st.data(), seed=st.integers(0, 999), spare=st.integers(0, 3), alone=st.booleans())
    def write(self, data, seed, spare, alone):
        slots = sorted(data.draw(st.sets(st.integers(0, SLOTS - 1), min_size=1)))
        lengths = [data.draw(st.integers(0, max(0, min(40, TOKENS - spare - self.held[slot].shape[2])))) for slot in slots]
        time = max(1, max(lengths)) + spare
        if max(lengths) == 0 or any(self.held[slot].shape[2] + time > TOKENS for slot in slots):
            return
        starts = [self.held[slot].shape[2] if length else 0 for slot, length in zip(slots, lengths, strict=True)]
        step = Step(tuple(slots), tuple(starts), tuple(lengths), time, CPU, capacity=TOKENS)
        new = noise(2, len(slots), HEADS, time, self.width, seed=seed)
        self.pool.write(step, new[0], new[1])
        for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
            self.held[slot] = torch.cat((self.held[slot], new[:, row, :, :length]), 2)
            self.most[slot] = max(self.most[slot], self.held[slot].shape[2])
        extent = max(start + time for start in starts)
        asked = [(row,) for row in range(len(slots))] if alone else [slice(None)]
        viewed = {}
        for rows in asked:
            reached = 0
            for times, *kinds in self.pool.views(step, rows, extent):
                assert times.start == reached and all(bool(x.isfinite().all()) for x in kinds)
                reached = times.stop
                for place, row in enumerate(range(len(slots)) if isinstance(rows, slice) else rows):
                    viewed |= {(row, at): [x[place].clone() for x in kinds] for at in range(times.start, times.stop)}
            assert reached == time
        assert all(store.staged is None for store in self.stores), "a layer's floats are let go of once they are read"
        for row, (slot, start, length) in enumerate(zip(slots, starts, lengths, strict=True)):
            for at in range(length):
                for kind in (0, 1):
                    assert torch.equal(viewed[row, at][kind][:, : start + at + 1], self.seen(slot, kind, start + at))

    @rule(slot=st.integers(0, SLOTS - 1), data=st.data())
    def step_back(self, slot, data):
        length = self.held[slot].shape[2]
        position = data.draw(st.integers(0, length))
        left = self.pool.rewind(slot, position)
        assert left in (0, position)
        if position >= self.most[slot] - self.scheme.horizon:
            assert left == position
        self.held[slot] = self.held[slot][:, :, :left]
        self.most[slot] = self.most[slot] if left else 0
        assert self.pool.lengths[slot] == left

    @rule(source=st.integers(0, SLOTS - 1), goal=st.integers(0, SLOTS - 1))
    def fork(self, source, goal):
        self.pool.fork(source, goal)
        self.held[goal], self.most[goal] = self.held[source], self.most[source]

    @rule(source=st.integers(0, SLOTS - 1), goal=st.integers(0, SLOTS - 1))
    def move(self, source, goal):
        self.pool.load(goal, self.pool.export(source))
        self.held[goal], self.most[goal] = self.held[source], self.most[source]

    @rule(slot=st.integers(0, SLOTS - 1))
    def free(self, slot):
        self.pool.free(slot)
        self.held[slot], self.most[slot] = self.held[slot][:, :, :0], 0


TestStores = Stores.TestCase
# Shrinking a failure takes many minutes here.
TestStores.settings = settings(phases=(Phase.explicit, Phase.reuse, Phase.generate), max_examples=40, stateful_step_count=12, deadline=None)


def written(pool: KeyValuePool, slot: int, start: int, x_hsd: torch.Tensor) -> list[torch.Tensor]:
    """Writes tokens into a slot, as keys and as values, and gives what the last query sees of both."""
    step = Step((slot,), (start,), (x_hsd.shape[1],), x_hsd.shape[1], CPU, capacity=TOKENS)
    pool.write(step, x_hsd[None], x_hsd[None])
    for _, *kinds in pool.views(step, slice(None), start + x_hsd.shape[1]):
        last = kinds
    return [x[0].clone() for x in last]


def new_pool(horizon: int = HORIZON) -> KeyValuePool:
    storage = Quantized(Scheme(4, 12, 8, horizon), "channel", torch.float32, CPU)
    return KeyValuePool(storage.tokens(SLOTS, HEADS, TOKENS, 8, "keys"), storage.tokens(SLOTS, HEADS, TOKENS, 8, "values"), SLOTS)


@pytest.mark.parametrize("position", range(0, 81))
def test_going_back_anywhere_is_exact_or_starts_anew(position):
    x, other = noise(HEADS, 80, 8), noise(HEADS, 5, 8, seed=1)
    pool, fresh = new_pool(), new_pool()
    for start in range(0, 80, 7):
        written(pool, 1, start, x[:, start : start + 7])
    left = pool.rewind(1, position)
    assert left == (position if position >= 80 - HORIZON or left else 0)
    seen = written(pool, 1, left, torch.cat((x[:, left:position], other), 1))
    expected = written(fresh, 0, 0, torch.cat((x[:, :position], other), 1))
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


@pytest.mark.parametrize("verb", ["fork", "move"])
@pytest.mark.parametrize("length", [5, 33, 80])
def test_a_copied_slot_goes_on_goes_back_and_starts_anew_as_its_source(verb, length):
    x, other = noise(HEADS, 80, 8), noise(HEADS, 10, 8, seed=1)
    pool = new_pool()
    written(pool, 2, 0, noise(HEADS, 9, 8, seed=2))
    written(pool, 0, 0, x[:, :length])
    pool.fork(0, 2) if verb == "fork" else pool.load(2, pool.export(0))
    for position in (length, max(0, length - HORIZON), length // 2):
        left = [pool.rewind(slot, position) for slot in (0, 2)]
        assert left[0] == left[1]
        new = torch.cat((x[:, left[0] : position], other), 1)
        seen = [written(pool, slot, left[0], new) for slot in (0, 2)]
        assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    written(pool, 0, pool.lengths[0], noise(HEADS, 4, 8, seed=3))
    assert pool.lengths[2] == pool.lengths[0] - 4


@pytest.mark.parametrize(("bits", "least"), [(8, 3.2), (4, 5.4), (2, 8.0)])
def test_a_long_context_takes_a_fraction_of_the_memory(bits, least):
    """At 8,192 tokens; two scales for each 32 numbers, and the window's floats, are counted."""
    scheme = Scheme(bits, 128, 32, 64)
    stores = [Quantized(scheme, "channel", torch.float32, CPU).tokens(2, 3, 8192, 64, role) for role in ("keys", "values")]
    plain = Dense().tokens(2, 3, 8192, 64)
    for store in stores:
        held = sum(tensor.untyped_storage().nbytes() for tensor in (*store.codes, store.recent))
        assert store.bytes() == held and plain.bytes() / held > least


def test_only_what_has_been_written_is_moved():
    store = Quantized(Scheme(4, 8, 8, 8), "channel", torch.float32, CPU).tokens(2, 2, 800, 8, "keys")
    step = Step((0,), (0,), (20,), 20, CPU, capacity=800)
    store.write(step, noise(1, 2, 20, 8))
    data = store.export(0, 20)
    assert isinstance(data["codes"], Codes) and data["codes"].packed.shape[1] == 2 and store.load(1, data) == 20
