"""What a model remembers between calls: slots that are written, forked, rewound and moved without a trace on any other."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tiny_talker import tiny_talker

from steelyard.model.state import Dense, Role, State
from steelyard.model.step import Step

CPU = torch.device("cpu")
SLOTS, TOKENS, VOCABULARY = 5, 48, 260
TALKER = tiny_talker(num_key_value_heads=2)


def new_state(storage: Dense | None = None) -> State:
    return TALKER.trunk.new_state(SLOTS, TOKENS, storage or Dense())


def push(state: State, rows: dict[int, list[int]], starts: dict[int, int], deterministic: bool = False) -> dict[int, torch.Tensor]:
    """One call with rows of any length in any slots; the last logits of each row."""
    slots = tuple(rows)
    time = max(len(tokens) for tokens in rows.values())
    ids = torch.tensor([[*tokens, *[7] * (time - len(tokens))] for tokens in rows.values()])
    lengths = tuple(len(tokens) for tokens in rows.values())
    step = Step(slots, tuple(starts[slot] for slot in slots), lengths, time, CPU, capacity=TOKENS, deterministic=deterministic)
    with torch.inference_mode():
        logits = TALKER.trunk.logits(ids, step, state)
    return {slot: logits[row, lengths[row] - 1] for row, slot in enumerate(slots)}


def whole(tokens: list[int]) -> torch.Tensor:
    return TALKER.logits([tokens])[0, -1]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() < 1e-4)


def tokens(count: int, seed: int = 0) -> list[int]:
    return torch.randint(0, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


class Slots(RuleBasedStateMachine):
    """Any order of writing, forking, rewinding, moving and freeing gives what whole texts give."""

    @initialize(deterministic=st.booleans())
    def begin(self, deterministic: bool) -> None:
        self.state, self.deterministic = new_state(), deterministic
        self.held: dict[int, list[int]] = {slot: [] for slot in range(SLOTS)}

    @rule(data=st.data(), seed=st.integers(0, 99))
    def write(self, data: st.DataObject, seed: int) -> None:
        slots = data.draw(st.lists(st.integers(0, SLOTS - 1), min_size=1, max_size=SLOTS, unique=True))
        rows = {}
        for slot in slots:
            room = TOKENS - len(self.held[slot])
            if room:
                rows[slot] = tokens(data.draw(st.integers(1, min(9, room))), seed + slot)
        # Padding is written nowhere, but the call's padded end must fit into the slot.
        longest = max((len(row) for row in rows.values()), default=0)
        rows = {slot: row for slot, row in rows.items() if len(self.held[slot]) + longest <= TOKENS}
        if not rows:
            return
        last = push(self.state, rows, {slot: len(self.held[slot]) for slot in rows}, self.deterministic)
        for slot, row in rows.items():
            self.held[slot] = self.held[slot] + row
            assert close(last[slot], whole(self.held[slot]))

    @rule(source=st.integers(0, SLOTS - 1), goal=st.integers(0, SLOTS - 1))
    def fork(self, source: int, goal: int) -> None:
        self.state.fork(source, goal)
        self.held[goal] = list(self.held[source])

    @rule(slot=st.integers(0, SLOTS - 1), data=st.data())
    def rewind(self, slot: int, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.held[slot])))
        self.state.rewind(slot, position)
        self.held[slot] = self.held[slot][:position]

    @rule(slot=st.integers(0, SLOTS - 1))
    def free(self, slot: int) -> None:
        self.state.free(slot)
        self.held[slot] = []

    @rule(source=st.integers(0, SLOTS - 1), goal=st.integers(0, SLOTS - 1))
    def move(self, source: int, goal: int) -> None:
        self.state.load(goal, self.state.export(source))
        self.held[goal] = list(self.held[source])

    @invariant()
    def lengths_are_known(self) -> None:
        if hasattr(self, "held"):
            for name in self.state:
                assert self.state[name].lengths == [len(self.held[slot]) for slot in range(SLOTS)]


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)


def test_a_row_without_tokens_changes_no_slot() -> None:
    state = new_state()
    text = tokens(9)
    push(state, {0: text, 1: text}, {0: 0, 1: 0})
    before = state.export(1)
    step = Step((0, 1), (9, 9), (1, 0), 1, CPU, capacity=TOKENS)
    with torch.inference_mode():
        logits = TALKER.trunk.logits(torch.tensor([[3], [0]]), step, state)
    assert close(logits[0, -1], whole([*text, 3]))
    assert all(torch.equal(before[part][key], state.export(1)[part][key]) for part in before for key in before[part])


def test_what_a_slot_held_before_does_not_show() -> None:
    state = new_state()
    push(state, {2: tokens(40, seed=1)}, {2: 0})
    state.free(2)
    text = tokens(5, seed=2)
    assert close(push(state, {2: text}, {2: 0})[2], whole(text))


def test_an_exported_slot_is_a_copy() -> None:
    state = new_state()
    text = tokens(6)
    push(state, {0: text}, {0: 0})
    kept = state.export(0)
    push(state, {0: tokens(6, seed=3)}, {0: 0})
    state.load(3, kept)
    assert close(push(state, {3: [9]}, {3: 6})[3], whole([*text, 9]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrower_memory_is_half_as_large_and_nearly_as_good(dtype: torch.dtype) -> None:
    state, wide = new_state(Dense(dtype)), new_state()
    assert state.bytes() * 2 == wide.bytes() == 2 * 2 * SLOTS * 2 * TOKENS * 8 * 4  # keys, values; blocks; heads; tokens; width; bytes
    text = tokens(20)
    push(state, {1: text[:19]}, {1: 0})
    assert (push(state, {1: text[19:]}, {1: 19})[1] - whole(text)).abs().max() < 0.05


@dataclass
class Recording:
    """A storage that says what was asked of it."""

    asked: list[tuple] = field(default_factory=list)

    def tokens(self, slots: int, heads: int, tokens: int, width: int, role: Role):
        self.asked.append((slots, heads, tokens, width, role))
        return Dense().tokens(slots, heads, tokens, width, role)


def test_every_part_with_memory_asks_the_storage_for_its_own() -> None:
    storage = Recording()
    state = TALKER.trunk.new_state(SLOTS, TOKENS, storage)
    assert (
        sorted(state) == ["blocks.0.mixer", "blocks.1.mixer"]
        and storage.asked == [(SLOTS, 2, TOKENS, 8, role) for role in ("keys", "values")] * 2
    )
