"""What every part of a decoder promises, whatever it is: whole = chunks = tokens, causality, documents apart, slots without traces."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from new_parts import PARTS, VOCABULARY, decoder, ids, storage

from steelyard.data.batching import Batch
from steelyard.model.state import State
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk
from steelyard.train.objectives import next_token_loss

CPU = torch.device("cpu")
CAPACITY = 96
TOLERANCE = 2e-4
every_part = pytest.mark.parametrize("name", PARTS)


def grid_of(trunk: Trunk) -> int:
    """The token multiple at which the trunk's parts may be cut."""
    return max([getattr(module, "grid", 1) for module in trunk.modules() if isinstance(getattr(module, "grid", 1), int)])


def push(trunk: Trunk, state: State, rows: dict[int, tuple[int, list[int]]]) -> dict[int, torch.Tensor]:
    """One call: slot -> (start, tokens); logits of each row's tokens."""
    time = max(len(tokens) for _, tokens in rows.values())
    table = torch.tensor([[*tokens, *[3] * (time - len(tokens))] for _, tokens in rows.values()])
    lengths = tuple(len(tokens) for _, tokens in rows.values())
    step = Step(tuple(rows), tuple(start for start, _ in rows.values()), lengths, time, CPU, capacity=CAPACITY)
    with torch.inference_mode():
        logits = trunk.logits(table, step, state)
    return {slot: logits[row, : lengths[row]] for row, slot in enumerate(rows)}


def whole(trunk: Trunk, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return trunk.logits(torch.tensor([tokens]))[0]


@every_part
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_text_read_in_pieces_and_in_company_is_the_text_read_whole(name, data):
    trunk = decoder(name)
    grid = grid_of(trunk)
    texts = {slot: ids(1, data.draw(st.integers(1, 80)), seed=slot).flatten().tolist() for slot in (2, 0)}
    state, done, heard = trunk.new_state(3, CAPACITY, storage(trunk, data.draw(st.sampled_from([0, 3])))), {2: 0, 0: 0}, {2: [], 0: []}
    while any(done[slot] < len(text) for slot, text in texts.items()):
        rows = {}
        for slot, text in texts.items():
            rest = len(text) - done[slot]
            size = data.draw(st.integers(1, -(-rest // grid))) * grid if rest else 0
            rows[slot] = (done[slot], text[done[slot] : done[slot] + size])
        rows = {slot: row for slot, row in rows.items() if row[1]}
        for slot, logits in push(trunk, state, rows).items():
            heard[slot].append(logits)
            done[slot] += len(logits)
    for slot, text in texts.items():
        assert (torch.cat(heard[slot]) - whole(trunk, text)).abs().max() < TOLERANCE


@every_part
def test_token_by_token_is_the_whole_text(name):
    trunk, text = decoder(name), ids(1, 70).flatten().tolist()
    grid = grid_of(trunk)
    state = trunk.new_state(1, CAPACITY, storage(trunk))
    heard = [push(trunk, state, {0: (at, text[at : at + grid])})[0] for at in range(0, len(text), grid)]
    assert (torch.cat(heard) - whole(trunk, text)).abs().max() < TOLERANCE


@every_part
def test_no_token_knows_a_later_one(name):
    trunk, text = decoder(name), ids(1, 48)
    changed = text.clone()
    changed[0, 30] = (changed[0, 30] + 1) % VOCABULARY
    with torch.inference_mode():
        before, after = trunk.logits(text), trunk.logits(changed)
    assert (before - after)[0, :30].abs().max() < 1e-5
    assert (before - after)[0, 30].abs().max() > 1e-3


@every_part
def test_documents_on_one_line_do_not_know_each_other(name):
    trunk = decoder(name)
    if getattr(trunk, "documents_apart", True) is False:
        pytest.skip("this part refuses lines of several documents")
    first, second, third = ids(1, 21, 1), ids(1, 70, 2), ids(1, 1, 3)
    segments = torch.cat([torch.full((1, len(part[0])), number) for number, part in enumerate((first, second, third))], 1)
    with torch.inference_mode():
        together = trunk.training_logits(torch.cat((first, second, third), 1), segments)[0]
        alone = torch.cat([trunk.logits(part)[0] for part in (first, second, third)])
    assert (together - alone).abs().max() < TOLERANCE


@every_part
@pytest.mark.parametrize("back", [1, 3])
def test_a_slot_that_goes_back_and_on_never_was_further(name, back):
    trunk, text, other = decoder(name), ids(1, 40).flatten().tolist(), ids(1, 40, 9).flatten().tolist()
    if grid_of(trunk) > 1:
        pytest.skip("goes back to its grid only")
    state = trunk.new_state(2, CAPACITY, storage(trunk, 3))
    push(trunk, state, {1: (0, text[:30])})
    push(trunk, state, {1: (30, text[30:34])})
    at = state.rewind(1, 34 - back)
    assert at == 34 - back
    heard = push(trunk, state, {1: (at, other[at:])})[1]
    assert (heard - whole(trunk, text[:at] + other[at:])[at:]).abs().max() < TOLERANCE


@every_part
def test_a_slot_goes_far_back_to_where_it_can_and_says_where(name):
    trunk, text = decoder(name), ids(1, 60).flatten().tolist()
    state = trunk.new_state(2, CAPACITY, storage(trunk))
    push(trunk, state, {0: (0, text)})
    at = state.rewind(0, 33)
    assert 0 <= at <= 33
    heard = push(trunk, state, {0: (at, text[at:])})[0]
    assert (heard - whole(trunk, text)[at:]).abs().max() < TOLERANCE


@every_part
def test_a_fork_goes_on_without_a_trace_in_what_it_came_from(name):
    trunk, text, other = decoder(name), ids(1, 40).flatten().tolist(), ids(1, 48, 5).flatten().tolist()
    grid = grid_of(trunk)
    state, cut = trunk.new_state(3, CAPACITY, storage(trunk)), 24 // grid * grid
    push(trunk, state, {0: (0, text[:cut])})
    state.fork(0, 2)
    forked = push(trunk, state, {2: (cut, other[cut:])})[2]
    kept = push(trunk, state, {0: (cut, text[cut:])})[0]
    state.free(2)
    assert (forked - whole(trunk, text[:cut] + other[cut:])[cut:]).abs().max() < TOLERANCE
    assert (kept - whole(trunk, text)[cut:]).abs().max() < TOLERANCE


@every_part
def test_what_was_exported_goes_on_elsewhere(name):
    trunk, text = decoder(name), ids(1, 60).flatten().tolist()
    grid = grid_of(trunk)
    state, cut = trunk.new_state(3, CAPACITY, storage(trunk)), 32 // grid * grid
    push(trunk, state, {0: (0, text[:cut])})
    state.load(1, state.export(0))
    assert (push(trunk, state, {1: (cut, text[cut:])})[1] - whole(trunk, text)[cut:]).abs().max() < TOLERANCE


@every_part
def test_every_weight_learns(name):
    trunk = decoder(name).train().requires_grad_(True)
    text = ids(2, 40)
    batch = Batch(text[:, :-1].numpy(), text[:, 1:].numpy(), None, ("", ""), text[:, 1:].numel())
    next_token_loss(trunk)(batch)[0].backward()
    silent = [key for key, parameter in trunk.named_parameters() if parameter.grad is None or not bool(parameter.grad.abs().sum() > 0)]
    assert not silent
