"""Transformer-XL against a plain reading of its paper: segment after segment, with a memory that is handed on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import RecipeError
from steelyard.model.mixers.transformer_xl import TransformerXL, TransformerXLPlan
from steelyard.model.new import DecoderPlan
from steelyard.model.state import Dense
from steelyard.model.step import Step

CPU = torch.device("cpu")
WIDTH = 10


def made(segment: int, memory: int) -> TransformerXL:
    generator = torch.Generator().manual_seed(1)
    part = TransformerXLPlan(2, 6, segment, memory).build(WIDTH)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return part


def encoding(distance: int) -> torch.Tensor:
    half = WIDTH // 2
    angles = [distance / 10000 ** (i / half) for i in range(half)]
    return torch.tensor([*map(math.sin, angles), *map(math.cos, angles)])


def by_the_paper(part: TransformerXL, x_td: torch.Tensor) -> torch.Tensor:
    """One text: a loop over segments, queries, heads and keys; the memory is the inputs of earlier segments, detached."""
    plan, out, memory = part.plan, [], x_td[:0]
    w_q, w_k, w_v, w_r = (linear.weight.unflatten(0, (2, 6)) for linear in (part.query, part.key, part.value, part.distance))
    for start in range(0, len(x_td), plan.segment):
        segment = x_td[start : start + plan.segment]
        context = torch.cat((memory, segment))
        for place in range(len(segment)):
            heads = []
            for head in range(2):
                query = w_q[head] @ segment[place]
                scores, values = [], []
                for other in range(len(memory) + place + 1):
                    distance = len(memory) + place - other
                    content = (query + part.content_bias[head]) @ (w_k[head] @ context[other])
                    scores.append(content + (query + part.distance_bias[head]) @ (w_r[head] @ encoding(distance)))
                    values.append(w_v[head] @ context[other])
                heads.append(torch.stack(scores).div(6**0.5).softmax(0) @ torch.stack(values))
            out.append(part.output.weight @ torch.cat(heads))
        memory = torch.cat((memory, segment))[-plan.memory * plan.segment :].detach() if plan.memory else memory
    return torch.stack(out)


@settings(max_examples=12, deadline=None)
@given(time=st.integers(1, 17), segment=st.integers(1, 6), memory=st.integers(0, 2))
def test_it_is_the_paper_read_slowly_gradients_included(time, segment, memory):
    part = made(segment, memory)
    x = torch.randn(1, time, WIDTH, generator=torch.Generator().manual_seed(time), requires_grad=True)
    expected = by_the_paper(part, x[0])
    ours = part(x, Step.whole(1, time, CPU))[0]
    assert (ours - expected).abs().max() < 1e-4
    weighing = torch.randn(time, WIDTH, generator=torch.Generator().manual_seed(9))
    inputs = [x, *part.parameters()]
    theirs = torch.autograd.grad((expected * weighing).sum(), inputs, allow_unused=True)
    found = torch.autograd.grad((ours * weighing).sum(), inputs, allow_unused=True)
    for a, b in zip(found, theirs, strict=True):
        assert torch.allclose(a if a is not None else torch.zeros(1), b if b is not None else torch.zeros(1), atol=2e-4, rtol=1e-3)


def test_no_gradient_crosses_into_an_earlier_segment_though_the_token_is_heard():
    part, x = made(5, 1), torch.randn(1, 10, WIDTH, requires_grad=True)
    y = part(x, Step.whole(1, 10, CPU))
    y[0, 7].sum().backward()
    assert x.grad is not None and float(x.grad[0, :5].abs().max()) == 0 < float(x.grad[0, 5:8].abs().min())
    changed = x.detach().clone()
    changed[0, 2] += 1
    assert (part(changed, Step.whole(1, 10, CPU)) - y)[0, 7].abs().max() > 1e-3


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_text_cut_anywhere_and_remembered_is_the_text_read_whole(data):
    part, time = made(data.draw(st.integers(1, 9)), data.draw(st.integers(0, 2))), 40
    x = torch.randn(1, time, WIDTH, generator=torch.Generator().manual_seed(3))
    pool, done, heard = part.new_pool(2, 48, Dense()), 0, []
    while done < time:
        size = min(data.draw(st.integers(1, 36)), time - done)
        heard.append(part(x[:, done : done + size], Step((1,), (done,), (size,), size, CPU, capacity=48), pool))
        done += size
    assert (torch.cat(heard, 1) - part(x, Step.whole(1, time, CPU))).abs().max() < 1e-4


def test_segments_begin_anew_with_each_document_of_a_line():
    part = made(4, 1)
    parts = [torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(length)) for length in (7, 13, 2)]
    segments = torch.tensor([[0] * 7 + [1] * 13 + [2] * 2 + [-1] * 3])
    line = torch.cat((*parts, torch.zeros(1, 3, WIDTH)), 1)
    together = part(line, Step.whole(1, 25, CPU, segments=segments))[:, :22]
    alone = torch.cat([part(x, Step.whole(1, x.shape[1], CPU)) for x in parts], 1)
    assert (together - alone).abs().max() < 1e-4


def test_a_segment_longer_than_the_context_is_refused():
    with pytest.raises(RecipeError, match="longer than the context of 32"):
        DecoderPlan.model_validate({"mixer": {"transformer_xl": {"segment": 33}}, "context": 32}).check()
