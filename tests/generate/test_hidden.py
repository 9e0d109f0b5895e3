"""Hidden states that an engine reads."""

from __future__ import annotations

import pytest
import torch
from tiny_talker import tiny_talker

from steelyard.core.errors import ContextLengthError
from steelyard.generate.engine import Engine
from steelyard.model.step import Step


def plain(model, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.trunk(torch.tensor([ids]), Step.whole(1, len(ids), model.trunk.device))[0, -1]


def test_the_state_is_what_the_trunk_holds_at_the_last_token():
    model = tiny_talker()
    texts = ["a", "What does the owl eat?", "x" * 100]
    with Engine(model, dtype="float32", kernels="reference", slots=2) as engine:
        states = engine.states(texts)
        for text, state in zip(texts, states, strict=True):
            assert torch.allclose(state, plain(model, engine.encode(text)), atol=1e-5)


def test_a_state_is_the_same_where_the_slot_holds_the_text_already():
    model = tiny_talker()
    with Engine(model, dtype="float32", kernels="reference", slots=1) as engine:
        alone = engine.states(["Where is the sea?"])
        engine.generate(["Where is the sea?"], max_tokens=4)
        assert torch.allclose(engine.states(["Where is the sea?"]), alone, atol=1e-5)
        assert (
            engine.generate(["Where is the sea?"], max_tokens=4)[0].tokens
            == Engine(model, dtype="float32", kernels="reference").generate(["Where is the sea?"], max_tokens=4)[0].tokens
        )


def test_no_prompts_have_no_states_and_long_ones_are_refused():
    with Engine(tiny_talker(), dtype="float32", context=32) as engine:
        assert engine.states([]).shape == (0, 32)
        with pytest.raises(ContextLengthError):
            engine.states(["y" * 40])
