"""The LSTM is PyTorch's, layer for layer; its kernel and its equation agree on any line."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from new_parts import decoder, ids
from torch import nn

from steelyard.model.linears.linear import Linear
from steelyard.model.linears.lora import LowRank
from steelyard.model.mixers.lstm import Lstm, LstmPlan
from steelyard.model.step import Step

CPU = torch.device("cpu")


def made(width: int = 6, hidden: int = 9, seed: int = 0) -> Lstm:
    torch.manual_seed(seed)
    lstm = LstmPlan(hidden).build(width)
    lstm.reset(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        lstm.output.weight.normal_()
        lstm.input.storage.bias.normal_()  # type: ignore[union-attr]
    return lstm


def theirs(layers: list[Lstm]) -> nn.LSTM:
    """PyTorch's module with the same weights. Its layers feed each other directly, so ours must be given outputs that are the identity."""
    first = layers[0]
    module = nn.LSTM(first.input.inputs, first.plan.hidden, len(layers), batch_first=True)
    with torch.no_grad():
        for number, layer in enumerate(layers):
            getattr(module, f"weight_ih_l{number}").copy_(layer.input.weight)
            getattr(module, f"weight_hh_l{number}").copy_(layer.recurrent.weight)
            getattr(module, f"bias_ih_l{number}").copy_(layer.input.bias)
            getattr(module, f"bias_hh_l{number}").zero_()
    return module


@settings(max_examples=10, deadline=None)
@given(layers=st.integers(1, 3), hidden=st.integers(1, 12), time=st.integers(1, 20), rows=st.integers(1, 3))
def test_layers_on_one_another_are_torchs_lstm(layers, hidden, time, rows):
    stack = [made(hidden, hidden, seed) for seed in range(layers)]
    for layer in stack:
        nn.init.eye_(layer.output.weight)
    x = torch.randn(rows, time, hidden)
    ours, step = x, Step.whole(rows, time, CPU)
    for layer in stack:
        ours = layer(ours, step)
    assert (ours - theirs(stack)(x)[0]).abs().max() < 1e-5


def test_gradients_are_torchs():
    lstm, x = made(7, 7), torch.randn(2, 11, 7)
    nn.init.eye_(lstm.output.weight)
    other = theirs([lstm])
    lstm(x, Step.whole(2, 11, CPU)).square().sum().backward()
    other(x)[0].square().sum().backward()
    pairs = [(lstm.input.weight.grad, other.weight_ih_l0.grad), (lstm.recurrent.weight.grad, other.weight_hh_l0.grad)]
    for ours, expected in [*pairs, (lstm.input.bias.grad, other.bias_ih_l0.grad)]:  # type: ignore[union-attr]
        assert (ours - expected).abs().max() < 1e-4


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_kernel_and_equation_agree_on_lines_of_any_documents_and_padding(data):
    lstm, rows = made(), data.draw(st.integers(1, 3))
    lines = [data.draw(st.lists(st.integers(1, 9), min_size=0, max_size=4)) for _ in range(rows)]
    time = max(2, *(sum(line) for line in lines))
    segments = torch.full((rows, time), -1)
    for row, line in enumerate(lines):
        start = 0
        for number, length in enumerate(line):
            segments[row, start : start + length] = number
            start += length
    x = torch.randn(rows, time, 6)
    step = Step.whole(rows, time, CPU, segments=segments)
    before = {"hidden": torch.randn(rows, 9), "cell": torch.randn(rows, 9)}
    fast, fast_after = lstm.run(x, step, before)
    slow, slow_after = lstm.run(x, step.changed(readable=True), before)
    real = segments >= 0
    assert (fast - slow)[real].abs().sum() < 1e-4
    for name in before:
        assert torch.allclose(fast_after[name], slow_after[name], atol=1e-5)


def test_texts_do_not_wait_for_a_python_loop_while_training(monkeypatch):
    lstm = made()
    monkeypatch.setattr(lstm, "_one_by_one", lambda *given: pytest.fail("the text was gone through token by token"))
    lstm(torch.randn(2, 30, 6), Step.whole(2, 30, CPU)).sum().backward()
    segments = torch.arange(30)[None].expand(2, -1) // 7
    lstm(torch.randn(2, 30, 6), Step.whole(2, 30, CPU, segments=segments)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in lstm.parameters())


def test_an_adapter_on_the_recurrent_map_is_heard():
    lstm, x, step = made(), torch.randn(1, 12, 6), Step.whole(1, 12, CPU)
    before = lstm(x, step)
    branch = LowRank(9, 36, 2, 4.0)
    for parameter in branch.parameters():
        nn.init.normal_(parameter)
    lstm.recurrent.branches["adapter"] = branch
    assert (lstm(x, step) - before).abs().max() > 1e-3
    assert isinstance(lstm.recurrent, Linear)


def test_a_new_lstm_begins_with_open_forget_gates_and_turns_that_keep_lengths():
    trunk = decoder("lstm")
    lstm = trunk.blocks[0].mixer
    hidden = lstm.plan.hidden
    assert torch.equal(lstm.input.bias[hidden : 2 * hidden], torch.ones(hidden))
    for part in lstm.recurrent.weight.chunk(4):
        assert torch.allclose(part @ part.T, torch.eye(hidden), atol=1e-5)


def test_memory_is_as_large_after_ten_tokens_as_after_a_thousand():
    from steelyard.model.cost import state_bytes

    trunk = decoder("lstm")
    assert state_bytes(trunk, 10) == state_bytes(trunk, 1000) == 2 * 2 * 24 * 4
    assert trunk.logits(ids(1, 5)).shape == (1, 5, 61)
