"""Requests of every kind that arrive, and are cancelled, at random turns."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from tiny_engines import Heard, generation

from steelyard.core.protocols import AnswerSettings
from steelyard.generate.scheduler import Scheduler
from steelyard.model.model import Model

CONTEXT = 300
"""More than one deterministic stretch of keys (256), so that rows differ in how far they look."""

answer_settings = st.builds(
    AnswerSettings,
    max_tokens=st.integers(1, 16),
    temperature=st.sampled_from([0.0, 0.6, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 7]),
    top_p=st.sampled_from([1.0, 0.8]),
    min_p=st.sampled_from([0.0, 0.05]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    frequency_penalty=st.sampled_from([0.0, -0.4]),
    seed=st.integers(0, 3),
    stop=st.sampled_from([(), ("a",), ("é", "zz")]),
    alternatives=st.sampled_from([0, 3]),
    token_events=st.just(True),
    ignore_eos=st.booleans(),
)
prompt_tokens = st.one_of(
    st.lists(st.integers(0, 255), min_size=1, max_size=20),
    st.builds(lambda length, first: [(first + 7 * i) % 256 for i in range(length)], st.integers(200, 299), st.integers(0, 5)),
)
arrivals = st.lists(st.tuples(prompt_tokens, answer_settings, st.integers(0, 12), st.none() | st.integers(0, 20)), min_size=2, max_size=5)


def take_turns(turns: Scheduler, model: Model, requests: list) -> list[Heard]:
    """Requests arrive, and some are cancelled, at the turns they name."""
    heard = [Heard() for _ in requests]
    made = [generation(model, prompt, wanted, ear, turns.context) for (prompt, wanted, *_), ear in zip(requests, heard, strict=True)]
    last = max(max(arrival, cancel or 0) for *_, arrival, cancel in requests)
    with torch.inference_mode():
        turn = 0
        while turns.busy or turn <= last:
            for request, (*_, arrival, cancel) in zip(made, requests, strict=True):
                if arrival == turn:
                    turns.add(request)
                if cancel == turn:
                    request.cancel()
            turns.turn()
            turn += 1
    return heard
