"""Decoding steps over tensors of fixed address: what the trunk computes, whatever comes and goes between two of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_tapes import on_tape
from tiny_llama import tiny_llama
from torch import Tensor

from steelyard.kernels import gpu
from steelyard.model.depth.stacked import Block
from steelyard.model.families.config import Config
from steelyard.model.families.family import find
from steelyard.model.graphed import GraphedTrunk, Shape, lack
from steelyard.model.linears.float8 import Float8Storage
from steelyard.model.linears.int4 import Int4Storage
from steelyard.model.linears.int8 import Int8Storage
from steelyard.model.linears.joined import join
from steelyard.model.linears.linear import Linear
from steelyard.model.state import Dense, State
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk

SLOTS, TOKENS, VOCABULARY = 5, 300, 60
CPU = torch.device("cpu")
GROUPED = {"vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6}
GROUPED |= {"num_key_value_heads": 2, "max_position_embeddings": TOKENS, "head_dim": 8}
LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.5], "long_factor": [1.0, 2.0, 4.0, 8.0]}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED,
    "gemma2": GROUPED | {"sliding_window": 4, "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": GROUPED | {"rope_scaling": LONGROPE, "original_max_position_embeddings": 20, "pad_token_id": 0},
    "gpt_neox": {key: value for key, value in GROUPED.items() if key != "num_key_value_heads"},
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": 48, "n_layer": 2, "n_head": 6, "n_positions": TOKENS},
}


def random_trunk(kind: str, seed: int = 0) -> Trunk:
    torch.manual_seed(seed)
    trunk = find(kind, "here").plan(Config(FAMILIES[kind])).build().eval()
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if parameter.dim() == 1 else 0.0, std=0.15)
    return trunk


def memory(trunk: Trunk) -> State:
    return trunk.new_state(SLOTS, TOKENS, Dense(device=trunk.device))


FEW_BITS: dict[str, Any] = {"int8": Int8Storage, "int4": Int4Storage, "float8": Float8Storage}


class Both:
    """The same texts in two memories, one of which only the trunk writes and reads."""

    def __init__(self, trunk: Trunk, record: Callable[[Callable[[], Tensor]], Callable[[], Tensor]], tolerance: float = 1e-4):
        self.tolerance = tolerance
        self.trunk, self.plain, self.state = trunk, memory(trunk), memory(trunk)
        assert lack(trunk, self.state) is None
        self.graphed = GraphedTrunk(trunk, self.state, record)
        self.lengths = [0] * SLOTS
        self.draw = torch.Generator().manual_seed(7)

    @torch.inference_mode()
    def read(self, slots: list[int], counts: list[int]) -> None:
        """Some tokens of each slot, in one call; decoding steps go by recordings where they are, and are compared."""
        time = max(counts)
        ids = torch.randint(0, VOCABULARY, (len(slots), time), generator=self.draw)
        step = Step(tuple(slots), tuple(self.lengths[slot] for slot in slots), tuple(counts), time, self.trunk.device, capacity=TOKENS)
        theirs = ids.to(self.trunk.device)
        expected = self.trunk(theirs, step, self.plain)
        got = self.graphed(ids, step) if self.graphed.supports(step) else self.trunk(theirs, step, self.state)
        for row, count in enumerate(counts):
            assert self.near(got[row, :count], expected[row, :count])
        for slot, count in zip(slots, counts, strict=True):
            self.lengths[slot] += count
        for name in self.state:
            assert self.state[name].lengths == self.plain[name].lengths
        for mine, plain in zip(self.graphed.pools, (self.plain[name] for name in self.state), strict=True):
            for slot, length in enumerate(self.lengths):  # nothing that a slot holds was touched
                for ours, other in ((mine.keys, plain.keys), (mine.values, plain.values)):
                    assert self.near(ours.data[slot, :, :length], other.data[slot, :, :length])  # type: ignore[attr-defined]

    def near(self, one: Tensor, other: Tensor) -> bool:
        return torch.allclose(one, other, atol=self.tolerance, rtol=1e-4)

    def rewind(self, slot: int, position: int) -> None:
        self.lengths[slot] = min(self.lengths[slot], position)
        for state in (self.plain, self.state):
            state.rewind(slot, self.lengths[slot])

    def fork(self, source: int, target: int) -> None:
        self.lengths[target] = self.lengths[source]
        for state in (self.plain, self.state):
            state.fork(source, target)


@pytest.mark.parametrize("record", [gpu.recorder(CPU), on_tape], ids=["itself", "on tape"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_decoding_step_is_the_trunks_own_in_every_family(kind, record):
    both = Both(random_trunk(kind), record)
    both.read([0, 2, 3], [5, 30, 1])
    for _ in range(3):
        both.read([0, 2, 3], [1, 1, 1])
    both.read([2], [1])
    both.read([1, 2], [0, 1])
    assert {shape.extent for shape in both.graphed._recordings} == {256}


actions = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.sets(st.integers(0, SLOTS - 1), min_size=1), st.sampled_from([1, 1, 1, 1, 3, 90])),
        st.tuples(st.just("rewind"), st.integers(0, SLOTS - 1), st.integers(0, 120)),
        st.tuples(st.just("fork"), st.integers(0, SLOTS - 1), st.integers(0, SLOTS - 1)),
    ),
    min_size=3,
    max_size=14,
)
TRUNK = random_trunk("llama")


@settings(max_examples=15, deadline=None)
@given(actions)
def test_whatever_comes_and_goes_a_recording_says_what_the_trunk_says(chosen):
    both = Both(TRUNK, on_tape)
    for kind, first, second in chosen:
        if kind == "rewind":
            both.rewind(first, second)
        elif kind == "fork" and first != second:
            both.fork(first, second)
        elif kind == "read" and (slots := sorted(slot for slot in first if both.lengths[slot] + second <= TOKENS)):
            both.read(slots, [second] * len(slots))


def test_few_recordings_serve_many_steps_and_a_longer_text_gets_its_own():
    both = Both(TRUNK, on_tape)
    both.read([1, 2], [250, 3])
    for _ in range(12):
        both.read([1, 2], [1, 1])
    assert list(both.graphed._recordings) == [Shape(0, 4, 256), Shape(0, 4, TOKENS)]
    both.read([4], [1])
    both.read([2], [1])
    assert list(both.graphed._recordings)[2:] == [Shape(4, 1, 256), Shape(2, 1, 256)]
    both.read([0, 4], [1, 1])
    assert Shape(0, SLOTS, 256) in both.graphed._recordings


def test_a_cache_that_has_moved_is_recorded_anew():
    both = Both(TRUNK, on_tape)
    both.read([0, 1], [4, 4])
    both.read([0, 1], [1, 1])
    for pool in both.graphed.pools:
        old = pool.keys.data  # type: ignore[attr-defined]
        pool.keys.data = old.clone()  # type: ignore[attr-defined]
        old.fill_(torch.nan)
    before = both.graphed._recordings[Shape(0, 2, 256)]
    both.read([0, 1], [1, 1])
    assert both.graphed._recordings[Shape(0, 2, 256)] is not before


def test_only_so_many_recordings_are_kept():
    both = Both(TRUNK, on_tape)
    both.graphed.most = 2
    for slot in (0, 1, 2, 0, 1):
        both.read([slot], [1])
    assert list(both.graphed._recordings) == [Shape(0, 1, 256), Shape(1, 1, 256)]


@pytest.mark.parametrize("kind", ["int8", "int4", "float8", "joined"])
def test_weights_in_few_bits_are_multiplied_without_the_host(kind):
    trunk = tiny_llama(hidden_size=64, intermediate_size=96, max_position_embeddings=TOKENS).requires_grad_(False)
    for linear in [module for module in trunk.blocks.modules() if isinstance(module, Linear)]:
        if kind in FEW_BITS:
            linear.storage = FEW_BITS[kind].from_dense(linear.weight)
    for part in trunk.blocks.modules() if kind == "joined" else ():
        for group in getattr(part, "same_input", ()):
            join([getattr(part, name) for name in group], lambda storage: storage)
    both = Both(trunk, on_tape, tolerance=0.05)  # a last bit may turn what an activation is rounded to
    both.read([0, 1], [3, 1])
    both.read([0, 1], [1, 1])
    both.read([0, 1], [1, 1])


def test_a_computation_that_asks_the_host_is_caught():
    trunk = tiny_llama(max_position_embeddings=TOKENS)

    class Asking(Block):
        def forward(self, x, step, state):
            return super().forward(x * (1.0 if float(x.sum()) > 0 else 0.5), step, state)

    trunk.blocks[0].__class__ = Asking
    with pytest.raises(AssertionError, match="asked of the host"):
        Both(trunk, on_tape).read([0], [1])


def test_what_is_no_plain_decoding_step_is_left_to_the_trunk():
    supports = Both(TRUNK, on_tape).graphed.supports
    plain: dict[str, Any] = {"slots": (0,), "starts": (3,), "lengths": (1,), "time": 1, "device": CPU, "capacity": TOKENS}
    assert supports(Step(**plain))
    others = [{"lengths": (2,), "time": 2}, {"deterministic": True}, {"readable": True}, {"adapters": (0,)}, {"slots": ()}]
    others += [{"starts": (TOKENS,)}, {"side": {"images": 1}}, {"lengths": (0,)}]
    assert not [other for other in others if supports(Step(**plain | other))]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU: `pytest tests/model/test_graphed.py` where one is")
@pytest.mark.parametrize("kind", FAMILIES)
def test_cuda_graphs_replay_what_the_trunk_computes(kind):
    device = torch.device("cuda")
    trunk = random_trunk(kind).to(device)
    both = Both(trunk, gpu.recorder(device))
    both.read([0, 2, 3], [250, 30, 1])
    for _ in range(12):
        both.read([0, 2, 3], [1, 1, 1])
    both.rewind(2, 17)
    both.fork(0, 4)
    for slots in ([2], [2, 4], [0, 1, 2, 3, 4], [2]):
        both.read(slots, [1] * len(slots))
    for pool in both.graphed.pools:
        pool.keys.data = pool.keys.data.clone()  # type: ignore[attr-defined]
    both.read([2], [1])
    both.read([2], [1])
